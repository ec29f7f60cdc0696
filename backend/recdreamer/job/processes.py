"""The processes of a job besides the worker's: started, watched and ended by it, or started by someone else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from recdreamer.job.errors import explain
from recdreamer.parallel import team
from recdreamer.report import JobError, Tick, no_tick
from recdreamer.shared.protocol import write_atomically

HOME = Path(__file__).resolve().parents[2]
"""Folder that has this package."""
WATCH_S = 0.2
FAILURE = "RECDREAMER_FAILURE"
"""Environment variable: the file for the reason why a process failed."""


def rank_by_environment() -> int:
    """The rank of this process if someone else has started all of them, as torchrun does; else 0."""
    return int(os.environ.get("RANK", "0") or 0)


def count_by_environment() -> int:
    return int(os.environ.get("WORLD_SIZE", "1") or 1)


def see_own_gpu() -> None:
    """Let this process see the GPU of its LOCAL_RANK alone, if it has one; before torch looks for GPUs."""
    if "LOCAL_RANK" in os.environ and count_by_environment() > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible_gpu(int(os.environ["LOCAL_RANK"]))


def _visible_gpu(number: int) -> str:
    """The name of a GPU for CUDA_VISIBLE_DEVICES. One that there is not leaves none, which choosing a device says."""
    visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return ",".join(visible[number : number + 1]) if visible else str(number)


@contextmanager
def shared(
    arguments: Sequence[str], processes: int, device: torch.device, tick: Tick = no_tick
) -> Iterator[None]:
    """Share the views of steps with other processes inside; this one has rank 0.

    `processes` of them run `recdreamer` with these arguments on this computer, unless someone else has started others.
    `tick` is called while they get ready, and may raise. Raises JobError if they cannot be started.
    """
    if count_by_environment() > 1:
        team.join(device, rank_by_environment(), count_by_environment(), waiting=tick)
        try:
            yield
        finally:
            team.leave()
        return
    if processes == 1:
        yield
        return
    _check(processes, device)
    limit_threads(processes, device)
    with tempfile.TemporaryDirectory(prefix="recdreamer-") as folder:
        others = _Others(arguments, processes, device, Path(folder))
        try:
            team.join(device, 0, processes, others.store, others.waiting(tick))
            team.on_loss(others.reason)
            yield
        finally:
            others.end()
            team.leave()


def _check(processes: int, device: torch.device) -> None:
    number = torch.cuda.device_count() if device.type == "cuda" else processes
    if number < processes:
        raise JobError(
            "device",
            f"{processes} processes need a GPU each, and this machine has {number}.",
            f"Set processes to {number}.",
        )
    if device.index:
        raise JobError(
            "device",
            f"The device {device} is one GPU, and {processes} processes need one each.",
            "Choose 'cuda', and the GPUs by the environment variable CUDA_VISIBLE_DEVICES.",
        )


def as_many_as_fit(num_views: int, device: torch.device) -> int:
    """A process for each GPU, or for each core on a CPU, up to one for each view."""
    return max(1, min(num_views, torch.cuda.device_count() if device.type == "cuda" else _cores()))


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(processes: int, device: torch.device) -> None:
    """Divide the cores among the processes of this computer."""
    if device.type == "cpu":
        torch.set_num_threads(max(1, min(torch.get_num_threads(), _cores() // processes)))


class _Others:
    """The processes of ranks 1 and up, on this computer. They end with the pipe to their standard input."""

    def __init__(self, arguments: Sequence[str], processes: int, device: torch.device, folder: Path) -> None:
        use_loopback()
        self.store, self._folder = team.own_port(), folder
        self._ended = threading.Event()
        self.running = {
            rank: subprocess.Popen(
                [sys.executable, "-P", "-m", "recdreamer", *arguments],
                stdin=subprocess.PIPE, cwd=HOME, env=self._environment(rank, processes, device),
            )
            for rank in range(1, processes)
        }  # fmt: skip
        # A signal for the worker is one for the worker alone: it saves, and then ends the others.
        threading.Thread(target=self._watch, name="processes", daemon=True).start()

    def _environment(self, rank: int, processes: int, device: torch.device) -> dict[str, str]:
        absolute = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(p)]  # noqa: PTH117
        own = {
            "RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": team.HERE, "MASTER_PORT": self.store.port,
            FAILURE: self._failure(rank),
        }  # fmt: skip
        if device.type == "cuda":
            # Here, as a library that looks for GPUs when it is imported would see all of them.
            own["CUDA_VISIBLE_DEVICES"] = _visible_gpu(rank)
        paths = os.pathsep.join(dict.fromkeys([str(HOME), *absolute]))
        return os.environ | {name: str(value) for name, value in own.items()} | {
            "PYTHONPATH": paths, "PYTHONSAFEPATH": "1",
        }  # fmt: skip

    def _failure(self, rank: int) -> Path:
        return self._folder / f"failure-{rank}.json"

    def waiting(self, tick: Tick) -> Callable[[], None]:
        """What to do until all are there: raises JobError if one has ended."""

        def wait() -> None:
            tick()
            if any(one.poll() is not None for one in self.running.values()):
                raise JobError(
                    "processes",
                    f"A process that should share the views has ended ({self.reason()}).",
                    "Set processes to 1, or see log.txt in the job folder.",
                )

        return wait

    def reason(self) -> str:
        """Why one has ended, in words. Waits a moment, as the loss is seen before the end."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for rank, process in self.running.items():
                if process.poll() is not None:
                    return self._reason_of(rank, process.returncode)
            time.sleep(0.05)
        return ""

    def _reason_of(self, rank: int, code: int) -> str:
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads(self._failure(rank).read_text(encoding="utf-8"))["message"]).rstrip(".")
        if code < 0:
            with suppress(ValueError):
                return f"it was killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_S):
            if any(process.poll() is not None for process in self.running.values()):
                if not self._ended.is_set():
                    team.give_up()
                return

    def end(self) -> None:
        """They hold nothing that is not here as well."""
        self._ended.set()
        for process in self.running.values():
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def use_loopback() -> None:
    """Let processes of one computer find each other, whatever its name resolves to."""
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def end_with_parent() -> None:
    """End this process when the pipe to its standard input ends, if it is one."""
    import stat

    if stat.S_ISFIFO(os.fstat(0).st_mode):

        def wait() -> None:
            while os.read(0, 4096):
                pass
            os._exit(1)

        threading.Thread(target=wait, name="parent", daemon=True).start()


def assist(device: torch.device, work: Callable[[], None]) -> int:
    """Be one of the processes that share views, of rank 1 or more. Returns the exit code.

    What goes wrong is told to the worker, if it has started this process, and else to the standard error.
    """
    try:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            # Of a terminal or a launcher; they reach the process of rank 0, which ends this one.
            if hasattr(signal, name) and FAILURE in os.environ:
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        limit_threads(int(os.environ.get("LOCAL_WORLD_SIZE", count_by_environment())), device)
        team.join(device, rank_by_environment(), count_by_environment())
        work()
        # Until the worker has written the result: it would take an end for a loss.
        while FAILURE in os.environ:
            time.sleep(1)
        team.leave()
        return 0
    except Exception as error:
        import traceback

        traceback.print_exc()
        failure = explain(error)
        if path := os.environ.get(FAILURE):
            with suppress(OSError):
                write_atomically(Path(path), json.dumps({"kind": failure.kind, "message": failure.message}))
        return 1
