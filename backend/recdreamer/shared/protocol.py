"""The contract between the add-on and the backend: job folder, request, events, and conventions.

Standard library only: Blender imports this file as part of the extension, the worker imports it as
`recdreamer.shared.protocol`. The same holds for the files that it imports, relatively therefore: safe_files.py,
json_values.py, folder_lock.py and job_state.py. Files carry data, JSON lines carry events.

Colours: every colour that leaves a module, and every colour in a file, is sRGB in [0, 1] (or 0 to 255 in bytes). The
backend never converts to linear light: fields, renders and textures mix sRGB values directly, like the pictures that the
prior was trained on. Linear values exist only in Blender's materials, color attributes and float images; the add-on
converts them where it reads them (`scene_linear_to_srgb` of `addon/objects/pixels.py`), and Blender itself where a
texture is shown.

Left and right: a pose class is named after the side on which the camera stands, for a viewer who looks at the front. The
object faces -Y (Z up). `right` is the camera at +X, which sees the figure's own left side, and sees it face left in the
picture. CLASS_AZIMUTHS_DEG has the angles.
"""

from __future__ import annotations

import json
import re
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from .folder_lock import LOCK, STOP, is_locked
from .job_state import HEARTBEAT_S as HEARTBEAT_S
from .job_state import STALE_S as STALE_S
from .job_state import ErrorKind as ErrorKind
from .job_state import JobState
from .job_state import Status as Status
from .json_values import (
    check_choice,
    check_range,
    check_seed,
    check_text,
    known_fields,
    parsed,
    read_json,
)
from .safe_files import FileMissing, RequestError, check_tree, is_inside, printable, reason_of
from .safe_files import write_atomically as write_atomically

PROTOCOL_VERSION = 1

Method = Literal[
    "usd", "vsd", "esd", "sds", "debiased_sds", "perp_neg", "sds_bridge", "consdreamer", "sdi", "usd_sdi"
]
USD_METHODS = ("usd", "usd_sdi")
"""Those that rectify the distribution of poses."""
PoseMode = Literal["marginal", "camera"]
Quality = Literal["quick", "standard", "final"]
Kind = Literal["object", "particles"]
Stage = Literal["shape", "geometry", "texture"]
Start = Literal["prompt", "object", "texture", "continue"]
Source = Literal["viewport", "turntable", "file", "clipboard", "sketch", "prior", "novel_view"]

BUILTIN_PRIOR = "builtin"
NO_PROMPT = "no prompt yet"  # Placeholder in a request that only checks templates.

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
MAX_WEIGHT = 1e6
"""Of a template."""
DEVICES = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
TEMPORARY = ".new-"
"""Prefix of unfinished and discarded entries in `checkpoints/`. The next worker removes them."""

START_MESH = "start/mesh.npz"
# An .npz without pickle, in the world axes of Blender (Z up, front -Y) and in metres.
#   verts   float32 (verts, 3)      faces    int32 (faces, 3), counter-clockwise seen from outside
#   uvs     float32 (faces, 3, 2)   optional; whole numbers count UV tiles (UDIM): u in [1, 2) is tile 1002; NaN in all
#                                   corners of a face that has none
#   region  float32 (verts,)        optional; 1 where the result may change, 0 where it must not
#   rgb     float32 (verts, 3)      optional; sRGB colour of the part that must not change
#   slots   int32 (faces,)          optional; material slot of each face
#   slot_names  uint8 (bytes,)      with slots; UTF-8, the name of a slot's material per line
#   notes   uint8 (bytes,)          optional; UTF-8, a sentence per line: what was changed or left out of the artist's
#                                   mesh. The worker says them when the job begins.
PREVIEW_SUFFIXES = (".jpg", ".png")
"""Of the pictures in previews/: now, and in jobs of earlier versions."""
COARSE_MESH = "previews/coarse.npz"
# While a job runs: its coarse mesh, replaced now and then, in scene units; its front is at -Y unless the job chooses one.
# Like START_MESH, with verts, faces and rgb, which is uint8 (verts, 3) here, sRGB.
RESULT_ROUGHNESS = 0.9
"""Of the material of a result, wherever it is made."""
MAX_HEIGHT_M = 1e30
"""Of a result. Beyond, its coordinates come near the limits of their precision."""
START_ARRAYS = ("verts", "faces", "uvs", "region", "rgb", "slots", "slot_names")


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
            raise RequestError(
                "The prompt is empty.", "Describe the object, for example: a red bear.", "prompt"
            )
        choices = {"kind": Kind, "method": Method, "pose_mode": PoseMode, "quality": Quality}
        for name, allowed in choices.items():
            check_choice(name, getattr(self, name), allowed)
        for name in ("prompt", "prior", "start_job", "start_mesh"):
            check_text(name, getattr(self, name))
        if not DEVICES.fullmatch(self.device):
            raise RequestError(
                f"There is no device {printable(self.device)[:40]!r}.",
                "Choose auto, cpu, cuda or cuda:N; other accelerators are not supported.",
            )
        check_seed(self.seed)
        self._validate_start()
        check_range(
            "The height",
            self.height_m,
            1 / MAX_HEIGHT_M,
            MAX_HEIGHT_M,
            " meters",
            "Give a height above zero.",
        )
        labels = self.labels
        if self.templates and not MIN_CLASSES <= len(labels) <= MAX_CLASSES:
            raise RequestError(
                f"The templates show {len(labels)} pose class(es), but {MIN_CLASSES} to {MAX_CLASSES} are needed.",
                "Add templates of other views, or remove them all and let the prior draw its own.",
                "template",
            )
        for template in self.templates:
            _validate_template(template)
        if self.method in USD_METHODS and self.pose_mode == "camera":
            for template in self.templates:
                if template.azimuth_deg is None and template.label not in CLASS_AZIMUTHS_DEG:
                    raise RequestError(
                        f"Template {printable(template.label)[:100]!r} has no known view direction.",
                        "Label it front, right, back or left, set its azimuth, or use the marginal mode.",
                        "template",
                    )

    def _validate_start(self) -> None:
        if self.start_mesh and not is_inside(self.start_mesh):
            raise RequestError(
                f"The mesh {printable(self.start_mesh)[:200]!r} is not in the job folder.",
                "Start a new job from the object.",
            )
        if self.start_mesh and self.start == "prompt":
            raise RequestError(
                "A mesh is given, but the job starts from the prompt alone.",
                "Start from the object or from an earlier result, or leave the mesh out.",
            )
        if self.start_job and self.start != "continue":
            raise RequestError(
                "An earlier job is given, but the job does not start from it.",
                "Start from the earlier result, or leave the job out.",
            )
        check_choice("start", self.start, Start)
        for stage in self.stages:
            check_choice("stage", stage, Stage)
        check_range("The strength", self.strength, 0.0, 1.0, "", "Give a number from 0 to 1.")
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
    def from_json(cls, text: str | bytes) -> JobRequest:
        """Parse and validate, see `from_values`."""
        return cls.from_values(parsed("job.json", text))

    @classmethod
    def from_values(cls, raw: Any) -> JobRequest:
        """Convert and validate parsed JSON. Unknown fields are ignored, so that minor versions can add some."""
        if isinstance(raw, dict) and type(raw.get("protocol")) is int:
            _check_protocol(raw["protocol"])
        try:
            request = cls(**known_fields(cls, raw))
        except TypeError as error:
            raise RequestError(
                f"job.json cannot be read ({reason_of(error)}).", "It is damaged; start a new job."
            ) from error
        request.validate()
        return request


USED = (
    "job.json", "state.json", "events.jsonl", "log.txt", "seeds.json", "config.json", LOCK, STOP,
    "templates", "start", "checkpoints", "previews", "result", "check",
    "trace.json", "sheets", "particles.png", "marginal.png",
)  # fmt: skip
"""Everything in a job folder that is read or written; what else is there is left alone."""


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
            raw = read_json(self.request)
        except FileMissing as error:
            raise RequestError(error.message, "Choose a job folder, which has a job.json.") from error
        return JobRequest.from_values(raw)

    def read_state(self) -> JobState:
        """The latest state; a folder without one, or with one that cannot be read, is a queued job."""
        try:
            return JobState(**known_fields(JobState, read_json(self.state)))
        except (ValueError, TypeError):
            return JobState()

    def check(self) -> None:
        """Raise RequestError if something in the folder is a link, a FIFO or a device, before it is read or written."""
        check_tree(self.root, USED)

    def running_on(self, state: JobState) -> str:
        """Name of the computer on which a worker runs this job; empty if none does.

        The lock says so for this computer, and for others where the file system passes locks on. Elsewhere the
        heart-beat of another computer counts while it is fresh; times from the future never are.
        """
        here = socket.gethostname()
        if is_locked(self.root):
            return state.host or here
        return state.host if state.host != here and state.is_fresh(time.time()) else ""


# Events: one JSON object per line on the worker's stdout and in events.jsonl; "type" says which.
#   hello(protocol, version, device)      stage(name, index, count)
#   progress(step, total, it_per_s, eta_s) preview(path)
#   pose_distribution(probs)              warning(message)      result(path)
#   error(kind, message, hint)            paused()      cancelled()
# The kinds of errors are those of ErrorKind.
# The worker reads "cancel" and "pause" lines from stdin, where end of file means that the parent process ended, and from
# a file of the job folder (folder_lock.py). On stdin, "stay" and "leave" say what it does at the end of the file, instead
# of keep_running. Readers ignore unknown types and fields.


def _validate_template(template: Template) -> None:
    """Raise RequestError for what no picture of a pose can be."""
    check_text("label", template.label)
    if not template.label.strip():
        raise RequestError("A template has no label.", "Label it front, right, back or left.", "template")
    of_this = f"of template {printable(template.label)[:100]!r}"
    if not is_inside(template.image):
        raise RequestError(
            f"The picture {of_this} is not in the job folder.", "Add the template again.", "template"
        )
    check_range(
        f"The weight {of_this}", template.weight, 1 / MAX_WEIGHT, MAX_WEIGHT, "", "Give a weight above zero."
    )
    for name, angle in (("azimuth", template.azimuth_deg), ("elevation", template.elevation_deg)):
        if angle is not None:
            check_range(
                f"The {name} {of_this}",
                angle,
                -360.0,
                360.0,
                " degrees",
                "Give an angle of up to 360 degrees.",
            )


def _check_protocol(protocol: int) -> None:
    if protocol != PROTOCOL_VERSION:
        raise RequestError(
            f"The request speaks protocol {protocol}, but this backend speaks {PROTOCOL_VERSION}.",
            "Install the add-on and the backend from the same release.",
        )
