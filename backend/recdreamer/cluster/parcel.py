"""Files of a job on their way between computers: as a whole or not at all, and checked like a stranger's.

A parcel is a zip file in memory, without compression: pictures and tensors have none to gain. Its directory stands at the
end and has a checksum of each file, so a part of a parcel is none.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recdreamer.shared.protocol import TEMPORARY, RequestError
from recdreamer.shared.safe_files import (
    MAX_FILES,
    confined,
    is_inside,
    is_link,
    open_regular,
    printable,
    reason_of,
)

MAX_PARCEL_BYTES = 2**32
"""Of one checkpoint, result, or job folder without its result."""
DAMAGED = "Resume the job; what was there before is kept."
Source = tuple[Path, Iterable[str], str]
"""A folder, the names in it to pack, and the folder that they have in the parcel."""


def pack(*sources: Source) -> bytes:
    """A parcel of those files and folders that exist. Links, FIFOs and devices are refused.

    Temporary files are left out. Raises RequestError and OSError, also FileNotFoundError if something vanishes meanwhile.
    """
    target, total, count = io.BytesIO(), 0, 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for root, names, within in sources:
            for path in _files(root, names):
                with os.fdopen(open_regular(path), "rb") as stream:
                    data = stream.read(MAX_PARCEL_BYTES - total + 1)
                total, count = total + len(data), count + 1
                if total > MAX_PARCEL_BYTES or count > MAX_FILES:
                    raise RequestError(
                        f"{printable(root.name)} has more than {MAX_PARCEL_BYTES:,} bytes or {MAX_FILES:,} files.",
                        "Run the job on this computer.",
                    )
                archive.writestr(zipfile.ZipInfo(Path(within, path.relative_to(root)).as_posix()), data)
    return target.getvalue()


def _files(root: Path, names: Iterable[str]) -> Iterable[Path]:
    pending = [root / name for name in names]
    while pending:
        path = pending.pop()
        if path.name.startswith("."):
            continue
        if path.is_dir() and not is_link(path):
            pending += path.iterdir()
        elif os.path.lexists(path):
            yield path


def unpack(data: bytes, folder: Path) -> None:
    """Write the files of a parcel into an empty folder. Raises RequestError if it is none, or leads out; OSError.

    The caller places the folder when all of it is there, and removes it otherwise.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(entries) > MAX_FILES or len({*names}) < len(names):
                raise ValueError("it has too many files")
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.is_dir() for entry in entries):
                raise ValueError("it is of another kind")
            if sum(entry.file_size for entry in entries) > len(data):
                raise ValueError("its sizes are wrong")
            for entry in entries:
                if not is_inside(entry.filename) or entry.filename != Path(entry.filename).as_posix():
                    raise ValueError(f"{printable(entry.filename)[:100]!r} leads out of it")
            for entry in entries:
                path = confined(folder, entry.filename)
                content = archive.read(entry)  # Compares the checksum.
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise RequestError(
            f"What came from the other computer is damaged ({reason_of(error)}).", DAMAGED
        ) from error


def place(data: bytes, root: Path, unit: str) -> None:
    """Replace a file or folder of a job folder by the one that a parcel has: a file in one step, a folder by two renames.

    Raises RequestError if the parcel is damaged or has something else, and OSError; what was there before is kept then.
    """
    target = confined(root, unit)
    aside = root / "checkpoints"
    aside.mkdir(exist_ok=True)  # Not its parents: a job that was deleted stays deleted.
    target.parent.mkdir(exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=aside, prefix=TEMPORARY))
    try:
        unpack(data, new)
        source = confined(new, unit)
        others = [
            path
            for path in new.rglob("*")
            if path.is_file() and path != source and source not in path.parents
        ]
        if others or not source.exists():
            raise RequestError(f"What came from the other computer is not {printable(unit)}.", DAMAGED)
        if source.is_file() and not target.is_dir():
            source.replace(target)
            return
        if target.exists():
            target.rename(new / f"{TEMPORARY}old")
        source.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(storage: str, name: str, data: bytes) -> dict[str, Any]:
    """Write a parcel to a storage of fsspec. Returns where and what it is, which is sent when all of it is there.

    Raises RequestError if the storage cannot be written.
    """
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(storage)
        path = f"{root.rstrip('/')}/{name}"
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
        with files.open(path, "wb") as stream:
            stream.write(data)
    except Exception as error:  # Of any library behind fsspec.
        raise _of_storage(storage, "written", error) from error
    return {"name": name, "size": len(data), "sha256": digest(data)}


def take(storage: str, note: dict[str, Any]) -> bytes:
    """Read a parcel from a storage, and remove it there. Raises RequestError if it is not the one of the note."""
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(storage)
        path = f"{root.rstrip('/')}/{note['name']}"
        with files.open(path, "rb") as stream:
            data = stream.read(note["size"] + 1)
        files.rm_file(path)
    except Exception as error:
        raise _of_storage(storage, "read", error) from error
    return checked(data, note)


def sweep(storage: str, folder: str) -> None:
    """Remove what a node that died has left of a job. Raises RequestError."""
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(storage)
        if files.exists(path := f"{root.rstrip('/')}/{folder}"):
            files.rm(path, recursive=True)
    except Exception as error:
        raise _of_storage(storage, "emptied", error) from error


def checked(data: bytes, note: dict[str, Any]) -> bytes:
    """The parcel, if it is that of the note. Raises RequestError otherwise."""
    if len(data) != note["size"] or digest(data) != note["sha256"]:
        raise RequestError("What came from the other computer is not whole.", DAMAGED)
    return data


def _of_storage(storage: str, done: str, error: Exception) -> RequestError:
    shown = re.sub(r"//[^/@]*@", "//", printable(storage)[:200])  # Without a password.
    return RequestError(
        f"The storage {shown} cannot be {done} ({reason_of(error)}).",
        "Check its URL, and that this computer and every node of the cluster may write there.",
    )
