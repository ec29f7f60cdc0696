"""Where the start object of a job stood, so that its result can take that place. No bpy here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from ...backend.recdreamer.shared.json_values import known_fields, read_json
from ...backend.recdreamer.shared.protocol import START_MESH, JobFolder, JobRequest, RequestError
from ...backend.recdreamer.shared.safe_files import confined, read_bounded, reason_of

# Inside the job folder, beside START_MESH, which alone the backend reads.
START_FACES, PLACEMENT = "start/faces.npz", "start/placement.json"
MAX_START_BYTES = 1 << 30


@dataclass(frozen=True)
class StartPlacement:
    """The object that a job started from and its place; for `continue`, that of the earlier result."""

    object: str
    object_id: str = ""
    """Survives renaming of the object; may be empty."""
    children: list[str] = field(default_factory=list)
    """Other objects that were included."""
    children_ids: list[str] = field(default_factory=list)
    place_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Origin of the job's mesh in metres: the middle of its base in the world, or in the space of the earlier job."""
    front_deg: float = 0.0
    """Direction of its front: 0 is -Y, 90 is +X. The front of the job's mesh always faces -Y."""
    uv_map: str = ""
    """The UV map of the job's mesh. Empty: the object had none."""
    region: str = ""
    """Name of the region that may change, see start/regions.py. Empty: everything."""
    keep_size: bool = True
    """Whether the result gets the size of its start."""
    use_children: bool = True
    taken_of: str = ""
    """Digest of the mesh when Generate captured the templates. Empty: the templates are the artist's own."""
    fingerprint: dict[str, str] = field(default_factory=dict)
    """Of the painted mesh, see start/fingerprint.py."""
    world: list[list[float]] = field(default_factory=list)
    """`4 4`, from the space of the earlier job to the world. Empty: its result was not in the scene."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def read(cls, folder: JobFolder) -> StartPlacement:
        """Read the placement of a job. Unknown fields are ignored. Raises RequestError if it is missing or damaged."""
        try:
            placement = cls(**known_fields(cls, read_json(confined(folder.root, PLACEMENT))))
            if placement.world and [len(row) for row in placement.world] != [4] * 4:
                raise ValueError("world is no matrix")
            return placement
        except (ValueError, TypeError) as error:
            raise RequestError(
                f"The start object of this job cannot be found ({reason_of(error)}).",
                "Generate from the object again.",
            ) from error


def start_job_id(request: JobRequest) -> str:
    """The name of the job that this one continued; empty if it continued none. Its path may be of another computer."""
    return PurePosixPath(request.start_job.replace("\\", "/")).name


def start_files_of(folder: JobFolder) -> dict[str, bytes]:
    """The files of a job's start by their names in its folder. Raises RequestError."""
    paths = {name: confined(folder.root, name) for name in (START_MESH, START_FACES, PLACEMENT)}
    return {name: read_bounded(path, MAX_START_BYTES) for name, path in paths.items() if path.is_file()}
