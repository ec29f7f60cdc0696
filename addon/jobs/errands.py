"""Background work for the template shelf: pictures to pick from, and the check. No bpy here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...backend.recdreamer.protocol import JobFolder, JobRequest, RequestError
from .registry import new_job_id, writable_folder, write_request
from .task import Step, Task

KEPT_FOLDERS = 6
"""Galleries and checks that stay on the disk; what was picked from them lies elsewhere."""

CardKey = tuple[str, str, bool]
"""Picture, label and mirroring of a card: a verdict holds as long as they stay."""


@dataclass(frozen=True)
class Sample:
    """One picture of a gallery."""

    image: Path
    label: str
    share: float | None
    """How surely the picture shows its label, in [0, 1]."""
    azimuth_deg: float | None
    """Of a novel view: counter-clockwise from the view of the picture that it was made of."""


@dataclass
class Gallery:
    """Pictures to pick from."""

    source: str
    """What picked ones become on the shelf: "prior" or "novel_view"."""
    samples: list[Sample]
    start_deg: float = 0.0
    """Azimuth of the picture that novel views were made of."""
    picked: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Advice:
    """What is wrong, and what to do."""

    message: str
    hint: str


@dataclass(frozen=True)
class Verdict:
    """What the machine makes of one template."""

    reads_as: str
    pose_probs: dict[str, float]
    coverage: float
    """Share of the picture that is taken for the object."""
    overlay: Path
    match: Path
    warnings: tuple[Advice, ...]


@dataclass(frozen=True)
class Check:
    """The verdicts on a shelf as it was."""

    verdicts: dict[CardKey, Verdict]
    warnings: tuple[Advice, ...]
    """On the shelf as a whole; they hold as long as it has the same cards."""


@dataclass
class Errand:
    """A backend command for the shelf, and what becomes of its result."""

    task: Task
    collect: Callable[[], None]
    """Called once, when the command went well. May raise RequestError."""

    def poll(self) -> bool:
        """Take in the news. True when something changed."""
        changed = self.task.poll()
        if changed and self.task.has_succeeded:
            try:
                self.collect()
            except RequestError as error:
                self.task.problem = str(error)
        return changed


def gallery_task(command: Sequence[str], request: JobRequest, folder: Path) -> Task:
    """Let the prior draw the prompt of a request and sort the pictures by pose."""
    arguments = ["--prompt", request.prompt, "--out", str(folder), "--seed", str(request.seed)]
    arguments += ["--prior", request.prior, "--device", request.device]
    return Task([Step("Drawing", [*command, "templates", "gallery", *arguments])])


def views_task(command: Sequence[str], image: Path, model: str, device: str, folder: Path) -> Task:
    """Let a novel-view model draw a picture from all around."""
    arguments = ["--image", str(image), "--model", model, "--out", str(folder), "--device", device]
    return Task([Step("Drawing other views", [*command, "templates", "views", *arguments])])


def check_task(command: Sequence[str], request: JobRequest, images: Sequence[Path], folder: Path) -> Task:
    """Let the backend say what it makes of the templates of a request."""
    write_request(JobFolder(folder), request, images)
    return Task([Step("Checking templates", [*command, "templates", "check", str(folder)])])


def new_folder(root: Path, name: str) -> Path:
    """A folder for one errand; the oldest of its kind go. Raises RequestError when it cannot be made."""
    with suppress(OSError):
        for old in sorted(root.iterdir())[: 1 - KEPT_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)
    return writable_folder(root / new_job_id(name))


def read_gallery(folder: Path) -> list[Sample]:
    """What a gallery or views command wrote. Raises RequestError when it is damaged or empty."""
    with _reading("pictures"):
        items = _load(folder / "gallery.json")["samples"]
        samples = [
            Sample(
                folder / item["image"],
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
    """What a check command wrote on the cards `keys`. Raises RequestError when it is damaged."""
    with _reading("check"):
        report = _load(folder / "check" / "check.json")
        verdicts = [
            Verdict(
                str(item["reads_as"]),
                {label: float(prob) for label, prob in item["pose_probs"].items()},
                float(item["coverage"]),
                folder / item["overlay"],
                folder / item["match"],
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
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns all that can be wrong with a file into one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"The {name} cannot be read ({error}).", "Try again.") from error
