"""Copy a job folder from elsewhere, such as another computer, among the jobs of this data folder. No bpy here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...backend.recdreamer.shared.folder_lock import LOCK, STOP, is_locked
from ...backend.recdreamer.shared.protocol import JobFolder, RequestError
from ...backend.recdreamer.shared.safe_files import is_link, reason_of
from .registry import JobRegistry, new_job_id, writable_folder

LEFT_OUT = (LOCK, STOP)


def adopt(source: Path, registry: JobRegistry) -> str:
    """Copy a job folder. Returns the ID of the copy, or of the job itself if it is here already. Raises RequestError.

    Links are left out, since they may lead anywhere.
    """
    folder = JobFolder(source)
    request = folder.read_request()
    if source.parent.resolve() == registry.root.resolve():
        return source.name
    if is_locked(source):
        raise RequestError("This job is running.", "Open it when it has ended.")
    name = new_job_id(request.prompt)
    incoming = writable_folder(registry.data_folder / "incoming") / name
    try:
        _copy(source, incoming)
        writable_folder(registry.root)
        incoming.rename(registry.root / name)
    except OSError as error:
        raise RequestError(
            f"The job folder cannot be copied ({reason_of(error)}).",
            "Free some space or choose another data folder in the preferences.",
        ) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return name


def _copy(source: Path, target: Path) -> None:
    """Copy the regular files of a folder. Raises OSError."""
    for root, folders, files in os.walk(source):
        here = target / Path(root).relative_to(source)
        here.mkdir(parents=True)
        folders[:] = [name for name in folders if not is_link(Path(root, name))]
        for name in files:
            path = Path(root, name)
            if path.is_file() and not is_link(path) and name not in LEFT_OUT:
                shutil.copyfile(path, here / name)
