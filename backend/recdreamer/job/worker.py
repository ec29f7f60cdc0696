"""Runs one job folder in a process of its own: `python -m recdreamer run <job folder>`.

Exit codes: 0 done · 1 failed (one `error` event says why) · 3 paused, run it again to resume · 4 cancelled.
Events go to the original standard output and to events.jsonl; everything that is printed goes to log.txt.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recdreamer import __version__
from recdreamer.job.errors import explain
from recdreamer.job.eta import RemainingTime
from recdreamer.job.process import (
    EventPipe,
    StopRequests,
    fill_standard_descriptors,
    send_prints_to,
    stay_offline,
)
from recdreamer.job.repeat import begin_again, is_repeated, put_back
from recdreamer.report import Cancelled, JobError, Paused, Report
from recdreamer.shared.folder_lock import FolderBusy, FolderLock, take_stop_request, taken_over
from recdreamer.shared.protocol import (
    HEARTBEAT_S,
    PROTOCOL_VERSION,
    JobFolder,
    JobRequest,
    RequestError,
    Stage,
    Status,
    write_atomically,
)
from recdreamer.shared.safe_files import open_regular, sweep_temporaries

DONE, FAILED, PAUSED, CANCELLED = 0, 1, 3, 4
PROGRESS_EVENT_S = 0.2
"""Minimum time between progress events; the heart-beat updates the state file."""

Again = tuple[Stage, int | None]
"""A stage to repeat, and its seed; None = the job's seed."""
DoWork = Callable[[JobFolder, JobRequest, Report], None]
"""Starts or resumes a job and leaves the result in `job.result`."""


def run(folder: Path, work: DoWork, again: Again | None = None) -> int:
    """Run or resume a job in this process, which has no other task. Returns the exit code.

    `again`: repeat a stage and all later ones. If that fails or is cancelled, the job stays as it was.
    """
    stay_offline()
    job = JobFolder(Path(folder).absolute())
    fill_standard_descriptors()
    pipe = EventPipe()
    hello = {"type": "hello", "protocol": PROTOCOL_VERSION, "version": __version__, "device": "auto"}
    try:
        try:
            request, trouble = job.read_request(), None
            hello["device"] = request.device
        except RequestError as error:
            request, trouble = None, error
        pipe.send(_line(hello))
        if not job.root.is_dir():
            raise RequestError(f"There is no job folder {job.root}.", "Choose a folder that has a job.json.")
        job.check()
        lock = _lock(job)
        send_prints_to(job.log)
        reporter = JobReport(job, pipe, hello, lock)
    except (OSError, ValueError, JobError) as error:
        # The folder is in use or cannot be written, so only the caller gets the error.
        failure = explain(error, str(job.root))
        pipe.send(_line(_error_event(failure)))
        pipe.close()
        return FAILED
    try:
        return _work(job, request, trouble, work, reporter, again)
    finally:
        pipe.close()
        lock.release()


def _lock(job: JobFolder) -> FolderLock:
    """The lock on the job. Raises JobError "busy" if another worker runs it, here or on another computer."""
    state = job.read_state()
    host = job.running_on(state)
    if not host:
        with suppress(FolderBusy):
            return FolderLock(job.root)
    who = f"process {state.pid}" if state.pid else ""
    if host not in ("", socket.gethostname()):
        who = f"{who} on {host}".strip()
    raise JobError(
        "busy",
        f"Another worker{f' ({who})' if who else ''} is already running this job.",
        "Wait until it ends, or stop it first.",
    )


def _work(
    job: JobFolder,
    request: JobRequest | None,
    trouble: RequestError | None,
    work: DoWork,
    report: JobReport,
    again: Again | None,
) -> int:
    """The job from hello to its last event, which is sent however the job ends."""
    try:
        if request is None:
            raise trouble or AssertionError("no request")
        if again is not None:
            begin_again(job, request, *again)
        elif not is_repeated(job):
            put_back(job)
        if job.read_state().status == "done" and job.result.is_dir() and not is_repeated(job):
            report.finish("done", {"type": "result", "path": job.result.name})
            return DONE
        report.begin(stop_at_end=not request.keep_running)
        work(job, request, report)
        report.check_folder()
        report.finish("done", {"type": "result", "path": job.result.name})
        return DONE
    except Paused:
        report.finish("paused", {"type": "paused"})
        return PAUSED
    except Cancelled:
        report.finish("done" if _keeps_result(job) else "cancelled", {"type": "cancelled"})
        return CANCELLED
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        failure, status = report.loss() or explain(error), "failed"
        if report.loss() is None and _keeps_result(job):
            hint = "The earlier result is kept; repeat the stage when the cause is fixed."
            failure, status = JobError(failure.kind, failure.message, hint), "done"
        elif again is not None and request is not None:
            # Refused before any change, but the caller may have written another status.
            status = "paused" if is_repeated(job) else "done" if job.result.is_dir() else "failed"
        report.finish(status, _error_event(failure), failure)
        return FAILED


def _keeps_result(job: JobFolder) -> bool:
    """Abandon a repeat, if one is under way. Returns whether the job has its earlier result back."""
    try:
        return is_repeated(job) and put_back(job) and job.result.is_dir()
    except (OSError, RequestError):
        traceback.print_exc()  # The next run completes it.
        return False


class JobReport:
    """The Report of a worker: writes events and state.json with its heart-beat, and checks for requests to stop."""

    def __init__(self, job: JobFolder, pipe: EventPipe, hello: dict[str, Any], folder: FolderLock) -> None:
        """Raises OSError if the job folder cannot be written."""
        self._job = job
        self._folder = folder
        self._token = secrets.token_hex(8)
        self._loss: JobError | None = None
        self._pipe = pipe
        self._stop = StopRequests()
        # Preview and progress of an earlier run stay visible; its status and error do not.
        self._state = job.read_state()
        handle = open_regular(job.events, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._events = os.fdopen(handle, "a+b", buffering=0)
        self._end_torn_line()
        self._events.write(_line(hello).encode("utf-8") + b"\n")
        take_stop_request(job.root)  # For an earlier worker.
        sweep_temporaries(job.root, job.previews, job.templates, job.result)
        self._clock = RemainingTime(time.monotonic())
        self._progress_sent_s = -math.inf
        self._lock = threading.Lock()
        # Separate from the lock of the values, so that no step waits for a slow disk.
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._keep_beating, name="heart-beat", daemon=True)

    def begin(self, stop_at_end: bool) -> None:
        """Mark the job as running and start the heart-beat."""
        self._stop.listen(stop_at_end)
        self._state.status, self._state.pid = "running", os.getpid()
        self._state.host, self._state.token = socket.gethostname(), self._token
        self._state.message = self._state.hint = self._state.kind = ""
        self._state.eta_s = None
        self._write_state()
        self._beat.start()

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None:
        self._clock.start_stage(time.monotonic(), span or (index / count, (index + 1) / count))
        with self._lock:
            self._state.stage, self._state.step, self._state.total = name, 0, 0
            self._state.it_per_s = 0.0
        self._write_state()
        self._send({"type": "stage", "name": name, "index": index, "count": count})
        self._raise_if_asked()

    def progress(self, step: int, total: int) -> None:
        now_s = time.monotonic()
        self._clock.tick(now_s, step, total)
        with self._lock:
            state = self._state
            state.step, state.total = step, total
            state.it_per_s = round(self._clock.it_per_s, 3)
        if now_s - self._progress_sent_s >= PROGRESS_EVENT_S or step >= total:
            self._progress_sent_s = now_s
            eta_s = self._clock.eta_s(now_s)
            self._send(
                {
                    "type": "progress",
                    "step": step,
                    "total": total,
                    "it_per_s": state.it_per_s,
                    "eta_s": None if eta_s is None else round(eta_s, 1),
                }
            )
        self._raise_if_asked()

    def preview(self, path: Path) -> None:
        path = Path(path)
        relative = (path.relative_to(self._job.root) if path.is_absolute() else path).as_posix()
        with self._lock:
            self._state.preview = relative
        self._send({"type": "preview", "path": relative})

    def pose_distribution(self, probs: dict[str, float]) -> None:
        for label, value in probs.items():
            self._refuse_non_finite(f"The share of pose {label}", value)
        with self._lock:
            self._state.pose_distribution = dict(probs)
        self._send({"type": "pose_distribution", "probs": probs})

    def warning(self, message: str) -> None:
        print(message, file=sys.stderr)
        with self._lock:
            self._state.message, self._state.kind = message, ""
        self._send({"type": "warning", "message": message})

    def finish(self, status: Status, event: dict[str, Any], failure: JobError | None = None) -> None:
        """Write the final state, then the last event, so that its reader finds the state final."""
        self._ended.set()
        if self._beat.is_alive():
            self._beat.join()
        if self._loss is not None:  # The folder belongs to another worker, or to nobody.
            self._pipe.send(_line(event))
            self._events.close()
            return
        self._state.status, self._state.pid, self._state.eta_s = status, None, None
        if failure is not None:
            self._state.message, self._state.hint = failure.message, failure.hint
            self._state.kind = failure.kind
        # A full disk may be the reason for the failure. The pipe still carries the event.
        with suppress(OSError):
            self._write_state()
        with suppress(OSError):
            self._send(event)
        self._events.close()

    def loss(self) -> JobError | None:
        """Why the folder is not ours any more, if so."""
        if self._loss is None:
            try:
                self._folder.keep()
                if self._beat.ident is not None and self._other_token():
                    raise taken_over(self._job.root)
            except RequestError as error:
                self._loss = JobError("folder", error.message, error.hint)
        return self._loss

    def check_folder(self) -> None:
        """Raise JobError "folder" if the folder is not ours any more."""
        if loss := self.loss():
            raise loss

    def _other_token(self) -> bool:
        """Whether a worker that sees no lock of ours, on another computer, has written its own state."""
        with self._writing:
            state = self._job.read_state()
        return state.status == "running" and state.token not in ("", self._token)

    def _raise_if_asked(self) -> None:
        if self._loss is not None or self._stop.asked:
            self.check_folder()
        if self._stop.asked == "cancel":
            raise Cancelled
        if self._stop.asked == "pause":
            raise Paused

    def _refuse_non_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise JobError(
                "non_finite",
                f"{name} became {value} at step {self._state.step} of {self._state.stage or 'the job'}.",
                "The last good checkpoint is kept; try another seed or a lower learning rate.",
            )

    def _send(self, event: dict[str, Any]) -> None:
        line = _line(event)
        self._pipe.send(line)
        self._events.write(line.encode("utf-8") + b"\n")

    def _end_torn_line(self) -> None:
        """Complete a line that a killed worker left half written, so that the next event begins a new one."""
        if self._events.seek(0, os.SEEK_END):
            self._events.seek(-1, os.SEEK_END)
            if self._events.read(1) != b"\n":
                self._events.write(b"\n")

    def _write_state(self) -> None:
        with self._writing:
            with self._lock:
                self._state.updated_s = time.time()
                text = json.dumps(asdict(self._state), indent=2, ensure_ascii=False)
            write_atomically(self._job.state, text)

    def _keep_beating(self) -> None:
        while not self._ended.wait(HEARTBEAT_S / 2):
            if self.loss() is not None:
                return  # The next report of progress ends the work.
            if command := take_stop_request(self._job.root):
                self._stop.ask(command)
            with self._lock:
                self._state.eta_s = self._clock.eta_s(time.monotonic())
            try:
                self._write_state()
            except OSError as error:
                print(f"state.json could not be written: {error}", file=sys.stderr)


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, allow_nan=False)


def _error_event(failure: JobError) -> dict[str, Any]:
    return {"type": "error", "kind": failure.kind, "message": failure.message, "hint": failure.hint}
