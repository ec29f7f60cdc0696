"""What a job that starts from an object, or continues one, keeps to put the result back. No bpy here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from ...backend.recdreamer.protocol import JobFolder, RequestError

# Inside the job folder; the backend reads only the first of them.
START_MESH, START_FACES, PLACEMENT = "start/mesh.npz", "start/faces.npz", "start/placement.json"


@dataclass(frozen=True)
class Placement:
    """The object that a job started from, and where it stood; of a job that continues, the result of that one."""

    object: str
    object_id: str = ""
    """Stays with the object when it is renamed; may be empty."""
    children: list[str] = field(default_factory=list)
    """Other objects that were taken along."""
    children_ids: list[str] = field(default_factory=list)
    place_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """The origin of the job's mesh, in metres: middle of the base in the world, or in the space of the earlier job."""
    front_deg: float = 0.0
    """Which way its front looked: 0 is -Y, 90 is +X. That of the job's mesh looks along -Y."""
    uv_map: str = ""
    """The UV map that the job was given; empty: the object had none."""
    region: str = ""
    """Name of what may change, see start/regions.py; empty: all of it."""
    keep_size: bool = True
    """Whether the result is to be as large as what it started from."""
    use_children: bool = True
    taken_of: str = ""
    """What the object was like when Generate took the job's templates from it; empty: they are the artist's own."""
    fingerprint: dict[str, str] = field(default_factory=dict)
    """Of the mesh that is painted, see start/fingerprint.py."""
    world: list[list[float]] = field(default_factory=list)
    """`4 4`, from the space of the earlier job to the world; empty: its result was not in the scene."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def read(cls, folder: JobFolder) -> Placement:
        """That of a job. Raises RequestError when it is missing or damaged."""
        try:
            return cls(**json.loads((folder.root / PLACEMENT).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RequestError(
                f"The start object of this job cannot be found ({error}).", "Generate from the object again."
            ) from error
