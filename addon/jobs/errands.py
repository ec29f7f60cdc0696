"""Background work for the template shelf: suggested pictures and the template check. No bpy here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...backend.recdreamer.shared.json_values import read_json
from ...backend.recdreamer.shared.protocol import JobFolder, JobRequest, RequestError
from ...backend.recdreamer.shared.safe_files import confined, reason_of
from .. import trouble
from .registry import new_job_id, writable_folder, write_request
from .task import Step, Task

KEPT_FOLDERS = 6
"""Number of galleries and checks kept on disk. Chosen pictures are copied elsewhere."""

CardKey = tuple[str, str, bool]
"""Image, label and mirroring of a card. A verdict is valid as long as these do not change."""


@dataclass(frozen=True)
class Sample:
    """One picture of a gallery."""

    image: Path
    label: str
    share: float | None
    """Confidence that the picture shows its label, in [0, 1]."""
    azimuth_deg: float | None
    """For a novel view: counter-clockwise, relative to the view of the source picture."""


@dataclass
class Gallery:
    """Pictures to choose from."""

    source: str
    """Source of the templates made from them: "prior" or "novel_view"."""
    samples: list[Sample]
    start_deg: float = 0.0
    """Azimuth of the picture from which novel views were drawn."""
    picked: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Advice:
    """A problem and what to do about it."""

    message: str
    hint: str


@dataclass(frozen=True)
class Verdict:
    """The result of checking one template."""

    reads_as: str
    pose_probs: dict[str, float]
    overlay: Path
    match: Path
    warnings: tuple[Advice, ...]


@dataclass(frozen=True)
class Check:
    """The verdicts on the cards of a shelf at the time of the check."""

    verdicts: dict[CardKey, Verdict]
    warnings: tuple[Advice, ...]
    """About the shelf as a whole; valid as long as it has the same cards."""


@dataclass
class Errand:
    """A backend command for the shelf, and the function that reads its result."""

    task: Task
    collect: Callable[[], None]
    """Called once after the command has succeeded. May raise RequestError."""
    is_quiet: bool = False
    """Whether nobody asked for it: it gives way to all else, and nothing is said if it fails."""

    def poll(self) -> bool:
        """Process news from the task. True if something changed."""
        changed = self.task.poll()
        if changed and self.task.has_succeeded:
            try:
                self.collect()
            except Exception as error:
                self.task.problem = trouble.explain(error, self.task.title)
        return changed


def gallery_task(command: Sequence[str], request: JobRequest, folder: Path, data_folder: Path) -> Task:
    """Draw the prompt of a request with the prior and sort the pictures by pose."""
    arguments = ["--prompt", request.prompt, "--out", str(folder), "--seed", str(request.seed)]
    arguments += ["--prior", request.prior, "--device", request.device]
    for name, value in request.overrides.items():
        arguments += ["--set", f"{name}={json.dumps(value)}"]
    return Task([Step("Drawing", [*command, "templates", "gallery", *arguments])], data_folder)


def views_task(command: Sequence[str], image: Path, model: str, device: str, folder: Path) -> Task:
    """Draw a picture from all sides with a novel-view model."""
    arguments = ["--image", str(image), "--model", model, "--out", str(folder), "--device", device]
    return Task([Step("Drawing other views", [*command, "templates", "views", *arguments])])


def check_task(
    command: Sequence[str], request: JobRequest, images: Sequence[Path], folder: Path, data_folder: Path
) -> Task:
    """Check the templates of a request with the backend."""
    write_request(JobFolder(folder), request, images)
    return Task(
        [
            Step(
                "Checking templates",
                [*command, "templates", "check", str(folder), "--device", request.device],
            )
        ],
        data_folder,
    )


def inspect_task(
    command: Sequence[str], file: Path, prompt: str, folder: Path, has_templates: bool, device: str
) -> Task:
    """Look at a mesh from all sides; the templates are in a folder beside it."""
    arguments = [str(file), "--out", str(folder), "--prompt", prompt, "--device", device]
    if has_templates:
        arguments += ["--templates", str(folder / "templates")]
    return Task([Step("Inspecting", [*command, "evaluate", "janus", *arguments])])


def new_folder(root: Path, name: str) -> Path:
    """Create a folder for one errand and delete the oldest of its kind. Raises RequestError if that fails."""
    with suppress(OSError):
        for old in sorted(root.iterdir())[: 1 - KEPT_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)
    return writable_folder(root / new_job_id(name))


def read_gallery(folder: Path) -> list[Sample]:
    """Read the output of a gallery or views command. Raises RequestError if it is damaged or empty."""
    with _reading("pictures"):
        items = _load(folder / "gallery.json")["samples"]
        samples = [
            Sample(
                confined(folder, item["image"]),
                str(item["label"]),
                _number(item.get("share")),
                _number(item.get("azimuth_deg")),
            )
            for item in items
        ]
    if not samples:
        raise RequestError("No picture was drawn.", "Try again with another seed or prompt.")
    return samples


def read_check(folder: Path, keys: Sequence[CardKey]) -> Check:
    """Read the output of a check command for the cards `keys`. Raises RequestError if it is damaged."""
    with _reading("check"):
        report = _load(folder / "check" / "check.json")
        verdicts = [
            Verdict(
                str(item["reads_as"]),
                {label: float(prob) for label, prob in item["pose_probs"].items()},
                confined(folder, item["overlay"]),
                confined(folder, item["match"]),
                _advice(item),
            )
            for item in report["templates"]
        ]
        return Check(dict(zip(keys, verdicts, strict=True)), _advice(report))


def _advice(item: dict[str, Any]) -> tuple[Advice, ...]:
    return tuple(Advice(str(w["message"]), str(w.get("hint", ""))) for w in item.get("warnings", ()))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _load(path: Path) -> dict[str, Any]:
    return read_json(path)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn every error of a damaged file into one RequestError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"The {name} cannot be read ({reason_of(error)}).", "Try again.") from error
