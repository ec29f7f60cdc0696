"""Runs a job on a cluster: the work of a local worker, done elsewhere.

For its caller this is a worker like any other: it holds the lock of the folder, keeps its state, sends events, and hears
requests to stop. It carries the folder to a host on a node (`host.py`), passes on what that reports, and brings back
checkpoints and previews as they appear and the result at the end. The folder here is the only record: when a node is
lost, another gets it with the newest checkpoint that has come back.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recdreamer import __version__
from recdreamer.cluster import parcel
from recdreamer.cluster.connection import Cluster, NodeLost
from recdreamer.cluster.destination import Destination, gpus_for
from recdreamer.cluster.host import EARLIER_JOB, JOB, SILENCE_S
from recdreamer.cluster.mirror import Mirror, carried_names
from recdreamer.job.repeat import is_repeated
from recdreamer.job.worker import CANCELLED, DONE, FAILED, PAUSED, Again, run
from recdreamer.report import Cancelled, JobError, Paused, Report
from recdreamer.shared.job_state import CLOCK_SKEW_S
from recdreamer.shared.json_values import parse_json
from recdreamer.shared.protocol import JobFolder, JobRequest, RequestError
from recdreamer.shared.safe_files import printable

PART = 2**20
"""Bytes of a file that one answer carries."""
NEWS_S = 0.5
"""Time between two questions for news."""
TURN_S = 0.5
"""Longest time for files between two questions for news."""
STOP_S = 55.0
"""Time for a worker to save and end, and for what it saved to come back: callers wait a little longer."""
PROCESSES = "processes"
"""Kind of the error of a job whose processes lost one another."""
MAX_LOSSES = 5
"""Times in a row that a job may be lost without getting on."""
SLOW_S = 30.0
"""A checkpoint that takes longer to arrive is worth a warning."""
CHECK_S = 1.0
"""Time between two looks for a request to stop, when nothing else happens."""
EARLIER_NAMES = ("job.json", "config.json", "seeds.json", "templates", "start", "checkpoints", "result")


def submit(folder: Path, where: Callable[[], Destination], again: Again | None = None) -> int:
    """Run or resume a job on a cluster in this process, which has no other task. Returns the exit code of a worker.

    `where` may raise RequestError: like every other trouble it becomes an event.
    """

    def work(job: JobFolder, request: JobRequest, report: Report) -> None:
        to = where()
        cluster = Cluster(to)
        try:
            run_on(cluster, to, job, request, report)
        finally:
            cluster.close()

    return run(folder, work, again)


def run_on(cluster: Cluster, to: Destination, job: JobFolder, request: JobRequest, report: Report) -> None:
    """Do the work of a job on a cluster, on one node after another if need be.

    The caller holds the lock of the folder. Raises what the work would raise here: JobError, Cancelled, Paused.
    """
    losses = 0
    while True:
        attempt, is_lost = Attempt(cluster, to, job, request, report), False
        try:
            return attempt.run()
        except NodeLost as loss:
            is_lost = True
            if attempt.stopping is not None:
                raise attempt.stopping from loss
            losses = 1 if attempt.has_got_on else losses + 1
            where = attempt.where or "the cluster"
            if losses >= MAX_LOSSES:
                raise JobError(
                    "cluster",
                    f"The job was lost {losses} times in a row without getting on, last on {where} ({loss}).",
                    "Look at the log of the node; resume the job to try again.",
                ) from loss
            report.warning(f"The job was lost on {where} ({loss}); it goes on from its newest checkpoint.")
        finally:
            attempt.end(is_lost)


class Attempt:
    """A job on one node, from its parcel to its end or its loss."""

    def __init__(
        self, cluster: Cluster, to: Destination, job: JobFolder, request: JobRequest, report: Report
    ) -> None:
        self._cluster, self._to, self._job, self._request, self._report = cluster, to, job, request, report
        # In a storage there may be another job of this name, and an earlier attempt at this one.
        self._name = f"{job.root.name}-{secrets.token_hex(4)}"
        self._host: Any = None
        self._others: list[Any] = []
        """Hosts of the processes of rank 1 and up, which only compute."""
        self._places: Any = None
        self._asked_others_s = time.monotonic()
        self._mirror = Mirror(job, request)
        self._fetch: Fetch | None = None
        self._previews: list[str] = []
        self._progress, self._checked_s = (0, 1), 0.0
        self._failure: JobError | None = None
        self._deadline_s, self._is_slow = 0.0, False
        self.where = ""
        """Name of the node."""
        self.stopping: Paused | Cancelled | None = None
        """What the caller was asked for."""

    @property
    def has_got_on(self) -> bool:
        """Whether a checkpoint has come back."""
        return self._mirror.has_checkpoint

    def run(self) -> None:
        """Raises NodeLost beside what the work raises."""
        self._find_node()
        self._carry()
        while True:
            news = self._ask("news", NEWS_S)
            print(news["log"], end="", flush=True)
            for line in news["lines"]:
                self._hear(line)
            if news["code"] is not None:
                return self._finish(news["code"], news["units"])
            self._take(news["units"], TURN_S)
            self._look_for_stop()
            self._keep_others()

    def end(self, is_lost: bool) -> None:
        """Let nothing of the attempt go on, or lie about, as far as its node can still be reached."""
        if self._host is not None:
            for host in (self._host, *self._others):
                self._cluster.end(host, gently=not is_lost and bool(self.where))
            if self._places is not None:
                self._cluster.give_back(self._places)
            if self._to.storage:
                with suppress(RequestError):
                    parcel.sweep(self._to.storage, self._name)

    def _find_node(self) -> None:
        """Wait for a free node, and see that it fits."""
        self._tell(lambda: self._report.stage("waiting", 0, 1))
        largest, total = self._cluster.gpus()
        gpus, count = gpus_for(self._request, self._to.gpus, largest), processes_of(self._request, self._to)
        if gpus * count > total:
            raise RequestError(
                f"The job needs {gpus * count:g} GPUs for {count} processes, but the cluster has {total:g}.",
                "Ask for fewer processes, or for a part of a GPU for each (--gpus).",
            )
        (self._host, *self._others), self._places = self._cluster.hosts(self._name, self._to, gpus, count)
        for host in (self._host, *self._others):
            promise = self._cluster.promise(host, "about")
            while not self._cluster.is_ready(promise, NEWS_S):
                self._look_for_stop()
                if self.stopping is not None:
                    raise self.stopping
        asked_s, about, heard_s = time.time(), self._ask("about"), time.time()
        self.where = printable(about["host"])[:100]
        if about["version"] != __version__:
            raise JobError(
                "cluster",
                f"The node {self.where} has RecDreamer {about['version']}, but this computer has {__version__}.",
                "Install the same version on both sides.",
            )
        if not asked_s - CLOCK_SKEW_S <= about["time_s"] <= heard_s + CLOCK_SKEW_S:
            skew_s = about["time_s"] - heard_s
            self._report.warning(
                f"The clock of the node {self.where} is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} "
                "that of this computer; the job is not affected, but the times in its log are."
            )

    def _carry(self) -> None:
        """Bring the folder to the node, and begin."""
        self._job.check()
        sources: list[parcel.Source] = [(self._job.root, carried_names(self._job), JOB)]
        earlier = Path(self._request.start_job)
        if self._request.start_job and earlier.is_dir():
            JobFolder(earlier).check()
            sources.append((earlier, EARLIER_NAMES, EARLIER_JOB))
        data, count = parcel.pack(*sources), 1 + len(self._others)
        where = self._ask("about")["address"], str(self._ask("free_port"))
        # Rank 0 first, which the others look for.
        for rank, host in enumerate((self._host, *self._others)):
            begun = self._bring(host, data, rank, variables_of(rank, count, *where))
            if "failure" in begun:
                raise JobError(*begun["failure"])
            if rank == 0:
                self._mirror.stamps = begun["units"]

    def _bring(self, host: Any, data: bytes, rank: int, variables: dict[str, str]) -> dict[str, Any]:
        """Bring a parcel to a host and begin there. Returns what `JobHost.begin` says."""
        if self._to.storage:
            note = parcel.put(self._to.storage, f"{self._name}/there-{rank}.parcel", data)
        else:
            note = {"name": "", "size": len(data), "sha256": parcel.digest(data)}
            for start in range(0, len(data), PART):
                self._cluster.answer(host, "receive", data[start : start + PART])
                self._look_for_stop()
                if self.stopping is not None:
                    raise self.stopping
        return self._cluster.answer(host, "begin", note, variables)

    def _keep_others(self) -> None:
        """Let the hosts that only compute know that somebody is there."""
        if self._others and time.monotonic() - self._asked_others_s > SILENCE_S / 4:
            self._asked_others_s = time.monotonic()
            for host in self._others:
                self._cluster.promise(host, "about")

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._cluster.answer(self._host, method, *arguments)

    def _look_for_stop(self) -> None:
        """Pass on a request to stop; once a second, because whoever asks for one also reports progress."""
        if self.stopping is not None and time.monotonic() > self._deadline_s:
            raise self.stopping
        if time.monotonic() - self._checked_s >= CHECK_S:
            self._tell(lambda: self._report.progress(*self._progress))

    def _tell(self, report: Callable[[], None]) -> None:
        """Report something. If the answer is a request to stop, the worker gets it."""
        if self.stopping is not None:
            return
        self._checked_s = time.monotonic()
        try:
            report()
        except (Paused, Cancelled) as stop:
            self.stopping, self._deadline_s = stop, time.monotonic() + STOP_S
            if self._host is not None:
                command = "pause" if isinstance(stop, Paused) else "cancel"
                self._cluster.promise(self._host, "ask_to_stop", command)

    def _hear(self, line: str) -> None:
        """Pass on an event of the worker."""
        try:
            event = parse_json(line)
        except ValueError:
            return  # Stray output of a library.
        report = self._report
        match event:
            case {"type": "stage", "name": str(name), "index": int(index), "count": int(count)} if count > 0:
                self._progress = (0, 1)
                self._tell(lambda: report.stage(name, index, count))
            case {"type": "progress", "step": int(step), "total": int(total)}:
                self._progress = (step, total)
                self._tell(lambda: report.progress(step, total))
            case {"type": "preview", "path": str(path)}:
                self._previews.append(path)
            case {"type": "pose_distribution", "probs": dict(probs)}:
                numbers = {label: float(p) for label, p in probs.items() if isinstance(p, int | float)}
                report.pose_distribution(numbers)
            case {"type": "warning", "message": str(message)}:
                report.warning(message)
            case {"type": "error", "kind": str(kind), "message": str(message), "hint": str(hint)}:
                self._failure = JobError(kind, f"{self.where}: {message}", hint)

    def _take(self, units: dict[str, str], limit_s: float) -> None:
        """Fetch what is new, for a limited time: the rest follows in the next turn."""
        end_s = time.monotonic() + limit_s
        while self._fetch is not None or (unit := self._mirror.next(units, self._previews)):
            if self._fetch is None:
                self._fetch = self._begin_fetch(unit, units[unit])
                continue
            fetch = self._fetch
            if len(fetch.data) == fetch.note["size"]:
                self._place(fetch, units)
                self._fetch = None
            elif time.monotonic() > end_s:
                return
            else:
                part = self._ask("part", fetch.unit, len(fetch.data), PART)
                if not part:
                    raise NodeLost("a file from it ends too early")
                fetch.data += part
                self._look_for_stop()

    def _begin_fetch(self, unit: str, stamp: str) -> Fetch | None:
        note = self._ask("pack", unit)
        if note is None:  # It was replaced meanwhile.
            self._mirror.stamps[unit] = stamp
            return None
        if "failure" in note:
            raise JobError(*note["failure"])
        data = parcel.take(self._to.storage, note) if self._to.storage else b""
        return Fetch(unit, stamp, note, bytearray(data))

    def _place(self, fetch: Fetch, units: dict[str, str]) -> None:
        self._mirror.place(fetch.unit, fetch.stamp, parcel.checked(bytes(fetch.data), fetch.note), units)
        if fetch.unit in self._previews:
            # Older ones would only be shown for a moment.
            del self._previews[: self._previews.index(fetch.unit) + 1]
            self._report.preview(Path(fetch.unit))
        took_s = time.monotonic() - fetch.begun_s
        if took_s > SLOW_S and not self._is_slow:
            self._is_slow = True
            self._report.warning(
                f"The link to the node {self.where} is slow: {fetch.unit} took {took_s:.0f} s to arrive, "
                "so that the loss of the node would cost as much more."
            )

    def _finish(self, code: int, units: dict[str, str]) -> None:
        """Bring back the rest, and end as the worker has ended."""
        if self._failure is not None and code not in (DONE, PAUSED, CANCELLED):
            code = FAILED  # On a full disk, Python itself cannot end well, and has another code for that.
        is_abandoned = code in (FAILED, CANCELLED) and is_repeated(
            self._job
        )  # The caller restores the earlier state.
        if code in (DONE, PAUSED, FAILED, CANCELLED) and not is_abandoned:
            self._take(units if code == DONE else {k: v for k, v in units.items() if k != "result"}, math.inf)
            if code in (DONE, PAUSED):
                self._mirror.remove_others(units)
        if code == DONE:
            if not self._job.result.is_dir():
                raise NodeLost("its result did not come back")
            return
        if code == FAILED and self._failure is not None:
            if self._failure.kind == PROCESSES and self._others:  # One of them is lost: all go on elsewhere.
                raise NodeLost(self._failure.message)
            raise self._failure
        if self.stopping is not None:
            raise self.stopping
        raise NodeLost(f"its worker ended with code {code}")


def processes_of(request: JobRequest, to: Destination) -> int:
    """Processes of a job: as asked for, or else as the job says; "as many as fit" is one, as each place is asked for.

    >>> processes_of(JobRequest("a bear", overrides={"processes": 2}), Destination("localhost:1"))
    2
    """
    said = request.overrides.get("processes", 1) if to.processes is None else to.processes
    return max(1, said) if isinstance(said, int) else 1


def variables_of(rank: int, count: int, address: str, port: str) -> dict[str, str]:
    """Environment variables by which a process finds the others, as torchrun sets them.

    Each host has a GPU of its own, so LOCAL_RANK is always 0: it means the only one that the process sees.
    """
    if count == 1:
        return {"RECDREAMER_PROCESSES": "1"}  # Whatever the job says: there is one place.
    numbers = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    return {name: str(number) for name, number in numbers.items()} | {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }


@dataclass
class Fetch:
    """A unit that is being fetched."""

    unit: str
    stamp: str
    note: dict[str, Any]
    data: bytearray
    begun_s: float = field(default_factory=time.monotonic)
