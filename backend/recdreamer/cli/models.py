"""The command `recdreamer models`: list, get, add, verify, remove.

With --json each prints one JSON object per line: the rows, and last `result`, `cancelled`, or `error` (kind, message,
hint). Then a download listens on its standard input for a line "cancel", and its end means that the caller ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from recdreamer.catalog.check_model import check_model, shown_name
from recdreamer.catalog.entries import RECOMMENDED, License, entries, entry_of
from recdreamer.catalog.install import entry_called, get, manifest_of, remove, verify
from recdreamer.catalog.locate import found_models, locate, models_in
from recdreamer.catalog.places import MANIFEST, Choices, models_folder
from recdreamer.job.process import StopRequests
from recdreamer.paths import given_path
from recdreamer.report import Cancelled, JobError
from recdreamer.shared.protocol import RequestError

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Common:
    folder: Path | None = None
    """Folder of installed models. Default: RECDREAMER_MODELS, else `models` in the data folder."""
    json: bool = False
    """Print one JSON object per line."""


@dataclass(frozen=True)
class ListModels(_Common):
    """Show what can be fetched, what is installed, and what else is on this machine."""


@dataclass(frozen=True)
class Get(_Common):
    """Fetch a model with all that it needs. Repeat the command to go on where it stopped."""

    names: tyro.conf.Positional[tuple[str, ...]] = ("stable-diffusion",)
    """stable-diffusion, or ids from the list."""
    accept_license: bool = False
    """Accept the licenses of these models; remembered."""
    dry_run: bool = False
    """Only show what would be fetched, and how large it is."""


@dataclass(frozen=True)
class Add(_Common):
    """Add a model of your own: a folder in the format of diffusers, a .safetensors file, or a folder with such files."""

    path: tyro.conf.Positional[Path]


@dataclass(frozen=True)
class Verify(_Common):
    """Compare installed models with what was fetched, byte by byte. `get` fetches damaged files again."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Ids from the list. Default: all that are installed."""


@dataclass(frozen=True)
class Remove(_Common):
    """Delete an installed model, or forget one that was added; files of your own stay."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Ids or paths from the list."""


@dataclass(frozen=True)
class Models:
    """Image models and what belongs to them: find, fetch, check and remove."""

    do: (
        Annotated[ListModels, tyro.conf.subcommand("list")]
        | Annotated[Get, tyro.conf.subcommand("get")]
        | Annotated[Add, tyro.conf.subcommand("add")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Remove, tyro.conf.subcommand("remove")]
    )


def run_models(command: Models) -> int:
    """Returns the exit code: 0, 1 after an error, 4 if it was cancelled. Raises nothing with --json."""
    do = command.do
    emit = _as_line if do.json else View().show
    try:
        match do:
            case ListModels():
                rows = list_models(do)
            case Get():
                rows = _get(do, emit)
            case Add():
                rows = _add(do)
            case Verify():
                rows = _verify(do, emit)
            case Remove():
                rows = _remove(do)
        for row in rows:
            emit(row)
        emit({"type": "result", "folder": str(models_folder(do.folder))})
    except Cancelled:
        emit({"type": "cancelled"})
        return 4
    except (RequestError, JobError) as error:
        kind = error.kind if isinstance(error, JobError) else "request"
        emit({"type": "error", "kind": kind, "message": error.message, "hint": error.hint})
        return 1
    return int(any(row.get("wrong") for row in rows))


def list_models(command: ListModels) -> list[Row]:
    """A row for each entry of the catalog, and for each model on this machine that is none of them.

    `state`: installed, found (in a Hugging Face cache), incomplete (a download that was interrupted, or a damaged model),
    available (not on this machine), added, refused (cannot be used; `reason` says why).
    """
    folder = models_folder(command.folder)
    choices, rows, places = Choices.read(folder), [], set()
    for entry in entries().values():
        own = folder / entry.id
        row: Row = {
            "type": "model", "id": entry.id, "title": entry.title, "kind": entry.kind, "about": entry.about,
            "bytes": entry.size, "needs": list(entry.needs), "license": entry.license.title,
            "license_url": entry.license.url, "verified": entry.verified,
            "recommended": entry == entry_of(RECOMMENDED),
            "accepted": not entry.license.must_accept or entry.license.id in choices.accepted,
        }  # fmt: skip
        try:
            path = locate(entry.id, entry.kind, folder)
            row |= {"state": "installed" if path == own else "found"} | check_model(path).as_json()
            places.add(path)
        except RequestError:
            row["state"] = "incomplete" if own.is_dir() else "available"
        rows.append(row)
    for found in found_models(folder):
        if found.path in places:
            continue
        row = {"type": "model", "id": str(found.path), "title": found.name, "path": str(found.path)}
        if found.model is None:
            row |= {"state": "refused", "kind": "prior", "reason": found.reason}
        else:
            row |= {"state": "found" if found.origin == "cache" else "added"} | found.model.as_json()
        rows.append(row)
    return rows


def _get(command: Get, emit: Callable[[Row], None]) -> list[Row]:
    stop = StopRequests()
    if command.json:
        stop.listen(stop_at_end=True)

    def tick() -> None:
        if stop.asked:
            raise Cancelled

    def accept(license: License) -> bool:
        if command.accept_license or command.json or not sys.stdin.isatty():
            return command.accept_license
        return input(f"Do you accept the {license.title}? [y/N] ").strip().lower() in ("y", "yes")

    folder = models_folder(command.folder)
    try:
        get(command.names, folder, emit, accept=accept, dry_run=command.dry_run, tick=tick)
    except KeyboardInterrupt as error:
        raise Cancelled from error
    return []


def _add(command: Add) -> list[Row]:
    path = given_path(command.path).absolute()
    inside = models_in(path)
    if not inside:
        models = [check_model(path)]  # Whose error is the answer, if it cannot be used.
    else:
        models = []
        for one in inside:
            try:
                models.append(check_model(one))
            except RequestError as error:
                reason = error
        if not models:
            count = "The model" if len(inside) == 1 else f"None of the {len(inside)} models"
            cannot = "cannot be used" if len(inside) == 1 else "can be used"
            raise RequestError(f"{count} in {path} {cannot}: {reason.message}", reason.hint)
    folder = models_folder(command.folder)
    choices = Choices.read(folder)
    if str(path) not in choices.added:
        choices.added.append(str(path))
        choices.write(folder)
    return [
        {"type": "model", "state": "added", "id": str(model.path), "title": shown_name(model.path)} | model.as_json()
        for model in models
    ]  # fmt: skip


def _verify(command: Verify, emit: Callable[[Row], None]) -> list[Row]:
    folder, rows = models_folder(command.folder), []
    names = command.names or tuple(name for name in entries() if (folder / name / MANIFEST).is_file())
    for name in names:
        entry = entry_called(name)
        seen = ""

        def tick(path: str, name: str = entry.id) -> None:
            nonlocal seen
            if path != seen:
                seen = path
                emit({"type": "checking", "id": name, "file": path})

        wrong = verify(entry, folder, tick)
        manifest = manifest_of(folder / entry.id) or {}
        rows.append(
            {"type": "verified", "id": entry.id, "wrong": wrong, "revision": manifest.get("revision", "")}
        )
    return rows


def _remove(command: Remove) -> list[Row]:
    folder, rows = models_folder(command.folder), []
    choices = Choices.read(folder)
    for name in command.names:
        path = str(given_path(name).absolute())
        if path in choices.added:
            choices.added.remove(path)
            choices.write(folder)
            rows.append({"type": "removed", "id": path, "bytes": 0})
        else:
            rows.append({"type": "removed", "id": name, "bytes": remove(entry_called(name), folder)})
    return rows


def _as_line(row: Row) -> None:
    print(json.dumps(row, ensure_ascii=False), flush=True)


class View:
    """Shows rows as text: one line each, and progress in place on a terminal."""

    def __init__(self) -> None:
        self._is_open = False
        self._percent = -1

    def show(self, row: Row) -> None:
        text = self._text(row)
        if row["type"] == "progress":
            if sys.stdout.isatty():
                print(f"\r{text:<100.100}", end="", flush=True)
                self._is_open = True
            elif (percent := 100 * row["bytes"] // max(1, row["total"]) // 10) != self._percent:
                self._percent = percent
                print(text, flush=True)
            return
        if self._is_open:
            print()
            self._is_open = False
        if text:
            print(text, file=sys.stderr if row["type"] == "error" else sys.stdout, flush=True)

    def _text(self, row: Row) -> str:
        match row["type"]:
            case "model" if "state" in row:
                what = row.get("reason") or row.get("path") or row.get("about", "")
                size = f", {row['bytes'] / 1e9:.2f} GB" if "bytes" in row else ""
                return f"{row['state']:<11} {row['id']} ({row['title']}{size})\n            {what}"
            case "model":
                return f"{row['id']} is complete: {row['path']}"
            case "here":
                return f"{row['id']} is on this machine already: {row['path']}"
            case "license":
                return (
                    f"{row['text']}\n{row['title']}: {row['url']}\nIt holds for {', '.join(row['models'])}."
                )
            case "warning":
                return f"Warning: {row['message']}"
            case "plan":
                lines = [
                    f"{one['title']}: {one['bytes'] / 1e6:,.0f} MB from {one['repo']} at {one['revision'][:12]}"
                    for one in row["models"]
                ]
                left = (row["bytes"] - row["present_bytes"]) / 1e9
                return "\n".join(
                    [*lines, f"{left:.2f} GB to fetch; {row['free_bytes'] / 1e9:.1f} GB are free."]
                )
            case "progress":
                eta_s = row["eta_s"]
                left = "" if eta_s is None else f", {int(eta_s) // 60}:{int(eta_s) % 60:02d} left"
                speed = f"{row['bytes_per_s'] / 1e6:.1f} MB/s{left}"
                return f"{row['bytes'] / 1e9:.2f} of {row['total'] / 1e9:.2f} GB, {speed}, {row['id']}/{row['file']}"
            case "checking":
                return f"{row['id']}/{row['file']}"
            case "verified":
                names = ", ".join(row["wrong"])
                again = f"{row['id']} was damaged ({names}). Repair it: recdreamer models get {row['id']}"
                return again if row["wrong"] else f"{row['id']} is right to the last byte."
            case "removed":
                return f"{row['id']} is removed; {row['bytes'] / 1e9:.2f} GB are free again."
            case "error":
                return f"{row['message']} {row['hint']}"
            case "cancelled":
                return "Stopped. Repeat the command to go on."
        return ""
