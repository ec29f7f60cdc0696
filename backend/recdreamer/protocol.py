"""What the add-on and the backend agree on: the job folder, the request, the events.

Standard library only and no imports from its siblings: Blender imports this very file as part of the
extension, the worker imports it as `recdreamer.protocol`. Files carry data, JSON lines carry events.
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
"""Stands in a request whose templates are only to be checked."""

# Camera azimuth at which a class is seen, in Blender's own words: numpad 1 is front (the camera stands
# at -Y), numpad 3 is right (+X). Other labels are allowed; their azimuth comes with the template.
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
# An .npz without pickle. World axes of Blender (Z up, front -Y), metres.
#   verts   float32 (verts, 3)      faces    int32 (faces, 3), counter-clockwise seen from outside
#   uvs     float32 (faces, 3, 2)   optional; whole numbers count UV tiles (UDIM): u in [1, 2) is tile 1002
#   region  float32 (verts,)        optional; 1 where the result may change, 0 where it must not
#   rgb     float32 (verts, 3)      optional; sRGB colour of what must not change
START_ARRAYS = ("verts", "faces", "uvs", "region", "rgb")


class RequestError(ValueError):
    """A request that cannot be run. `message` says what is wrong, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} {hint}")
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Template:
    """One picture of one pose class."""

    label: str
    """Name of the pose class; templates with the same label stand for the same class."""
    image: str
    """Path relative to the job folder; RGB or RGBA, alpha is the foreground mask."""
    source: Source = "file"
    azimuth_deg: float | None = None
    """Camera azimuth, counter-clockwise seen from above, 0 = front (-Y); None if unknown."""
    elevation_deg: float | None = None
    """Camera elevation above the horizon; None if unknown."""
    mirrored: bool = False
    """True when the picture is to be flipped left to right before use (one side view serves both sides)."""
    weight: float = 1.0
    """Its say among the templates of its class, against theirs."""


@dataclass(frozen=True)
class JobRequest:
    """What the artist asks for; `job.json`. Written once, atomically, before the worker starts."""

    prompt: str
    kind: Kind = "object"
    """What is made: a mesh, or pictures without one (paper, App. E)."""
    method: Method = "usd"
    pose_mode: PoseMode = "camera"
    """usd only: `marginal` is the paper's rectifier, `camera` asks a view for its azimuth's class (C.5)."""
    quality: Quality = "standard"
    seed: int = 0
    prior: str = BUILTIN_PRIOR
    """`builtin`, a folder of a StableDiffusionPipeline, or a model id."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:<n>`."""
    templates: tuple[Template, ...] = ()
    """Empty: the prior draws its own."""
    stages: tuple[str, ...] = get_args(Stage)
    """What is run, in this order; a stage that is left out hands on what it was given. A mesh is made in any case."""
    start: Start = "prompt"
    """Where the job begins: with the prompt alone; with a mesh whose shape the field starts from; with a mesh that
    keeps its shape and UVs and is only painted; with what an earlier job has made."""
    start_mesh: str = ""
    """Of the starts `object` and `texture`, and of a region of `continue`: file relative to the job folder, see
    START_MESH. One that continues without a mesh keeps the region of the earlier job, and the place of its mesh with
    it; one that brings a mesh without a region, or with one that is 1 everywhere, may change everything."""
    start_job: str = ""
    """Of the start `continue`: that job's folder."""
    strength: float = 0.7
    """How far the result may leave the shape that it started from: 0 keeps it, 1 forgets it."""
    height_m: float = 1.0
    """Height of the finished mesh. One that only was painted keeps its place and size."""
    keep_running: bool = False
    """Go on when the parent process goes away."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted names of the backend's configuration, e.g. {"optimize.num_steps": 40}."""
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
                f"The templates show {len(labels)} pose class(es) of {MIN_CLASSES} to {MAX_CLASSES} needed.",
                "Add templates of other views, or remove all of them and let the prior draw its own.",
            )
        for template in self.templates:
            if not 0 < template.weight < float("inf"):
                raise RequestError(
                    f"The weight of template {template.label!r} is {template.weight}.",
                    "Give a weight above zero, or leave the template out.",
                )
        if self.method == "usd" and self.pose_mode == "camera":
            for template in self.templates:
                if template.azimuth_deg is None and template.label not in CLASS_AZIMUTHS_DEG:
                    raise RequestError(
                        f"Nothing says from which side template {template.label!r} is seen.",
                        "Label it front, right, back or left, give its azimuth, or take the marginal mode.",
                    )

    def _validate_start(self) -> None:
        _check_choice("start", self.start, Start)
        for stage in self.stages:
            _check_choice("stage", stage, Stage)
        if not 0 <= self.strength <= 1:
            raise RequestError(f"The strength is {self.strength}.", "Give a number from 0 to 1.")
        if self.start in ("object", "texture") and not self.start_mesh:
            raise RequestError(
                "The job is to start from a mesh and names none.", "Choose an object to start from."
            )
        if self.start == "continue" and not self.start_job:
            raise RequestError("The job is to continue another and names none.", "Choose an earlier result.")
        if self.start == "texture" and "texture" not in self.stages:
            raise RequestError(
                "Only the texture is to be made, and its stage is off.", "Switch the stage on."
            )
        if self.start == "prompt" and "shape" not in self.stages:
            raise RequestError(
                "Without the shape stage there is nothing to begin with.",
                "Switch it on, or start from an object or an earlier result.",
            )

    @property
    def own_stages(self) -> tuple[str, ...]:
        """What is run of the stages, in their order: a mesh that keeps its shape is only painted."""
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
        """Parse and validate; unknown fields are ignored so that minor versions can add some."""
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
                f"job.json cannot be read ({error}).", "The file is damaged: start the job again."
            ) from error
        request.validate()
        return request


@dataclass(frozen=True)
class JobFolder:
    """Paths inside one job; the folder is the only truth about the job."""

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
        """Stage -> its seed, of the stages that were repeated, once they are through; job.json has that of the others."""
        return self.root / "seeds.json"

    @property
    def result(self) -> Path:
        return self.root / "result"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    def read_request(self) -> JobRequest:
        """The request, validated; RequestError when it is missing or damaged."""
        try:
            text = self.request.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"{self.request} cannot be read ({error}).", "Choose a job folder that holds a job.json."
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
    """`state.json`: where a job stands, replaced atomically. Enough to draw the panel after a restart."""

    status: Status = "queued"
    pid: int | None = None
    updated_s: float = 0.0
    """Unix time of the last heart-beat."""
    stage: str = ""
    step: int = 0
    total: int = 0
    it_per_s: float = 0.0
    eta_s: float | None = None
    """Remaining time of the whole job, not of the stage."""
    preview: str = ""
    """Newest preview picture, relative to the job folder."""
    pose_distribution: dict[str, float] = field(default_factory=dict)
    message: str = ""
    """Why it failed, or the latest warning."""
    hint: str = ""


# Events: one JSON object a line on the worker's stdout and in events.jsonl, told apart by "type".
#   hello(protocol, version, device)      stage(name, index, count)
#   progress(step, total, it_per_s, eta_s) preview(path)
#   pose_distribution(probs)              warning(message)      result(path)
#   error(kind, message, hint)            paused()      cancelled()
# The worker reads "cancel" and "pause" lines on stdin; end of file there means that the parent died.
# Readers ignore types and fields that they do not know.
COMMANDS = ("cancel", "pause")
HEARTBEAT_S = 2.0
"""The worker renews state.json at least this often."""
STALE_S = 30.0
"""A running job whose state is older than this has lost its worker."""


def _check_protocol(protocol: int) -> None:
    if protocol != PROTOCOL_VERSION:
        raise RequestError(
            f"The request speaks protocol {protocol}, this backend speaks {PROTOCOL_VERSION}.",
            "Install the add-on and the backend from the same release.",
        )


def _known_fields(cls: type, raw: Any) -> dict[str, Any]:
    """Those values of a JSON object that `cls` knows; TypeError if one has the wrong type."""
    if not isinstance(raw, dict):
        raise TypeError(f"expected an object, not {type(raw).__name__}")
    hints = get_type_hints(cls)
    return {name: _checked(name, value, hints[name]) for name, value in raw.items() if name in hints}


def _checked(name: str, value: Any, hint: Any) -> Any:
    """A parsed JSON value for a field of type `hint`. TypeError or RequestError if it does not fit."""
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
    """Replace a file in one step: a reader, or a crash, sees the old content or the new, never a part."""
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
    """`source.replace(target)`; on Windows a reader that has the target open makes it fail for a moment."""
    for _ in range(20 if os.name == "nt" else 0):
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(0.05)
    source.replace(target)
