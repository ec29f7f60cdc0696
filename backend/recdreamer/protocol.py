"""The contract between the add-on and the backend: job folder, request, events, and conventions.

Standard library only, and no imports from its siblings: Blender imports this file as part of the extension, the worker
imports it as `recdreamer.protocol`. Files carry data, JSON lines carry events.

Colours: every colour that leaves a module, and every colour in a file, is sRGB in [0, 1] (or 0 to 255 in bytes). The
backend never converts to linear light: fields, renders and textures mix sRGB values directly, like the pictures that the
prior was trained on. Linear values exist only in Blender's materials and float images; `addon/start/material_colors.py`
and `addon/shelf/pictures.py` convert them where they are read, and Blender itself where a texture is shown.

Left and right: a pose class is named after the side on which the camera stands, for a viewer who looks at the front. The
object faces -Y (Z up). `right` is the camera at +X, which sees the figure's own left side, and sees it face left in the
picture. CLASS_AZIMUTHS_DEG has the angles.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

PROTOCOL_VERSION = 1

Method = Literal["usd", "vsd", "esd", "sds", "debiased_sds", "perp_neg", "sds_bridge"]
PoseMode = Literal["marginal", "camera"]
Quality = Literal["quick", "standard"]
Kind = Literal["object", "particles"]
Stage = Literal["shape", "geometry", "texture"]
Start = Literal["prompt", "object", "texture", "continue"]
Source = Literal["viewport", "turntable", "file", "clipboard", "sketch", "prior", "novel_view"]
Status = Literal["queued", "running", "paused", "done", "failed", "cancelled"]

BUILTIN_PRIOR = "builtin"
NO_PROMPT = "no prompt yet"
"""Placeholder in a request that only checks templates."""

# Azimuth of the camera that sees a class, as on Blender's numpad: 1 is front (camera at -Y), 3 is right (+X), and
# counter-clockwise seen from above. Other labels are allowed; their azimuth comes with the template.
CLASS_AZIMUTHS_DEG = {"front": 0.0, "right": 90.0, "back": 180.0, "left": 270.0}
MIN_CLASSES, MAX_CLASSES = 2, 6
MIN_SIDE_PX = 8
"""Smaller pictures show no pose: they are damaged exports or the wrong files."""
MIN_COVERAGE = 1e-4
"""Share of a picture that must be opaque: a few thin lines are enough, a stray pixel is not."""
MAX_TRIANGLES = 2_000_000
"""Of a mesh to start from."""
TEMPORARY = ".new-"
"""Prefix of unfinished and discarded entries in `checkpoints/`. The next worker removes them."""

START_MESH = "start/mesh.npz"
# An .npz without pickle, in the world axes of Blender (Z up, front -Y) and in metres.
#   verts   float32 (verts, 3)      faces    int32 (faces, 3), counter-clockwise seen from outside
#   uvs     float32 (faces, 3, 2)   optional; whole numbers count UV tiles (UDIM): u in [1, 2) is tile 1002
#   region  float32 (verts,)        optional; 1 where the result may change, 0 where it must not
#   rgb     float32 (verts, 3)      optional; sRGB colour of the part that must not change
START_ARRAYS = ("verts", "faces", "uvs", "region", "rgb")


class RequestError(ValueError):
    """A request that cannot be run. `message` says what is wrong, `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} {hint}")
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Template:
    """One picture of one pose class."""

    label: str
    """Name of the pose class; several templates may share it."""
    image: str
    """Path relative to the job folder; RGB or RGBA, alpha is the foreground mask."""
    source: Source = "file"
    azimuth_deg: float | None = None
    """Camera azimuth, counter-clockwise seen from above, 0 = front (-Y); None if unknown."""
    elevation_deg: float | None = None
    """Camera elevation above the horizon; None if unknown."""
    mirrored: bool = False
    """Flip the picture left to right before use, so that one side view serves both sides."""
    weight: float = 1.0
    """Weight relative to the other templates of the same class."""


@dataclass(frozen=True)
class JobRequest:
    """The artist's request, `job.json`. Written once, atomically, before the worker starts."""

    prompt: str
    kind: Kind = "object"
    """`object` makes a mesh, `particles` makes 2D pictures (paper, App. E)."""
    method: Method = "usd"
    pose_mode: PoseMode = "camera"
    """usd only: `marginal` is the paper's rectifier, `camera` wants the class of each view's azimuth (C.5)."""
    quality: Quality = "standard"
    seed: int = 0
    prior: str = BUILTIN_PRIOR
    """`builtin`, a folder or .safetensors file of Stable Diffusion, or a name that `recdreamer models list` shows."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:<n>`."""
    templates: tuple[Template, ...] = ()
    """If empty, the prior draws its own."""
    stages: tuple[str, ...] = get_args(Stage)
    """Stages to run, in this order. A skipped stage passes its input through; a mesh is made in any case."""
    start: Start = "prompt"
    """Where the job begins: `prompt`: from the prompt alone; `object`: from the shape of a mesh; `texture`: from a mesh
    that keeps its shape and UVs and is only painted; `continue`: from the result of an earlier job."""
    start_mesh: str = ""
    """File of the mesh, relative to the job folder; see START_MESH. Required by `object` and `texture`; `continue` takes
    one for its region. Without it, `continue` keeps the region of the earlier job and the placement of its mesh; with a
    mesh without a region, or with a region that is 1 everywhere, the whole object may change."""
    start_job: str = ""
    """Folder of the job to continue."""
    strength: float = 0.7
    """How far the result may depart from the shape that it started from: 0 keeps it, 1 forgets it."""
    height_m: float = 1.0
    """Height of the finished mesh. A mesh that was only painted keeps its place and size."""
    keep_running: bool = False
    """Keep working after the parent process has ended."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Settings of the backend by dotted name, e.g. {"optimize.num_steps": 40}."""
    protocol: int = PROTOCOL_VERSION

    def validate(self) -> None:
        """Raise RequestError with one clear sentence if the request cannot be run."""
        _check_protocol(self.protocol)
        if not self.prompt.strip():
            raise RequestError("The prompt is empty.", "Describe the object, for example: a red bear.")
        choices = {"kind": Kind, "method": Method, "pose_mode": PoseMode, "quality": Quality}
        for name, allowed in choices.items():
            _check_choice(name, getattr(self, name), allowed)
        self._validate_start()
        if not 0 < self.height_m < float("inf"):
            raise RequestError(f"The height is {self.height_m} metres.", "Give a height above zero.")
        labels = self.labels
        if self.templates and not MIN_CLASSES <= len(labels) <= MAX_CLASSES:
            raise RequestError(
                f"The templates show {len(labels)} pose class(es), but {MIN_CLASSES} to {MAX_CLASSES} are needed.",
                "Add templates of other views, or remove them all and let the prior draw its own.",
            )
        for template in self.templates:
            if not 0 < template.weight < float("inf"):
                raise RequestError(
                    f"The weight of template {template.label!r} is {template.weight}.",
                    "Give a weight above zero, or remove the template.",
                )
        if self.method == "usd" and self.pose_mode == "camera":
            for template in self.templates:
                if template.azimuth_deg is None and template.label not in CLASS_AZIMUTHS_DEG:
                    raise RequestError(
                        f"Template {template.label!r} has no known view direction.",
                        "Label it front, right, back or left, set its azimuth, or use the marginal mode.",
                    )

    def _validate_start(self) -> None:
        _check_choice("start", self.start, Start)
        for stage in self.stages:
            _check_choice("stage", stage, Stage)
        if not 0 <= self.strength <= 1:
            raise RequestError(f"The strength is {self.strength}.", "Give a number from 0 to 1.")
        if self.start in ("object", "texture") and not self.start_mesh:
            raise RequestError(
                "The job starts from a mesh, but names none.", "Choose an object to start from."
            )
        if self.start == "continue" and not self.start_job:
            raise RequestError("The job continues another job, but names none.", "Choose an earlier result.")
        if self.start == "texture" and "texture" not in self.stages:
            raise RequestError(
                "The job only paints a texture, but the texture stage is off.", "Turn the texture stage on."
            )
        if self.start == "prompt" and "shape" not in self.stages:
            raise RequestError(
                "Without the shape stage the job has no shape to begin with.",
                "Turn it on, or start from an object or an earlier result.",
            )

    @property
    def stages_to_run(self) -> tuple[str, ...]:
        """The stages that run, in order. The start `texture` only paints."""
        if self.kind != "object":
            return ()
        wanted = ("texture",) if self.start == "texture" else self.stages
        return tuple(stage for stage in get_args(Stage) if stage in wanted)

    @property
    def labels(self) -> tuple[str, ...]:
        """Pose classes in the order of first appearance."""
        return tuple(dict.fromkeys(template.label for template in self.templates))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> JobRequest:
        """Parse and validate. Unknown fields are ignored, so that minor versions can add some."""
        try:
            raw = json.loads(text)
            if isinstance(raw, dict) and type(raw.get("protocol")) is int:
                _check_protocol(raw["protocol"])
            values = _known_fields(cls, raw)
            values["templates"] = tuple(
                Template(**_known_fields(Template, item)) for item in values.get("templates", ())
            )
            request = cls(**values)
        except RequestError:
            raise
        except (ValueError, TypeError) as error:
            raise RequestError(
                f"job.json cannot be read ({error}).", "The file is damaged; start a new job."
            ) from error
        request.validate()
        return request


@dataclass(frozen=True)
class JobFolder:
    """Paths inside one job folder, which is the only record of the job."""

    root: Path

    @property
    def request(self) -> Path:
        return self.root / "job.json"

    @property
    def templates(self) -> Path:
        return self.root / "templates"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def previews(self) -> Path:
        return self.root / "previews"

    @property
    def seeds(self) -> Path:
        """Stage -> seed, for the stages that were repeated to the end; the others have the seed of job.json."""
        return self.root / "seeds.json"

    @property
    def result(self) -> Path:
        return self.root / "result"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    def read_request(self) -> JobRequest:
        """The request, validated. Raises RequestError if it is missing or damaged."""
        try:
            text = self.request.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"{self.request} cannot be read ({error}).", "Choose a job folder that has a job.json."
            ) from error
        return JobRequest.from_json(text)

    def read_state(self) -> JobState:
        """The latest state; a folder without one is a queued job."""
        try:
            return JobState(**_known_fields(JobState, json.loads(self.state.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            return JobState()


@dataclass
class JobState:
    """`state.json`: the progress of a job, replaced atomically. Enough to draw the panel after a restart."""

    status: Status = "queued"
    pid: int | None = None
    updated_s: float = 0.0
    """Unix time of the last heart-beat."""
    stage: str = ""
    step: int = 0
    total: int = 0
    it_per_s: float = 0.0
    eta_s: float | None = None
    """Remaining time of the whole job, not only of the stage."""
    preview: str = ""
    """Newest preview picture, relative to the job folder."""
    pose_distribution: dict[str, float] = field(default_factory=dict)
    message: str = ""
    """Why the job failed, or the latest warning."""
    hint: str = ""


# Events: one JSON object per line on the worker's stdout and in events.jsonl; "type" says which.
#   hello(protocol, version, device)      stage(name, index, count)
#   progress(step, total, it_per_s, eta_s) preview(path)
#   pose_distribution(probs)              warning(message)      result(path)
#   error(kind, message, hint)            paused()      cancelled()
# The worker reads "cancel" and "pause" lines from stdin; end of file there means that the parent process ended.
# Readers ignore unknown types and fields.
COMMANDS = ("cancel", "pause")
HEARTBEAT_S = 2.0
"""The worker renews state.json at least this often."""
STALE_S = 30.0
"""If the state of a running job is older than this, its worker is gone."""


def _check_protocol(protocol: int) -> None:
    if protocol != PROTOCOL_VERSION:
        raise RequestError(
            f"The request speaks protocol {protocol}, but this backend speaks {PROTOCOL_VERSION}.",
            "Install the add-on and the backend from the same release.",
        )


def _known_fields(cls: type, raw: Any) -> dict[str, Any]:
    """The values of a JSON object that are fields of `cls`. TypeError if one has the wrong type."""
    if not isinstance(raw, dict):
        raise TypeError(f"expected an object, not {type(raw).__name__}")
    hints = get_type_hints(cls)
    return {name: _checked(name, value, hints[name]) for name, value in raw.items() if name in hints}


def _checked(name: str, value: Any, hint: Any) -> Any:
    """A parsed JSON value, converted for a field of type `hint`. TypeError or RequestError if it does not fit."""
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    outer = [str if get_origin(kind) is Literal else get_origin(kind) or kind for kind in kinds]
    if float in outer and type(value) is int:
        value = float(value)
    if tuple in outer and isinstance(value, list):
        value = tuple(value)
    if type(value) not in outer:
        raise TypeError(f"{name} cannot be {value!r}")
    if get_origin(hint) is Literal:
        _check_choice(name, value, hint)
    return value


def _check_choice(name: str, value: str, allowed: Any) -> None:
    if value not in get_args(allowed):
        raise RequestError(f"Unknown {name} {value!r}.", f"Choose one of: {', '.join(get_args(allowed))}.")


def write_atomically(path: Path, data: str | bytes) -> None:
    """Replace a file in one step: after a crash, and for any reader, it has the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data.encode("utf-8") if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        _replace(Path(temporary), path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _replace(source: Path, target: Path) -> None:
    """`source.replace(target)`. On Windows it fails as long as a reader has the target open, so try for a second."""
    for _ in range(20 if os.name == "nt" else 0):
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(0.05)
    source.replace(target)
