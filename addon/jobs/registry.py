"""Create, list, start and watch the jobs of a data folder, which is the only source of truth. No bpy here."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ...backend.recdreamer.shared.folder_lock import Command, ask_to_stop, is_locked
from ...backend.recdreamer.shared.protocol import (
    JobFolder,
    JobRequest,
    RequestError,
    write_atomically,
)
from ...backend.recdreamer.shared.safe_files import is_link, printable
from .. import trouble
from .client import CHECK_BACKEND, JobClient
from .job import Job
from .waiting import Queue, Turn

SHUT_DOWN_S = 0.3
"""Longest wait for workers to save and exit when Blender closes, which is to close at once; they need no Blender."""
OPENED_AT_ONCE, OPENED_PER_POLL, LOOKS_PER_POLL, NAMES_PER_POLL = 50, 2, 20, 1000
"""Job folders that are opened with the data folder and in each poll; how many idle ones a poll looks at, and how many
names it reads, so that thousands of them cost the user interface no more than a few."""
RACY_S = 2.0
"""A folder that has changed so recently may change again without another time stamp, so its entries are read once
more after this time."""


def default_data_folder() -> Path:
    """Per-user folder outside the extension, so that it survives updates, removal and new Blender versions."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "RecDreamer"
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/RecDreamer"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share")) / "recdreamer"


def writable_folder(path: Path) -> Path:
    """Create the folder if needed. Raises RequestError if it is not writable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".write-test"
        write_atomically(probe, "ok")
        probe.unlink()
    except OSError as error:
        is_full = error.errno in trouble.FULL
        raise RequestError(
            f"The data folder {path} cannot be written ({error.strerror or error}).",
            f"{'Free some space' if is_full else 'Make it writable'}, or choose another data folder in the preferences.",
        ) from error
    return path


class JobRegistry:
    """All jobs under one data folder, newest first."""

    def __init__(self, data_folder: Path) -> None:
        self.data_folder = data_folder
        self.jobs: list[Job] = []
        self._stamps: dict[str, tuple[int, int]] = {}
        self.queue = Queue(data_folder / "queue")
        self._marked: list[Turn] = []
        """The turns of the jobs that are marked as waiting."""
        self._waiting: list[Job] = []
        self._unopened: list[str] = []
        """Names of folders that are not opened yet, oldest first."""
        self._names: set[str] = set()
        """Of all folders that were seen."""
        self._seen_at: tuple[int, float] | None = None
        """Time stamp of the folder of jobs when its entries were read, and when that was."""
        self._reading: tuple[Iterator[os.DirEntry[str]], dict[str, os.DirEntry[str]], set[str]] | None = None
        """The entries of the folder of jobs that are still to be read, those that were, and the names known before."""
        self._next_look = 0
        self._ours: list[Job] = []
        """Jobs with a worker of this Blender. Looking for them among thousands would cost each poll milliseconds."""
        self.elsewhere: dict[str, Job] = {}
        """ID -> job with a worker of another Blender."""
        self.refresh(OPENED_AT_ONCE)

    @property
    def root(self) -> Path:
        return self.data_folder / "jobs"

    @property
    def is_behind(self) -> bool:
        """Whether there are folders that the next polls will find or open."""
        return bool(self._unopened) or self._reading is not None

    def find(self, job_id: str) -> Job | None:
        """The job of this ID; its folder is opened now if it was not yet."""
        if job_id in self._unopened:
            self._unopened.remove(job_id)
            self._add([job_id])
        return next((job for job in self.jobs if job.id == job_id), None)

    @property
    def working(self) -> list[Job]:
        """The jobs whose workers were started by this Blender."""
        return list(self._ours)

    @property
    def running(self) -> Job | None:
        """The newest job whose worker was started by this Blender."""
        return max(self._ours, key=lambda job: job.id, default=None)

    def create(
        self,
        request: JobRequest,
        images: Sequence[Path],
        files: Mapping[str, bytes] | None = None,
        job_id: str = "",
    ) -> Job:
        """Write a new job folder: one image per template of the request, other files by name, then job.json.

        Raises RequestError if the request cannot be run or the folder cannot be written.
        """
        request.validate()
        writable_folder(self.root)
        folder = JobFolder(self.root / (job_id or new_job_id(request.prompt)))
        request = write_request(folder, request, images, files)
        job = Job(folder, request, "")
        self.jobs.insert(0, job)
        self._names.add(folder.root.name)
        return job

    def enqueue(self, job: Job, again: str = "", seed: int = 0, *, first: bool = False) -> None:
        """Let a job wait for its turn: to run or resume, or to redo its stage `again`. Raises RequestError."""
        reason = job.why_not_repeat if again else job.why_not_resume
        if reason and job.condition != "waiting":
            raise RequestError(reason, "Choose another job.")
        self.queue.add(job.id, again, seed, first=first)
        job.is_waiting = True

    def leave_queue(self, job: Job) -> None:
        """Let a job wait no more; its folder stays, and it can be resumed."""
        self.queue.take(job.id)
        job.is_waiting = False

    def start(
        self,
        job: Job,
        command: Sequence[str],
        backend: Path,
        again: str = "",
        seed: int = 0,
        where: Sequence[str] = (),
    ) -> None:
        """Run or resume a job, or redo its stage `again` and all later ones with another seed.

        `where`: options of the worker for another place than this computer. Raises RequestError if the worker cannot be
        started.
        """
        reason = job.why_not_repeat if again else job.why_not_resume
        if reason:
            raise RequestError(reason, "Choose another job.")
        options = ["--again", again, "--seed", str(seed)] if again else []
        try:
            keeps = job.request is not None and job.request.keep_running
            job.client = JobClient(job.folder, command, backend, [*where, *options], self.data_folder, keeps)
        except OSError as error:
            if error.errno in trouble.FULL:
                raise RequestError("The disk is full.", "Free some space, and resume the job.") from error
            raise RequestError(
                f"The backend cannot be started ({error.strerror or error}).",
                CHECK_BACKEND,
            ) from error
        job.state = job.client.state
        self._ours.append(job)

    def ask_to_stop(self, job: Job, command: Command) -> None:
        """Ask the worker to save and exit: ours over its pipe, that of another Blender through the folder.

        Raises RequestError if the folder cannot be written.
        """
        if job.client is not None:
            job.client.ask_to_stop(command)
        elif job.condition == "running elsewhere":
            ask_to_stop(job.folder.root, command)

    def delete(self, job: Job) -> None:
        """Delete a job folder permanently, or only the link to one. The caller has asked the artist.

        Raises OSError, and RequestError if a worker runs, also on a job that is damaged.
        """
        if job.client is not None or job.condition == "running elsewhere" or is_locked(job.folder.root):
            raise RequestError("This job is running.", "Stop it first.")
        if is_link(job.folder.root):
            job.folder.root.unlink()
        else:
            shutil.rmtree(job.folder.root)
        self.queue.take(job.id)
        self.jobs.remove(job)

    def poll(self) -> bool:
        """Read news from workers and folders. True if something visible changed."""
        changed = False
        for job in list(self._ours):
            assert job.client is not None
            changed |= job.client.poll()
            job.state = job.client.state
            if job.client.is_settled:
                job.client = None
                self._ours.remove(job)
            job.update()
        return self.refresh(names=NAMES_PER_POLL) or changed

    def refresh(self, opened: int = OPENED_PER_POLL, names: int | None = None) -> bool:
        """Read changes from disk: all of jobs that run elsewhere, and a part of the others. True if something changed.

        At most `opened` new folders are opened, newest first, and of a folder that has changed that many `names` are read
        (None: all); the next polls do the rest.
        """
        changed = self._read_names(names)
        if self._unopened:
            self._unopened, now = self._unopened[:-opened], self._unopened[-opened:]
            self._add(now)
            changed = True
        for job in self._jobs_to_look_at():
            changed |= self._look_at(job)
        return self._read_queue() or changed

    def _read_queue(self) -> bool:
        """Mark the jobs that wait. True if something changed."""
        changed = self.queue.refresh()
        if self.queue.turns != self._marked:
            for job in self._waiting:
                job.is_waiting = False
            self._marked = list(self.queue.turns)
            self._waiting = [job for turn in self._marked if (job := self.find(turn.job_id)) is not None]
            for job in self._waiting:
                job.is_waiting = True
        return changed

    def _read_names(self, most: int | None = None) -> bool:
        """Find new folders, and drop those that are gone, if the folder of jobs has changed. True if there are any.

        At most `most` entries are read; the next call goes on.
        """
        if self._reading is None or most is None:
            stamp, now_s = self._stamp_of_names(), time.time()
            if self._reading is None and self._seen_at is not None and self._seen_at[0] == stamp:
                was_racy = self._seen_at[1] < stamp / 1e9 + RACY_S
                if not was_racy or now_s < stamp / 1e9 + RACY_S:
                    return False
            self._seen_at = (stamp, now_s)
            self._end_reading()
            try:
                entries: Iterator[os.DirEntry[str]] = os.scandir(self.root)
            except OSError:
                entries = iter(())
            self._reading = (entries, {}, set(self._names))
        entries, kinds, before = self._reading
        with suppress(OSError):
            for entry in entries:
                kinds[entry.name] = entry
                if most is not None and len(kinds) % most == 0:
                    return False
        self._reading = None
        # What we have made meanwhile may have been missed, and is known.
        gone = before - kinds.keys()
        new = [name for name in kinds.keys() - self._names if kinds[name].is_dir()]
        if not gone and not new:
            return False
        self.jobs = [job for job in self.jobs if job.folder.root.name not in gone or job.client is not None]
        self.elsewhere = {job_id: job for job_id, job in self.elsewhere.items() if job_id not in gone}
        self._names = (self._names - gone) | set(new)
        self._unopened = sorted([*(set(self._unopened) - gone), *new])
        return True

    def _end_reading(self) -> None:
        if self._reading is not None and hasattr(self._reading[0], "close"):
            self._reading[0].close()
        self._reading = None

    def _stamp_of_names(self) -> int:
        try:
            return self.root.stat().st_mtime_ns
        except OSError:
            return 0

    def _add(self, names: Sequence[str]) -> None:
        """Open these folders, in the order of their names."""
        # One that was deleted since its name was read is not there any more.
        folders = [JobFolder(self.root / name) for name in reversed(names) if (self.root / name).is_dir()]
        jobs = [self._open(folder) for folder in folders]
        for job in jobs:
            if not job.problem:
                self._look_at(job)
        is_last = not self.jobs or not jobs or jobs[0].id <= self.jobs[-1].id
        self.jobs = [*self.jobs, *jobs]
        if not is_last:  # To sort thousands takes a millisecond.
            self.jobs.sort(key=lambda job: job.id, reverse=True)

    def _jobs_to_look_at(self) -> list[Job]:
        """Those with a worker of another Blender, and when every folder is opened, the next few of the others."""
        chosen = dict(self.elsewhere)
        if not self._unopened:
            first = self._next_look if self._next_look < len(self.jobs) else 0
            self._next_look = first + LOOKS_PER_POLL
            chosen |= {job.id: job for job in self.jobs[first : self._next_look]}
        return [job for job in chosen.values() if job.client is None and not job.problem]

    def shut_down(self, timeout_s: float = SHUT_DOWN_S, *, kill: bool = True) -> None:
        """Make every worker save and exit, except those that are to keep running.

        After `timeout_s` the others are killed, or left to do it by themselves.
        """
        self._end_reading()
        clients = [(job, job.client) for job in self._ours if job.client is not None]
        self._ours = []
        for job, client in clients:
            client.let_go()
            job.client = None
        deadline = time.monotonic() + timeout_s
        for job, client in clients:
            if not client.keeps_running:
                has_ended = client.shut_down(max(0.0, deadline - time.monotonic()), kill=kill)
                job.state = client.state if has_ended else job.folder.read_state()

    def _open(self, folder: JobFolder) -> Job:
        try:
            if printable(folder.root.name) != folder.root.name:
                raise RequestError("The name of this job folder has odd characters.", "Rename or delete it.")
            return Job(folder, folder.read_request(), "")
        except Exception as error:  # Anybody may have filled the folder, and the others are to be listed.
            return Job(folder, None, trouble.explain(error, "Reading this job"))

    def _look_at(self, job: Job) -> bool:
        """Look for news of a job in its folder. True if there are some."""
        before = (job.state, job.running_on, job.preview)
        try:
            self._read_state(job)
            job.update()
            if job.running_on:
                self.elsewhere[job.id] = job
            else:
                self.elsewhere.pop(job.id, None)
        except Exception as error:
            job.problem = trouble.explain(error, "Reading this job")
            return True
        return before != (job.state, job.running_on, job.preview)

    def _read_state(self, job: Job) -> None:
        """Read state.json if it was replaced since the last poll."""
        try:
            stat = job.folder.state.lstat()
        except OSError:
            return
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if self._stamps.get(job.id) != stamp:
            # One that replaces it at nearly the same time may have the same stamp.
            is_settled = time.time() > stat.st_mtime + RACY_S
            self._stamps[job.id] = stamp if is_settled else (0, 0)
            job.state = job.folder.read_state()


def write_request(
    folder: JobFolder,
    request: JobRequest,
    images: Sequence[Path],
    files: Mapping[str, bytes] | None = None,
) -> JobRequest:
    """Write one image per template and the files, then job.json. Returns the written request. Raises RequestError."""
    try:
        folder.templates.mkdir(parents=True)
        templates = []
        for index, (template, image) in enumerate(zip(request.templates, images, strict=True)):
            copy = folder.templates / f"{index}{image.suffix.lower()}"
            shutil.copyfile(image, copy)
            templates.append(replace(template, image=copy.relative_to(folder.root).as_posix()))
        for name, content in (files or {}).items():
            (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder.root / name, content)
        request = replace(request, templates=tuple(templates))
        write_atomically(folder.request, request.to_json())
    except OSError as error:
        shutil.rmtree(folder.root, ignore_errors=True)
        raise RequestError(
            f"The job cannot be written to {folder.root.parent} ({error.strerror or error}).",
            "Free some space or choose another data folder in the preferences.",
        ) from error
    return request


def new_job_id(prompt: str) -> str:
    """A folder name that sorts by time, is readable, and is valid in every file system."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:24].strip("-")
    parts = (time.strftime("%Y%m%d-%H%M%S"), words, secrets.token_hex(2))
    return "-".join(part for part in parts if part)
