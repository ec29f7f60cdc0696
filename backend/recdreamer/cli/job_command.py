"""Writes the job folder of a command: everything is read and checked first, by the functions that the worker uses."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from recdreamer.cli.settings import parse_setting
from recdreamer.cli.work import refuse_unusable
from recdreamer.paths import given_path
from recdreamer.shared.folder_lock import is_locked
from recdreamer.shared.protocol import (
    DEVICES,
    START_MESH,
    JobFolder,
    JobRequest,
    RequestError,
    Template,
    write_atomically,
)
from recdreamer.shared.safe_files import printable, read_bounded, read_npz

MAX_PICTURE_BYTES = 2**28
"""Of the file of a template."""
NEW = ".recdreamer-new-"
"""Prefix of a job that is being written. The folder may have other things of the user's."""
MODEL_SETTINGS = ("extractor", "rectifier.attribute_classifier")
"""Settings that may name a folder."""


def settings_of(items: tuple[str, ...]) -> dict[str, Any]:
    """Settings of a command by name, with the folders of models made absolute: the worker runs elsewhere."""
    found = dict(map(parse_setting, items))
    return {name: model_name(value) if name in MODEL_SETTINGS else value for name, value in found.items()}


def model_name(name: Any) -> Any:
    """A folder of a model as an absolute path; other names as they are."""
    if not isinstance(name, str) or not name.strip():
        return name
    path = given_path(name)
    try:
        return str(path.absolute()) if path.exists() else str(path) if path.is_absolute() else name
    except OSError:  # Whoever looks for the model says so.
        return name


def write_job(
    folder: Path, request: JobRequest, templates: Path | None = None, start_mesh: str = ""
) -> JobRequest:
    """Write a job folder, or reuse the one that is there if it has the same request and the same files.

    A job that has not begun gives way to another one. Otherwise, and if the request cannot be run, raises RequestError
    or JobError; then nothing is left of what was written. Raises OSError if the folder cannot be written.
    """
    job = JobFolder(given_path(folder).absolute())
    pictures: tuple[Template, ...] = ()
    if templates is not None:
        from recdreamer.pose.templates import templates_in

        templates = given_path(templates)
        pictures = templates_in(templates)
    copies = tuple(replace(picture, image=f"templates/{picture.image}") for picture in pictures)
    request = replace(request, templates=copies, start_mesh=START_MESH if start_mesh else "")
    validate(request)
    with _new_folder_in(job.root) as new:
        if start_mesh:
            from recdreamer.start.mesh_file import start_mesh_bytes

            (new.root / START_MESH).parent.mkdir()
            write_atomically(new.root / START_MESH, start_mesh_bytes(Path(start_mesh), request.start))
        if templates is not None:
            new.templates.mkdir()
            for picture in pictures:
                # The artist's own link may be followed.
                data = read_bounded((templates / picture.image).resolve(), MAX_PICTURE_BYTES)
                write_atomically(new.templates / picture.image, data)
        check_job(new, request)
        write_atomically(new.request, request.to_json())
        if not job.request.exists() or _may_be_replaced(job, new, request):
            _move(new, job)
    return request


def validate(request: JobRequest) -> None:
    """`request.validate`; for a device that there is nowhere, what this computer has instead; and the image model."""
    if not DEVICES.fullmatch(request.device):
        from recdreamer.device import choose_device

        choose_device(request.device)
    request.validate()
    refuse_unusable(request)


def check_job(job: JobFolder, request: JobRequest) -> None:
    """Raise RequestError or JobError for everything that can be known before a job is run."""
    from recdreamer.device import choose_device
    from recdreamer.presets import resolve

    config = resolve(request)
    choose_device(config.device)
    if request.kind == "particles":
        from recdreamer.stages.particles_2d import check_config

        check_config(config)
    if request.templates:
        from recdreamer.pose.templates import load_templates

        load_templates(job, request.templates, 64)
    if request.start_mesh:
        from recdreamer.start.mesh_file import check_start, read_start_mesh

        check_start(read_start_mesh(job.root / request.start_mesh), request.start)
    if request.start == "continue":
        earlier = JobFolder(Path(request.start_job))
        earlier.check()
        earlier.read_request()
        if earlier.root.resolve() == job.root.parent.resolve():
            raise RequestError("The job would continue itself.", "Choose another folder for the new job.")


@contextmanager
def _new_folder_in(root: Path) -> Iterator[JobFolder]:
    """A temporary folder in a job folder, which is made if needed; if it comes to nothing, nothing is left."""
    made = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(f"{NEW}*"):  # Of a command that was killed.
            shutil.rmtree(left, ignore_errors=True)
        new = Path(tempfile.mkdtemp(dir=root, prefix=NEW))
        try:
            yield JobFolder(new)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise


def _may_be_replaced(job: JobFolder, new: JobFolder, request: JobRequest) -> bool:
    """Whether the new job differs and may take the place. Raises RequestError if it differs and may not."""
    job.check()
    try:
        earlier = job.read_request()
    except RequestError:
        if has_begun(job):
            raise
        return True
    differs = [
        item.name for item in fields(request) if getattr(earlier, item.name) != getattr(request, item.name)
    ]
    changed = [] if differs else _changed_files(job, new, request)
    if not differs and not changed:
        return False
    if not has_begun(job):
        return True
    if changed:
        raise RequestError(
            f"{', '.join(map(printable, changed))} changed since the job in {printable(job.root)} began.",
            "Choose another folder for the new job, or give the earlier file to resume this one.",
        )
    raise RequestError(
        f"{printable(job.root)} has a job with other settings ({', '.join(differs)}).",
        "Use its settings to resume it, or choose another folder.",
    )


def has_begun(job: JobFolder) -> bool:
    """Whether a worker has made something that would be lost, or is at work."""
    return is_locked(job.root) or any(
        folder.is_dir() and any(folder.iterdir()) for folder in (job.checkpoints, job.result)
    )


def _changed_files(job: JobFolder, new: JobFolder, request: JobRequest) -> list[str]:
    """Names of the pictures and the mesh whose content differs."""
    names = {template.image for template in request.templates}
    changed = [name for name in sorted(names) if _content(job.root / name) != _content(new.root / name)]
    if request.start_mesh and not _is_same_mesh(job.root / request.start_mesh, new.root / request.start_mesh):
        changed.append("the mesh to start from")
    return changed


def _content(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_PICTURE_BYTES)
    except RequestError:
        return b""


def _is_same_mesh(one: Path, other: Path) -> bool:
    """By the arrays: the archive around them has the time in it."""
    import numpy as np

    from recdreamer.shared.protocol import START_ARRAYS

    try:
        first, second = read_npz(one, START_ARRAYS), read_npz(other, START_ARRAYS)
    except RequestError:
        return False
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def _move(new: JobFolder, job: JobFolder) -> None:
    """Put a new job in the place of one that has not begun: its request last, so that it is never half a job."""
    if job.request.exists():
        job.request.unlink()
        for folder in (job.templates, job.previews, job.root / "start"):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (job.state, job.events, job.log, job.root / "config.json"):
            path.unlink(missing_ok=True)
    for path in sorted(new.root.rglob("*")):
        target = job.root / path.relative_to(new.root)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif path != new.request:
            path.replace(target)
    new.request.replace(job.request)
