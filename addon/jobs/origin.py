"""What a job came from: another job, or a request of which there are several variations. No bpy here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

from ...backend.recdreamer.shared.json_values import known_fields, read_json
from ...backend.recdreamer.shared.protocol import JobFolder, JobRequest, RequestError
from ...backend.recdreamer.shared.safe_files import confined
from .placement import start_job_id

ORIGIN = "origin.json"
"""In the job folder. The backend does not read it."""
MAX_GROUP = 16
How = Literal["", "vary", "refine", "retry"]
BETTER = ("refine", "retry")
"""How a job comes from another one whose result it is meant to replace."""


@dataclass(frozen=True)
class Origin:
    """Where a job came from; all empty if it came from the panel."""

    how: How = ""
    of: str = ""
    """The earlier job: that of a draft, of a failed one, or the one that is continued."""
    group: tuple[str, ...] = field(default_factory=tuple)
    """The jobs that differ only by their seeds, this one among them."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def origin_of(folder: JobFolder, request: JobRequest | None) -> Origin:
    """What a job came from, by its folder; also of jobs that only continue another."""
    earlier = start_job_id(request) if request is not None and request.start == "continue" else ""
    try:
        read = Origin(**known_fields(Origin, read_json(confined(folder.root, ORIGIN))))
        group = tuple(str(name) for name in read.group)[:MAX_GROUP]
        return Origin(read.how, str(read.of) or earlier, group)
    except (RequestError, OSError, ValueError, TypeError):
        return Origin("", earlier)


def earlier_versions(folder: JobFolder, request: JobRequest | None) -> list[str]:
    """The jobs whose results this one is meant to replace, latest first: the draft of *Refine*, one that was retried."""
    own, found = folder.root.name, []
    while len(found) < MAX_GROUP:
        origin = origin_of(folder, request)
        if origin.how not in BETTER or not origin.of or origin.of in (own, *found):
            break
        found.append(origin.of)
        try:
            folder, request = JobFolder(confined(folder.root.parent, origin.of)), None
        except RequestError:
            break
    return found
