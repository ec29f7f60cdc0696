"""One file from the Hub to the disk: resumed where it stopped, and right to the last byte, or not there at all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from recdreamer.catalog.hub import PASSING, Hub, Listing, RemoteFile, trouble
from recdreamer.report import JobError

WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Pauses between attempts that bring nothing new. Each new byte starts them again."""
BLOCK = 2**20

Result = TypeVar("Result")
At = Callable[[int], None]
"""Called with the number of bytes of the file that are there; may raise to cancel."""


def fetch(
    hub: Hub, listing: Listing, file: RemoteFile, target: Path, at: At, waits_s: tuple[float, ...] = WAITS_S
) -> None:
    """Fetch a file, or nothing if it is there already.

    Unfinished bytes stay beside the target as `.part`, named by the file's hash, so that no attempt goes on with another
    version. Raises JobError; whatever `at` raises, passes.
    """  # fmt: skip
    if target.is_file() and target.stat().st_size == file.size and is_right(target, file, at):
        at(file.size)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(target, file)
        was_resumed = part.exists() and part.stat().st_size > 0
        _complete(hub, listing, file, part, at, waits_s)
        if not is_right(part, file, at):
            part.unlink()
            if was_resumed:  # An earlier attempt may have left wrong bytes, as a crash of the system does.
                _complete(hub, listing, file, part, at, waits_s)
        if not part.exists() or not is_right(part, file, at):
            part.unlink(missing_ok=True)
            raise JobError(
                "checksum",
                f"{hub.host} sent wrong bytes for {file.path}; they were deleted.",
                "Try again, from another network or mirror (HF_ENDPOINT) if it happens again.",
            )
        part.replace(target)
    except OSError as error:
        raise trouble(error, hub.host, listing.repo) from error


def part_of(target: Path, file: RemoteFile) -> Path:
    """Where the bytes of an unfinished file wait."""
    return target.with_name(f"{target.name}.{file.hash[:12]}.part")


def bytes_present(target: Path, file: RemoteFile) -> int:
    """Bytes of a file that are there, finished or not."""
    for path in (target, part_of(target, file)):
        if path.is_file():
            return min(path.stat().st_size, file.size)
    return 0


def is_right(path: Path, file: RemoteFile, at: At = lambda _: None) -> bool:
    """Whether a file on the disk is the one that the Hub lists, to the last byte."""
    if path.stat().st_size != file.size:
        return False
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode())
    _feed(digest, path, lambda: at(file.size))
    return digest.hexdigest() == file.hash


def sha256_of(path: Path, tick: Callable[[], None] = lambda: None) -> str:
    digest = hashlib.sha256()
    _feed(digest, path, tick)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, path: Path, tick: Callable[[], None]) -> None:
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            tick()


def _complete(
    hub: Hub, listing: Listing, file: RemoteFile, part: Path, at: At, waits_s: tuple[float, ...]
) -> None:
    """Append to the part until it has the file's size. Raises JobError when waiting does not help."""
    failures = 0
    while (there := part.stat().st_size if part.exists() else 0) != file.size or not part.exists():
        if there > file.size:
            part.unlink()
            continue
        try:
            _append(hub, listing, file, part, there, at)
            error = JobError(
                "network", f"The connection to {hub.host} was cut.", "Try again to go on where it stopped."
            )
        except JobError as passing:
            if passing.kind not in PASSING:
                raise
            error = passing
        now = part.stat().st_size if part.exists() else 0
        if now == file.size and part.exists():
            return
        failures = 0 if now > there else failures + 1
        if failures >= len(waits_s) + 1:
            raise error
        _wait(waits_s[max(0, failures - 1)] if waits_s else 0.0, lambda size=now: at(size))


def _append(hub: Hub, listing: Listing, file: RemoteFile, part: Path, start: int, at: At) -> None:
    """One request: the bytes from `start` on, as many as come."""
    with hub.stream(listing, file, start) as (begins, blocks), part.open("r+b" if begins else "wb") as stream:
        stream.seek(begins)
        stream.truncate()
        done = begins
        at(done)
        for block in blocks:
            # A server that sends too much is not believed.
            stream.write(block[: file.size - done])
            done = min(file.size, done + len(block))
            at(done)


def patiently(action: Callable[[], Result], waits_s: tuple[float, ...], tick: Callable[[], None]) -> Result:
    """The outcome of a request that is repeated while its error may pass by waiting."""
    for wait_s in waits_s:
        try:
            return action()
        except JobError as error:
            if error.kind not in PASSING:
                raise
        _wait(wait_s, tick)
    return action()


def _wait(seconds: float, tick: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        tick()
        time.sleep(min(0.1, left))
