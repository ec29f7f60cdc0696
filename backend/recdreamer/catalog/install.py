"""Installed models: get, verify and remove entries of the catalog. Events tell the caller everything; see `Emit`."""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from recdreamer.catalog.check_model import check_model
from recdreamer.catalog.download import WAITS_S, bytes_present, fetch, patiently, sha256_of
from recdreamer.catalog.entries import Entry, License, entries, entry_of, with_needs
from recdreamer.catalog.hub import Hub, Listing
from recdreamer.catalog.locate import is_installed, locate
from recdreamer.catalog.places import MANIFEST, Choices
from recdreamer.report import JobError, Tick, no_tick
from recdreamer.shared.json_values import parse_json
from recdreamer.shared.protocol import RequestError, write_atomically
from recdreamer.shared.safe_files import is_inside

Emit = Callable[[dict[str, Any]], None]
"""Receives the events of `get`, in this order; readers ignore unknown types and fields:

- here: id, kind, path. A model that is on this machine already.
- license: id, title, url, text, models. To be read before it is accepted.
- warning: message.
- plan: models (id, title, repo, revision, bytes, license, verified), bytes, present_bytes, free_bytes.
- progress: bytes, total, bytes_per_s, eta_s (None at first), id, file.
- model: id, kind, path, bytes. One that is complete now.
"""
SPARE_BYTES = 200_000_000
"""Left free on the disk."""
PROGRESS_S = 0.2
"""Least time between two events of progress."""
SPEED_S = 10.0
"""Time over which the speed is averaged."""


def entry_called(name: str) -> Entry:
    """The entry of the catalog. Raises RequestError if there is none."""
    if (entry := entry_of(name)) is None:
        raise RequestError(
            f"The catalog has no {name!r}.", f"Choose one of: stable-diffusion, {', '.join(entries())}."
        )
    return entry


def get(
    names: Sequence[str],
    folder: Path,
    emit: Emit,
    *,
    accept: Callable[[License], bool],
    hub: Callable[[], Hub] = Hub,
    dry_run: bool = False,
    tick: Tick = no_tick,
    waits_s: tuple[float, ...] = WAITS_S,
) -> None:
    """Fetch entries with all that they need, into `folder`; what is on this machine already is left alone.

    `accept` is asked once for each license that restricts use and was not accepted before. `tick` may raise to cancel;
    everything fetched so far stays, and the next attempt goes on there. Raises RequestError and JobError.
    """
    wanted = {one.id: one for name in names for one in with_needs(entry_called(name))}
    missing = []
    for entry in wanted.values():
        try:
            path = locate(entry.id, entry.kind, folder)
            emit({"type": "here", "id": entry.id, "kind": entry.kind, "path": str(path)})
        except RequestError:
            missing.append(entry)
    if not missing:
        return
    _ask_for_licenses(missing, folder, emit, None if dry_run else accept)
    with _locked(folder, not dry_run):
        there = hub()
        listings = {entry.id: _listing(there, entry, emit, waits_s, tick) for entry in missing}
        targets = {
            (name, file.path): folder / name / file.path
            for name, one in listings.items()
            for file in one.files
        }
        meter = Meter(emit, sum(one.size for one in listings.values()), tick)
        for name, listing in listings.items():
            for file in listing.files:
                meter.begin(name, file.path, bytes_present(targets[name, file.path], file))
        free = _free_bytes(folder)
        emit(
            {
                "type": "plan",
                "models": [
                    {"id": entry.id, "title": entry.title, "repo": listings[entry.id].repo,
                     "revision": listings[entry.id].commit, "bytes": listings[entry.id].size,
                     "license": entry.license.title, "verified": entry.verified}
                    for entry in missing
                ],
                "bytes": meter.total, "present_bytes": meter.done, "free_bytes": free,
            }
        )  # fmt: skip
        needed = meter.total - meter.done
        if needed + SPARE_BYTES > free:
            raise JobError(
                "disk_full",
                f"{needed / 1e9:.1f} GB are still to be fetched, but only {free / 1e9:.1f} GB are free in {folder}.",
                "Free some space, or choose another folder for models.",
            )
        if dry_run:
            return
        for entry in missing:
            listing = listings[entry.id]
            for file in listing.files:
                at = meter.begin(entry.id, file.path, 0)
                fetch(there, listing, file, targets[entry.id, file.path], at, waits_s)
            _finish(entry, listing, folder / entry.id)
            emit(
                {"type": "model", "id": entry.id, "kind": entry.kind, "path": str(folder / entry.id),
                 "bytes": listing.size}
            )  # fmt: skip


def _ask_for_licenses(
    missing: Sequence[Entry], folder: Path, emit: Emit, accept: Callable[[License], bool] | None
) -> None:
    """Show each license that is to be accepted and was not yet; without `accept` nobody is asked."""
    choices = Choices.read(folder)
    open_ones = {
        entry.license.id: entry.license
        for entry in missing
        if entry.license.must_accept and entry.license.id not in choices.accepted
    }
    for license in open_ones.values():
        emit(
            {
                "type": "license",
                "id": license.id,
                "title": license.title,
                "url": license.url,
                "text": license.text,
                "models": [entry.title for entry in missing if entry.license == license],
            }
        )
        if accept is None:
            continue
        if not accept(license):
            raise JobError(
                "license",
                f"The license of this model, {license.title}, is not accepted yet.",
                f"Read it ({license.url}), then repeat with --accept-license.",
            )
        choices.accepted[license.id] = date.today().isoformat()
    if open_ones and accept is not None:
        with _writing(folder):
            choices.write(folder)


def _listing(hub: Hub, entry: Entry, emit: Emit, waits_s: tuple[float, ...], tick: Tick) -> Listing:
    """The entry's files as the first of its sources that has them lists them."""
    paths, failure = [file.path for file in entry.files], None
    for source in entry.sources:
        try:
            listing = patiently(lambda source=source: hub.list_files(source, paths), waits_s, tick)
        except JobError as error:
            if error.kind not in ("not_found", "access"):
                raise
            failure = error
            continue
        _compare(entry, listing, emit)
        return listing
    raise failure or AssertionError("an entry without a source")


def _compare(entry: Entry, listing: Listing, emit: Emit) -> None:
    """Compare what the Hub lists with the catalog. Raises JobError if a verified entry differs."""
    for known, listed in zip(entry.files, listing.files, strict=True):
        differs = known.sha256 and listed.sha256 and known.sha256 != listed.sha256
        if entry.verified and (differs or known.size != listed.size):
            raise JobError(
                "changed",
                f"{listing.repo} has another {known.path} than the catalog expects.",
                "Update RecDreamer, or choose another mirror (HF_ENDPOINT).",
            )
        if differs:
            message = f"{listing.repo} lists another {known.path} than public records of this revision do."
            emit({"type": "warning", "message": message})


def _finish(entry: Entry, listing: Listing, folder: Path) -> None:
    """Check that the complete files are the model that they should be, and write the manifest."""
    try:
        check_model(folder, entry.kind)
    except RequestError as error:
        raise JobError("unusable", error.message, "Update RecDreamer, or choose another model.") from error
    files = [
        {"path": file.path, "size": file.size, "sha256": file.sha256 or sha256_of(folder / file.path)}
        for file in listing.files
    ]
    manifest = {
        "id": entry.id, "title": entry.title, "repo": listing.repo, "revision": listing.commit,
        "license": entry.license.id, "license_url": entry.license.url,
        "installed": date.today().isoformat(), "files": files,
    }  # fmt: skip
    with _writing(folder):
        for leftover in folder.rglob("*.part"):
            leftover.unlink(missing_ok=True)
        write_atomically(folder / "LICENSE.txt", entry.license.text)
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2))


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of an installed model; None if it is not complete."""
    return parse_json((folder / MANIFEST).read_bytes()) if is_installed(folder) else None


def verify(entry: Entry, folder: Path, tick: Callable[[str], None] = lambda _: None) -> list[str]:
    """Names of the files of an installed model that are missing or not what was installed; empty if all is well.

    Wrong files are deleted, so that the model is no longer complete and `get` fetches exactly those again. Raises
    RequestError if it is not installed.
    """
    own = folder / entry.id
    try:
        files = parse_json((own / MANIFEST).read_bytes())["files"]
        if not all(is_inside(file["path"]) and isinstance(file["sha256"], str) for file in files):
            raise ValueError("a file of it is elsewhere")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{entry.title} is not installed, or not completely.", f"Get it: recdreamer models get {entry.id}"
        ) from error
    wrong = []
    for file in files:
        tick(file["path"])
        path = own / file["path"]
        if not path.is_file() or sha256_of(path, lambda file=file: tick(file["path"])) != file["sha256"]:
            wrong.append(file["path"])
    if wrong:
        with _writing(own):
            for name in wrong:
                (own / name).unlink(missing_ok=True)
    return wrong


def remove(entry: Entry, folder: Path) -> int:
    """Delete an installed model, complete or not. Returns the freed bytes. Raises RequestError if there is none."""
    own = folder / entry.id
    if own.is_symlink():  # The artist's own arrangement: what it points at stays.
        own.unlink()
        return 0
    if not own.is_dir():
        raise RequestError(
            f"{entry.title} is not installed in {folder}.",
            "Models in a Hugging Face cache belong to it: see `hf cache`.",
        )
    freed = sum(path.stat().st_size for path in own.rglob("*") if path.is_file())
    with _locked(folder, True), _writing(own):
        (own / MANIFEST).unlink(
            missing_ok=True
        )  # First, so that a half-deleted model is never taken for one.
        shutil.rmtree(own)
    return freed


@dataclass
class _Now:
    id: str = ""
    file: str = ""


class Meter:
    """Bytes of all files together: emits progress with speed and remaining time."""

    def __init__(self, emit: Emit, total: int, tick: Tick) -> None:
        self.total = total
        self._emit, self._tick = emit, tick
        self._bytes: dict[tuple[str, str], int] = {}
        self._now = _Now()
        self._sent_s = -PROGRESS_S
        self._past: deque[tuple[float, int]] = deque()

    @property
    def done(self) -> int:
        return sum(self._bytes.values())

    def begin(self, name: str, path: str, there: int) -> Callable[[int], None]:
        """Count a file. Returns what is called with its bytes."""
        self._bytes.setdefault((name, path), there)

        def at(there: int) -> None:
            self._now = _Now(name, path)
            self._bytes[name, path] = there
            self._tick()
            self._report()

        return at

    def _report(self) -> None:
        now_s = time.monotonic()
        done = self.done
        if now_s - self._sent_s < PROGRESS_S and done != self.total:
            return
        self._sent_s = now_s
        self._past.append((now_s, done))
        while now_s - self._past[0][0] > SPEED_S and len(self._past) > 2:
            self._past.popleft()
        (then_s, then), speed = self._past[0], 0.0
        if now_s > then_s:
            speed = max(0.0, (done - then) / (now_s - then_s))
        self._emit(
            {
                "type": "progress",
                "bytes": done,
                "total": self.total,
                "bytes_per_s": round(speed),
                "eta_s": round((self.total - done) / speed, 1) if speed else None,
                "id": self._now.id,
                "file": self._now.file,
            }
        )


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def _writing(folder: Path):
    """Turn a failure to write into one sentence."""
    from recdreamer.catalog.hub import trouble

    try:
        yield
    except OSError as error:
        raise trouble(error, str(folder)) from error


@contextmanager
def _locked(folder: Path, wanted: bool):
    """Keep other downloads out of the folder. Raises JobError if one is running."""
    if not wanted:
        yield
        return
    from huggingface_hub.utils import WeakFileLock

    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(folder / ".lock", timeout=0.5))
        except TimeoutError as error:
            raise JobError(
                "busy",
                "Another download into this folder is running.",
                "Wait until it ends, or stop it first.",
            ) from error
        yield
