"""Many jobs on a cluster whose workers, nodes and head are killed at random: does every job end once, with its result?

    python tools/cluster/proof.py --out out/cluster [--jobs 1000] [--kills 200] [--head-kills 3] [--seed 0]
    python tools/cluster/proof.py --out out/cluster-costs --costs

The jobs are stand-ins (`stand_in_worker.py`) whose result is known. Repeated, the command goes on where it stopped: jobs
that have ended and kills that were done are in OUT. It ends with OUT/report.json, and exit code 0 if everything holds.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from recdreamer.cluster.connection import Cluster
from recdreamer.cluster.destination import Destination, destination
from recdreamer.cluster.host import FOLDER
from recdreamer.cluster.submit import run_on
from recdreamer.report import JobError, NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically
from recdreamer.shared.safe_files import sweep_temporaries

from ray_nodes import Nodes
from stand_in_worker import DEFAULTS, expected

STAND_IN = Path(__file__).with_name("stand_in_worker.py")
BACKEND = Path(__file__).resolve().parents[2] / "backend"
KINDS = ("worker",) * 6 + ("host",) * 2 + ("node",) * 2
"""What is killed, drawn evenly: the worker of a job, the actor that hosts it, or a whole node."""
END_S = 20.0
"""Time for workers to save and end after their cluster has."""


class Counting(NullReport):
    """Counts what a job reports."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.events = 0

    def progress(self, step: int, total: int) -> None:
        self.events += 1

    def warning(self, message: str) -> None:
        self.warnings.append(message)


class Proof:
    """The jobs, the cluster, and who kills it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out.absolute()
        self.copies = self.out / "copies"
        self.copies.mkdir(parents=True, exist_ok=True)
        (self.out / "jobs").mkdir(exist_ok=True)
        self.random = random.Random(options.seed)
        self.ended = {line["seed"]: line for line in read_lines(self.out / "ended.jsonl")}
        self.kills = read_lines(self.out / "kills.jsonl")
        self.waiting: queue.Queue[int] = queue.Queue()
        for seed in range(options.jobs):
            if seed not in self.ended:
                self.waiting.put(seed)
        self.lock, self.is_up, self.running = threading.Lock(), threading.Event(), 0
        self.lost = self.resubmitted = self.events = 0
        self.troubles: list[str] = []

    def run(self) -> dict[str, Any]:
        """All jobs to their end. Returns the report."""
        started = time.monotonic()
        before = len(self.ended)
        self.nodes = Nodes(
            self.out, self.options.nodes, self.options.workers // self.options.nodes,
            environment={"PYTHONPATH": str(BACKEND), FOLDER: str(self.copies)},
        )  # fmt: skip
        # A connection to a dead head is given up after this; Ray's own value is 30.
        os.environ.update(self.nodes.environment, RAY_CLIENT_RECONNECT_GRACE_PERIOD="5")
        try:
            self.connect()
            threads = [
                threading.Thread(target=self.submit, daemon=True) for _ in range(self.options.in_flight)
            ]
            for thread in threads:
                thread.start()
            self.kill_along()
            for thread in threads:
                thread.join()
            self.cluster.close()
        finally:
            self.nodes.close()
        orphans = self.orphans()
        return self.report(time.monotonic() - started, len(self.ended) - before, orphans)

    def connect(self) -> None:
        self.to = stand_in_destination(self.nodes.address)
        self.cluster = Cluster(self.to)
        self.is_up.set()

    def submit(self) -> None:
        """Submit one job after another; again, after the head has died."""
        while True:
            try:
                seed = self.waiting.get(timeout=1)
            except queue.Empty:
                if len(self.ended) + len(self.troubles) >= self.options.jobs:
                    return
                continue
            self.is_up.wait()
            report = Counting()
            job, request = prepared(self.out / "jobs" / f"{seed:05d}", seed, self.out / "ledger.txt")
            begun = time.monotonic()
            try:
                with self.counted():
                    run_on(self.cluster, self.to, job, request, report)
            except JobError as error:
                with self.lock:
                    if error.kind == "cluster" and "not answer any more" in error.message:
                        self.resubmitted += 1
                        self.is_up.clear()
                        self.waiting.put(seed)
                    else:
                        self.troubles.append(f"{seed}: {error}")
                continue
            except Exception as error:
                self.troubles.append(f"{seed}: {type(error).__name__}: {error}")
                continue
            x = json.loads((job.result / "report.json").read_text())["x"]
            line = {
                "seed": seed,
                "x": x,
                "losses": len(report.warnings),
                "s": round(time.monotonic() - begun, 2),
            }
            with self.lock:
                append(self.out / "ended.jsonl", line)
                if seed in self.ended:
                    self.troubles.append(f"{seed} has ended twice")
                self.ended[seed] = line
                self.lost += len(report.warnings)
                self.events += report.events

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One more job is running, inside."""
        with self.lock:
            self.running += 1
        try:
            yield
        finally:
            with self.lock:
                self.running -= 1

    def kill_along(self) -> None:
        """Spread the kills over the jobs, those of the head among them."""
        jobs, kills, heads = self.options.jobs, self.options.kills, self.options.head_kills
        moments = [(jobs * (i + 0.5) / kills, "any") for i in range(kills)]
        moments += [(jobs * (i + 1) / (heads + 1), "head") for i in range(heads)]
        for moment, kind in sorted(moments)[len(self.kills) :]:
            while len(self.ended) < moment:
                if len(self.ended) + len(self.troubles) >= jobs:
                    return
                time.sleep(0.02)
                if not self.is_up.is_set():
                    self.restart()  # The head has died by itself.
            kind = self.random.choice(KINDS) if kind == "any" else kind
            if self.kill(kind):
                self.kills.append({"kind": kind, "after": len(self.ended)})
                append(self.out / "kills.jsonl", self.kills[-1])

    def kill(self, kind: str) -> bool:
        """Whether there was one to kill: after the last job there is none."""
        if kind == "head":
            self.nodes.ask("kill_head")
            self.is_up.clear()
            self.restart()
        elif kind == "node":
            self.nodes.ask("kill", self.random.randrange(self.options.nodes))
            self.nodes.ask("add")
        else:
            end_s = time.monotonic() + 30
            while time.monotonic() < end_s:
                if found := self.processes(kind):
                    with suppress(ProcessLookupError):
                        os.kill(self.random.choice(found), signal.SIGKILL)
                        return True
                if len(self.ended) + len(self.troubles) >= self.options.jobs:
                    return False
                time.sleep(0.05)
            raise TimeoutError(f"there is no {kind} to kill")
        return True

    def restart(self) -> None:
        """A new cluster when every job has noticed the end of the old one."""
        end_s = time.monotonic() + 180
        while self.running and time.monotonic() < end_s:
            time.sleep(0.1)
        self.cluster.close()
        self.nodes.close()
        self.nodes.start()
        self.connect()

    def processes(self, kind: str) -> list[int]:
        """Numbers of those processes of this cluster, and of no other."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes()
                is_worker = STAND_IN.name.encode() in words and str(self.copies).encode() in words
                is_host = words.startswith(b"ray::JobHost") and self._is_ours(entry)
            except OSError:
                continue
            if {"worker": is_worker, "host": is_host}[kind]:
                found.append(int(entry.name))
        return sorted(found)

    def _is_ours(self, entry: Path) -> bool:
        return f"RAY_AUTH_TOKEN_PATH={self.out / 'token'}".encode() in (entry / "environ").read_bytes()

    def orphans(self) -> int:
        """Workers and hosts that are left after END_S."""
        end_s = time.monotonic() + END_S
        while (left := self.processes("worker") + self.processes("host")) and time.monotonic() < end_s:
            time.sleep(0.2)
        return len(left)

    def report(self, seconds: float, ended_now: int, orphans: int) -> dict[str, Any]:
        jobs = self.options.jobs
        wrong = [
            seed for seed, line in self.ended.items() if line["x"] != expected(seed, DEFAULTS["num_steps"])
        ]
        finished = len((self.out / "ledger.txt").read_text().splitlines())
        kinds = [kill["kind"] for kill in self.kills]
        return {
            "jobs": jobs,
            "ended once": len(self.ended),
            "lines of ended jobs": len(read_lines(self.out / "ended.jsonl")),
            "lost": jobs - len(self.ended),
            "wrong results": len(wrong),
            "kills": {kind: kinds.count(kind) for kind in sorted({*kinds})},
            "attempts lost": sum(line["losses"] for line in self.ended.values()),
            "submitted again after the head died": self.resubmitted,
            "runs that were finished on a node": finished,
            "orphans": orphans,
            "troubles": self.troubles,
            "seconds of this run": round(seconds, 1),
            "jobs per minute": round(60 * ended_now / seconds, 1),
        }


def stand_in_destination(address: str) -> Destination:
    return replace(destination(address, gpus=0.0), program=(sys.executable, "-P", str(STAND_IN)))


def prepared(folder: Path, seed: int, ledger: Path, **overrides: Any) -> tuple[JobFolder, JobRequest]:
    """The folder of a job, as its first submission left it or new."""
    job = JobFolder(folder)
    request = JobRequest(
        "a red bear", seed=seed, device="cpu", overrides={"ledger": str(ledger), **overrides}
    )
    if not job.request.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(job.request, request.to_json())
    sweep_temporaries(folder)
    return job, request


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, without one that was torn."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def holds(report: dict[str, Any]) -> bool:
    """Whether every job has ended once, right, and nothing is left over."""
    is_whole = report["jobs"] == report["ended once"] == report["lines of ended jobs"]
    return is_whole and not (report["wrong results"] or report["orphans"] or report["troubles"])


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--head-kills", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--workers", type=int, default=8, help="jobs at a time, over all nodes")
    parser.add_argument("--in-flight", type=int, default=12, help="jobs that are submitted at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--costs", action="store_true", help="measure what jobs and events cost instead")
    return parser.parse_args(arguments)


def main() -> int:
    options = parsed()
    if options.costs:
        from costs import measure

        report = measure(options)
        is_good = True
    else:
        report = Proof(options).run()
        is_good = holds(report)
    text = json.dumps(report, indent=2)
    write_atomically(options.out / "report.json", text)
    print(text)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
