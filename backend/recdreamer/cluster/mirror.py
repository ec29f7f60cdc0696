"""What comes back of a job from a node into its folder here: in which order, and what may."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from recdreamer.cluster import parcel
from recdreamer.cluster.host import CARRIED, RETURNED, SINGLY
from recdreamer.shared.protocol import TEMPORARY, JobFolder, JobRequest
from recdreamer.shared.safe_files import confined, is_inside

CHECKPOINTS = "checkpoints/"
EARLIER = "checkpoints/earlier"
"""What a repeated stage will replace; it stays where it is."""
FIRST = ("templates", "config.json")
"""What a worker that resumes expects beside its checkpoints."""


class Mirror:
    """What has come back of a job."""

    def __init__(self, job: JobFolder, request: JobRequest) -> None:
        self._job = job
        self._given = {template.image for template in request.templates}
        self.stamps: dict[str, str] = {}
        """Unit -> its stamp on the node when it was the same here."""
        self.has_checkpoint = False
        """Whether one has come back."""

    def next(self, units: dict[str, str], shown: Iterable[str] = ()) -> str:
        """The unit to fetch next, of those on the node with their stamps; empty if there is none.

        First the newest of the pictures that are to be `shown`, which somebody waits for. The checkpoints of complete
        stages come before those within a stage, which are worth nothing without; of these only the newest of its stage
        is worth the way. The result comes last.
        """
        new = [
            unit for unit, stamp in units.items() if self.stamps.get(unit) != stamp and self._may_come(unit)
        ]
        for unit in reversed([*shown]):
            if unit in new:
                return unit
        newest = {_stage(unit): unit for unit in sorted(units, key=lambda unit: _time_of(units[unit]))}
        wanted = [
            unit
            for unit in new
            if not unit.startswith(CHECKPOINTS) or unit.endswith("-final") or newest[_stage(unit)] == unit
        ]
        return min(wanted, key=lambda unit: (_rank(unit), _time_of(units[unit]), unit), default="")

    def place(self, unit: str, stamp: str, data: bytes, units: dict[str, str]) -> None:
        """Put a unit into the folder, and remove the earlier checkpoints that are gone on the node.

        Raises RequestError if it is damaged or something else, OSError if it cannot be written.
        """
        parcel.place(data, self._job.root, unit)
        self.stamps[unit] = stamp
        if unit.startswith(CHECKPOINTS):
            self.has_checkpoint = True
            for other in [
                known for known in self.stamps if known.startswith(CHECKPOINTS) and known not in units
            ]:
                shutil.rmtree(confined(self._job.root, other), ignore_errors=True)
                del self.stamps[other]

    def remove_others(self, units: dict[str, str]) -> None:
        """Remove the checkpoints that the node has not, at its end."""
        for path in self._job.checkpoints.iterdir() if self._job.checkpoints.is_dir() else ():
            if f"{CHECKPOINTS}{path.name}" not in units and not path.name.startswith(TEMPORARY):
                shutil.rmtree(path, ignore_errors=True)

    def _may_come(self, unit: str) -> bool:
        """Whether this is something that a worker makes: no request, no state, and no picture of the artist's."""
        first, *rest = unit.split("/")
        is_ours = is_inside(unit) and first in RETURNED and len(rest) == (first in SINGLY)
        return is_ours and not unit.split("/")[-1].startswith(".") and unit not in (*self._given, EARLIER)


def _stage(unit: str) -> str:
    """The stage of a checkpoint within it, and of one at its end: they are told apart.

    >>> _stage("checkpoints/shape-00000100"), _stage("checkpoints/shape-00000200-final")
    ('checkpoints/shape', 'checkpoints/shape-final')
    """
    return f"{unit.partition('-')[0]}{'-final' if unit.endswith('-final') else ''}"


def _time_of(stamp: str) -> int:
    """When a unit was changed, by the clock of the node."""
    return int(stamp.partition("-")[0])


def _rank(unit: str) -> tuple[int, int]:
    """Order of the kinds of units.

    >>> units = ["result", "checkpoints/shape-00000100", "checkpoints/shape-00000200-final", "config.json", "check"]
    >>> sorted(units, key=_rank)
    ['config.json', 'checkpoints/shape-00000200-final', 'checkpoints/shape-00000100', 'check', 'result']
    """
    first = unit.split("/")[0]
    if first in FIRST:
        return 0, 0
    if unit.startswith(CHECKPOINTS):
        return 1, not unit.endswith("-final")
    return 2, RETURNED.index(first)


def carried_names(job: JobFolder) -> list[str]:
    """What a node needs of a job folder: of checkpoints that a repeat will replace only that it is one."""
    names = [name for name in CARRIED if name != "checkpoints"]
    for path in sorted(job.checkpoints.iterdir()) if job.checkpoints.is_dir() else ():
        if not path.name.startswith(TEMPORARY):
            name = f"{CHECKPOINTS}{path.name}"
            names.append(f"{name}/again.json" if name == EARLIER else name)
    return names
