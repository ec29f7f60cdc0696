"""The jobs that wait for their turn: one small file each in the data folder, which all Blenders of this user share.

Whoever removes the file starts the job, so no job is started twice; the files are there after a restart. No bpy here.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ...backend.recdreamer.shared.json_values import known_fields, read_json
from ...backend.recdreamer.shared.protocol import RequestError, write_atomically
from ...backend.recdreamer.shared.safe_files import reason_of

SUFFIX, HELD = ".json", "held"
MAX_WAITING = 1000
"""More files than anybody has put there by hand."""


SETTLED_S = 2.0
"""After this time a change has another time stamp, on every file system."""


@dataclass(frozen=True)
class Turn:
    """A job that waits, and what to do with it."""

    job_id: str
    place: float
    """Smaller numbers come first."""
    again: str = ""
    """The stage to redo; empty: run or resume the job."""
    seed: int = 0
    """Of the stages that are redone."""


class Queue:
    """The waiting jobs of a data folder in the order of their turns, and whether they are held back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.turns: list[Turn] = []
        self.is_held = False
        """True after the artist has held the queue: nothing starts by itself."""
        self._seen_at: tuple[int, float] = (-1, 0.0)
        """Time stamp of the folder when it was read, and when that was."""
        self._known: dict[str, tuple[tuple[int, int], Turn | None]] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read the folder, if anything in it may be new. True if something changed."""
        try:
            stamp = self.folder.stat().st_mtime_ns
        except OSError:
            stamp = 0
        # Two changes at nearly the same time may have the same stamp.
        if self._seen_at[0] == stamp and self._seen_at[1] > stamp / 1e9 + SETTLED_S:
            return False
        self._seen_at = (stamp, time.time())
        before, found, is_held = (self.turns, self.is_held), {}, False
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                is_held |= entry.name == HELD
                if entry.name.endswith(SUFFIX) and len(found) < MAX_WAITING:
                    with suppress(OSError):  # Another Blender may have removed it just now.
                        status = entry.stat(follow_symlinks=False)
                        found[entry.name] = (status.st_mtime_ns, status.st_ino)
        for name in self._known.keys() - found.keys():
            del self._known[name]
        for name, stamp in found.items():
            if name not in self._known or self._known[name][0] != stamp:
                self._known[name] = (stamp, _read(self.folder / name))
        turns = [turn for _, turn in self._known.values() if turn is not None]
        self.turns = sorted(turns, key=lambda turn: (turn.place, turn.job_id))
        self.is_held = is_held
        return before != (self.turns, self.is_held)

    def find(self, job_id: str) -> Turn | None:
        return next((turn for turn in self.turns if turn.job_id == job_id), None)

    def add(self, job_id: str, again: str = "", seed: int = 0, *, first: bool = False) -> Turn:
        """Let a job wait, as the last or the first one. Raises RequestError if that cannot be written."""
        self.refresh()
        places = [turn.place for turn in self.turns if turn.job_id != job_id] or [0.0]
        turn = Turn(job_id, min(places) - 1 if first else max(places) + 1, again, seed)
        self._write(turn)
        return turn

    def take(self, job_id: str) -> bool:
        """Remove a job from the queue. False if it is not there, or another Blender was faster."""
        try:
            (self.folder / f"{job_id}{SUFFIX}").unlink()
        except OSError:
            return False
        finally:
            self.refresh()
        return True

    def put_back(self, turn: Turn) -> None:
        """Let a job wait at the place that it had. Raises RequestError."""
        self._write(turn)

    def move(self, job_id: str, by: int) -> None:
        """Exchange places with the job `by` places later, or earlier if it is negative. Raises RequestError."""
        self.refresh()
        index = next((i for i, turn in enumerate(self.turns) if turn.job_id == job_id), None)
        if index is None or not 0 <= index + by < len(self.turns):
            return
        order = list(self.turns)
        order.insert(index + by, order.pop(index))
        for place, turn in enumerate(order):
            if turn.place != place:
                self._write(Turn(turn.job_id, float(place), turn.again, turn.seed))

    def hold(self, is_held: bool) -> None:
        """Let nothing start by itself, or go on. Raises RequestError."""
        path = self.folder / HELD
        try:
            if is_held:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(path, "")
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise _cannot_be_written(self.folder, error) from error
        self.refresh()

    def _write(self, turn: Turn) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{turn.job_id}{SUFFIX}", json.dumps(asdict(turn)))
        except OSError as error:
            raise _cannot_be_written(self.folder, error) from error
        self.refresh()


def _read(path: Path) -> Turn | None:
    """A turn; None if the file is damaged. Its name says which job it is, whatever it holds."""
    try:
        turn = Turn(**known_fields(Turn, read_json(path)) | {"job_id": path.name.removesuffix(SUFFIX)})
        return turn if abs(turn.place) < 1e12 else None
    except (RequestError, OSError, ValueError, TypeError):
        return None


def _cannot_be_written(folder: Path, error: OSError) -> RequestError:
    return RequestError(
        f"The queue cannot be written to {folder} ({reason_of(error)}).",
        "Free some space or choose another data folder in the preferences.",
    )
