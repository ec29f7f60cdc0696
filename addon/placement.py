"""What a job that starts from an object keeps beside its request, to put the result back. No bpy here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..backend.recdreamer.protocol import JobFolder, RequestError

# Inside the job folder; the backend reads only the first of them.
START_MESH, START_LOOPS, PLACEMENT = "start/mesh.npz", "start/loops.npz", "start/placement.json"


@dataclass(frozen=True)
class Placement:
    """The object that a job started from, and where it stood."""

    object: str
    object_id: str
    """Stays with the object when it is renamed; may be empty."""
    children: list[str]
    """Other objects that were taken along."""
    place_m: tuple[float, float, float]
    """Middle of the base in the world, in metres: the origin of the job's mesh."""
    front_deg: float
    """Which way its front looked: 0 is -Y, 90 is +X. That of the job's mesh looks along -Y."""
    uv_map: str
    """The UV map that the job was given; empty: the object had none."""
    region: str
    """The vertex group that may change; empty: all of it."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def read(cls, folder: JobFolder) -> Placement:
        """That of a job. Raises RequestError when it is missing or damaged."""
        try:
            return cls(**json.loads((folder.root / PLACEMENT).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RequestError(
                f"This job no longer knows the object that it started from ({error}).", "Start it again."
            ) from error
