"""Reading and writing files in folders that a stranger may have filled: nothing is followed, run, or read without bounds.

Standard library only (numpy to read arrays), and shared with the add-on like protocol.py.
"""

from __future__ import annotations

import io
import math
import os
import re
import secrets
import stat
import time
import zipfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

MAX_JSON_BYTES = 8 * 2**20
"""Of job.json and its like, which have some kilobytes."""
MAX_ARRAYS_BYTES = 2**30
"""Of all arrays of an .npz together: about seven times the largest mesh to start from."""
MAX_ENTRIES = 64
"""Of an .npz."""
MAX_FILES = 100_000
"""Of a job folder, which has some hundreds."""
LEFTOVER = re.compile(r"\..*\.(json|png|jpg|npz|glb|md|safetensors)\.[0-9a-z_]{8,12}")
"""Temporary names of `write_atomically`, now and in earlier versions."""
MAX_HEADER = 10_000
"""Bytes of the header of an array."""
NPY_HEADER = re.compile(
    rb"\{'descr': ?'(?P<type>[<>|=](f[248]|[iu][1248]|b1))', ?'fortran_order': ?(?P<by_columns>True|False), ?"
    rb"'shape': ?\((?P<shape>(\d{1,15}(, ?\d{1,15}){0,7})?,?)\),? ?\}\s*"
)
"""As every version of numpy writes it."""
LINK_TAGS = {0xA000000C, 0xA0000003}
"""Windows' tags of symbolic links and junctions; other tags are those of files in a cloud."""


class RequestError(ValueError):
    """A request that cannot be run. `message` says what is wrong, `hint` what to do, `kind` which ErrorKind it is."""

    def __init__(self, message: str, hint: str, kind: str = "request") -> None:
        super().__init__(f"{message} {hint}")
        self.message = message
        self.hint = hint
        self.kind = kind


class FileMissing(RequestError):
    """There is no such file."""


def reason_of(error: BaseException) -> str:
    """What an exception says, in a few words: the system's own for an OSError, without the path."""
    text = error.strerror if isinstance(error, OSError) else ""
    words = (text or str(error)).strip() or type(error).__name__
    return printable(words.splitlines()[0][:200]).rstrip(".")


def printable(text: object) -> str:
    """Text that every stream can print on one line: control characters and what is no Unicode are written out.

    >>> printable(Path("left \\udce9.png"))
    'left \\\\udce9.png'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


def is_link(path: Path) -> bool:
    """Is this a symbolic link or a junction? False if there is nothing. Raises OSError, ValueError for odd names."""
    try:
        return _links(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _links(status: os.stat_result) -> bool:
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) in LINK_TAGS


def is_inside(name: str) -> bool:
    """Is this the name of something inside a folder, in every system: relative, and without a step up?

    >>> is_inside("templates/front.png"), is_inside("../front.png"), is_inside("C:/front.png"), is_inside("")
    (True, False, False, False)
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    leads_out = posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts)
    return bool(posix.parts) and "\0" not in name and not leads_out


def confined(root: Path, name: str) -> Path:
    """The path inside `root` that a file names, which must be relative and must not lead out or through a link.

    The root itself may be a link: its owner chose it. Raises RequestError.

    >>> confined(Path("jobs"), "templates/front.png").as_posix()
    'jobs/templates/front.png'
    >>> try:
    ...     confined(Path("jobs"), "../front.png")
    ... except RequestError as error:
    ...     print(error.message)
    '../front.png' is not inside its folder.
    """
    hint = "The folder is damaged, or was not made by RecDreamer; start a new job."
    shown = printable(name)[:200]
    if not is_inside(name):
        raise RequestError(f"'{shown}' is not inside its folder.", hint)
    path = root
    for part in PurePath(name).parts:
        path = path / part
        try:
            if is_link(path):
                raise RequestError(f"'{shown}' is a link.", hint)
        except (OSError, UnicodeError) as error:
            raise RequestError(f"'{shown}' cannot be read ({reason_of(error)}).", hint) from error
    return path


def check_tree(root: Path, names: Collection[str]) -> None:
    """Raise RequestError if one of these files or folders below `root`, or anything inside, is no file or folder.

    A link would lead reading and writing elsewhere, a FIFO or a device would hold them up.
    """
    pending, count = [path for name in names if os.path.lexists(path := root / name)], 0
    while pending:
        path = pending.pop()
        try:
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode) and not _links(status):
                with os.scandir(path) as entries:
                    pending += [Path(entry.path) for entry in entries]
            else:
                _check_regular(status, printable(path.relative_to(root).as_posix()))
        except FileNotFoundError:
            continue  # A temporary file of another process.
        except OSError as error:
            raise RequestError(
                f"{printable(path)} cannot be read ({reason_of(error)}).", "Check its permissions."
            ) from error
        count += 1
        if count > MAX_FILES:
            raise RequestError(
                f"{printable(root)} has more than {MAX_FILES:,} files.", "Choose a folder that is a job."
            )


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Descriptor of a regular file. A link is not followed, and a FIFO or a device is not opened.

    Nothing is written to a file that has a second name, a hard link, elsewhere. Raises OSError and RequestError.
    """
    with suppress(FileNotFoundError):
        _check_regular(os.lstat(path), printable(path.name))
    # For what takes the file's place in between.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o666)
    try:
        status = os.fstat(handle)
        _check_regular(status, printable(path.name))
        if status.st_nlink > 1 and flags & (os.O_WRONLY | os.O_RDWR):
            raise RequestError(
                f"{printable(path.name)} has a second name elsewhere.", "Replace it by a copy."
            )
    except RequestError:
        os.close(handle)
        raise
    return handle


def _check_regular(status: os.stat_result, shown: str) -> None:
    if not stat.S_ISREG(status.st_mode) or _links(status):
        raise RequestError(
            f"{shown} is {'a link' if _links(status) else 'no file'}.",
            "Remove it: only regular files are read or written here.",
        )


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """The content of a regular file of at most `limit_bytes`. Raises RequestError; FileMissing if there is none.

    Its size is checked before anything is read.
    """
    name = printable(path.name)
    try:
        with os.fdopen(open_regular(path), "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            # A file may grow meanwhile, but memory for the whole limit would be reserved at once.
            data = stream.read(min(limit_bytes, size + 2**16) + 1) if size <= limit_bytes else b""
    except FileNotFoundError as error:
        raise FileMissing(f"There is no file {printable(path)}.", "Check the folder and the name.") from error
    except RequestError:
        raise
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{name} cannot be read ({reason_of(error)}).", "Check the file and its permissions."
        ) from error
    if size > limit_bytes or len(data) > limit_bytes:
        raise RequestError(
            f"{name} has {max(size, len(data)):,} bytes; at most {limit_bytes:,} are read.",
            "Use a smaller file.",
        )
    return data


def read_npz(
    source: Path | bytes, names: Collection[str], limit_bytes: int = MAX_ARRAYS_BYTES
) -> dict[str, Any]:
    """Those arrays of an .npz that are in `names`. Raises RequestError, whatever is wrong with the file.

    The sizes that the archive and the arrays declare are checked before anything is inflated, and no more is inflated
    than was declared. Numbers and booleans only: nothing is unpickled. Shapes, types and values are the caller's.
    """
    shown = "The data" if isinstance(source, bytes) else printable(source.name)
    data = source if isinstance(source, bytes) else read_bounded(source, limit_bytes)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES or len({entry.filename for entry in entries}) < len(entries):
                raise ValueError("it has too many entries")
            wanted = {f"{name}.npy": name for name in names}
            chosen = [entry for entry in entries if entry.filename in wanted]
            if sum(entry.file_size for entry in chosen) > limit_bytes:
                raise ValueError(f"its arrays have more than {limit_bytes:,} bytes")
            arrays = {}
            for entry in chosen:
                with archive.open(entry) as stream:
                    arrays[wanted[entry.filename]] = _read_npy(stream, entry.file_size)
            return arrays
    except Exception as error:  # Of zipfile, zlib, numpy, ast, tokenize: any damage is one thing.
        raise RequestError(
            f"{shown} is no readable .npz file ({reason_of(error)}).", "The file is damaged; make it again."
        ) from error


def _read_npy(stream: Any, size: int) -> Any:
    """An array of exactly `size` bytes, header included."""
    import numpy as np

    start = stream.read(10)
    if start[:8] not in (b"\x93NUMPY\x01\0", b"\x93NUMPY\x02\0") or len(start) < 10:
        raise ValueError("an array has no header")
    length = start[8:] + (stream.read(2) if start[6] == 2 else b"")
    # Not read by numpy, which ends the process for some types, nor by Python, which may for some nestings.
    header = NPY_HEADER.fullmatch(stream.read(min(int.from_bytes(length, "little"), MAX_HEADER)))
    if header is None:
        raise ValueError("an array is of another kind than numbers")
    dtype = np.dtype(header["type"].decode("ascii"))
    shape = tuple(int(side) for side in header["shape"].split(b",") if side.strip())
    if math.prod(shape) * dtype.itemsize != size - stream.tell():
        raise ValueError("the size of an array is wrong")
    values = _read_exactly(stream, math.prod(shape) * dtype.itemsize)
    return (
        np.frombuffer(values, dtype)
        .reshape(shape, order="F" if header["by_columns"] == b"True" else "C")
        .copy()
    )


def _read_exactly(stream: Any, size: int) -> bytes:
    # With an explicit size, because zipfile inflates everything for read(), whatever size the entry declares.
    parts, left = [], size
    while left:
        part = stream.read(min(left, 2**24))
        if not part:
            raise ValueError("it ends too early")
        parts.append(part)
        left -= len(part)
    if stream.read(1):  # Also lets zipfile check the sum.
        raise ValueError("it does not end where it should")
    return b"".join(parts)


def write_atomically(path: Path, data: str | bytes) -> None:
    """Replace a file in one step: after a crash, and for any reader, it has the old content or the new, never a part.

    A link is replaced, not followed. The permissions are those of a new file under the umask. Folders are not made, so
    that nothing comes back after it was deleted. Raises OSError.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.parent / f".{path.name[-40:]}.{secrets.token_hex(6)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        _replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # Nobody knows the temporary name.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def sweep_temporaries(*folders: Path) -> None:
    """Remove what killed processes left of `write_atomically`. The caller is the only one who writes there."""
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if LEFTOVER.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()


def _replace(source: Path, target: Path) -> None:
    """`source.replace(target)`. On Windows it fails as long as a reader has the target open, so try for a second."""
    for _ in range(20 if os.name == "nt" else 0):
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(0.05)
    source.replace(target)
