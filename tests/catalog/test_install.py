"""`recdreamer models` against a local hub: get, interrupted in every way, verify, remove, add, list."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recdreamer.catalog import install
from recdreamer.catalog.entries import entries
from recdreamer.catalog.hub import Hub
from recdreamer.catalog.install import get, remove, verify
from recdreamer.catalog.locate import is_installed, locate
from recdreamer.catalog.places import MANIFEST, Choices, models_folder
from recdreamer.report import Cancelled, JobError
from recdreamer.shared.protocol import RequestError

from . import models_on_disk as disk
from .local_hub import Fault, LocalHub

ROOT = Path(__file__).resolve().parents[2]
SET = ("taesd", "dinov2-small", "stable-diffusion-2-1-base")


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of each entry of the catalog, with small networks."""
    root = tmp_path_factory.mktemp("contents")
    folders = {
        "stable-diffusion-2-1-base": disk.sd_folder(root / "sd2", "sd2", half=True),
        "stable-diffusion-1-5": disk.sd_folder(root / "sd1", half=True),
        "dinov2-small": disk.dinov2_folder(root / "dino"),
        "taesd": disk.taesd_folder(root / "taesd"),
    }
    found = {}
    for name, folder in folders.items():
        files = disk.files_of(folder)
        # As the Hub has them; the library of today saves a tokenizer as one file.
        extra = {file.path: b"{}" for file in entries()[name].files if file.path.startswith("tokenizer/")}
        found[name] = extra | {"README.md": b"not wanted", "unet/old.ckpt": b"not wanted"} | files
    return found


@pytest.fixture
def filled(hub: LocalHub, contents: dict[str, dict[str, bytes]]) -> LocalHub:
    for name, files in contents.items():
        source = entries()[name].sources[0]
        commit = source.revision if len(source.revision) == 40 else "d" * 40
        hub.add(source.repo, commit, files)
    return hub


@pytest.fixture
def folder() -> Path:
    return models_folder()


Fetch = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def fetch(filled: LocalHub, folder: Path) -> Iterator[Fetch]:
    """`get` from the local hub. Returns the events."""

    def run(*names: str, accept: bool = True, **options: Any) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        options = {"waits_s": (0.0,)} | options
        try:
            get(
                names,
                folder,
                events.append,
                accept=lambda _: accept,
                hub=lambda: Hub(filled.endpoint, 0.5),
                **options,
            )
        finally:
            run.events = events  # type: ignore[attr-defined]
        return events

    yield run


def installed_bytes(folder: Path, name: str) -> dict[str, bytes]:
    return {file.path: (folder / name / file.path).read_bytes() for file in entries()[name].files}


def is_complete(folder: Path, name: str, contents: dict[str, dict[str, bytes]]) -> bool:
    return installed_bytes(folder, name) == {
        file.path: contents[name][file.path] for file in entries()[name].files
    }


def test_get_stable_diffusion_brings_all_that_usd_needs(
    fetch: Fetch, folder: Path, contents: dict, filled: LocalHub
) -> None:
    events = fetch("stable-diffusion")
    kinds = [event["type"] for event in events]
    assert kinds[0] == "license" and "plan" in kinds
    assert [event["id"] for event in events if event["type"] == "model"] == list(SET)
    for name in SET:
        assert is_complete(folder, name, contents) and is_installed(folder / name)
    progress = [event for event in events if event["type"] == "progress"]
    plan = next(event for event in events if event["type"] == "plan")
    assert (
        progress[-1]["bytes"]
        == progress[-1]["total"]
        == plan["bytes"]
        == sum(m["bytes"] for m in plan["models"])
    )
    assert [event["bytes"] for event in progress] == sorted(event["bytes"] for event in progress)
    # Nothing else came: no pickles, no pages.
    root = folder / SET[2]
    there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert there == {file.path for file in entries()[SET[2]].files} | {MANIFEST, "LICENSE.txt"}
    manifest = json.loads((folder / SET[2] / MANIFEST).read_text())
    assert manifest["revision"] == entries()[SET[2]].sources[0].revision
    assert all(len(file["sha256"]) == 64 for file in manifest["files"])
    # And again: nothing to do, and nobody is asked.
    before = len(filled.requests)
    assert [event["type"] for event in fetch("stable-diffusion")] == ["here"] * 3
    assert len(filled.requests) == before


def test_the_license_is_shown_first_and_its_acceptance_is_remembered(
    fetch: Fetch, folder: Path, filled: LocalHub
) -> None:
    with pytest.raises(JobError, match="is not accepted yet") as caught:
        fetch("stable-diffusion", accept=False)
    assert caught.value.kind == "license" and filled.requests == []
    event = fetch.events[-1]  # type: ignore[attr-defined]
    assert event["type"] == "license" and "Use Restrictions" in event["text"] and event["models"]
    assert Choices.read(folder).accepted == {}
    fetch("stable-diffusion")
    assert list(Choices.read(folder).accepted) == ["creativeml-openrail-pp-m"]
    remove(entries()["stable-diffusion-2-1-base"], folder)
    assert "license" not in {event["type"] for event in fetch("stable-diffusion", accept=False)}


def test_free_licenses_are_not_asked_for(fetch: Fetch) -> None:
    assert "license" not in {event["type"] for event in fetch("taesd", accept=False)}


def test_the_dry_run_writes_nothing(fetch: Fetch, folder: Path) -> None:
    events = fetch("stable-diffusion", accept=False, dry_run=True)
    assert [event["type"] for event in events if event["type"] != "warning"] == ["license", "plan"]
    assert events[-1]["bytes"] > 0 and [model["id"] for model in events[-1]["models"]] == list(SET)
    assert not folder.exists()


@pytest.mark.parametrize("seed", range(3))
def test_interrupted_at_any_place_the_next_attempt_completes_it(
    seed: int, fetch: Fetch, folder: Path, contents: dict, filled: LocalHub
) -> None:
    import random

    chance = random.Random(seed)
    faults = ("cut", "stall", "wrong", "status", "no_range")
    for _ in range(12):
        filled.faults.extend(
            Fault(chance.choice(faults), at=chance.choice((403, 404, 503)), seconds=0.6) for _ in range(6)
        )
        try:
            fetch("stable-diffusion", waits_s=())
        except JobError as error:
            assert error.kind in ("network", "timeout", "checksum", "access", "not_found", "busy")
        filled.faults.clear()
        # Whatever stands in its place is right.
        for name in SET:
            for file in entries()[name].files:
                path = folder / name / file.path
                assert not path.exists() or path.read_bytes() == contents[name][file.path]
    fetch("stable-diffusion")
    assert all(is_complete(folder, name, contents) for name in SET)


def test_progress_goes_on_where_it_stopped(fetch: Fetch, filled: LocalHub) -> None:
    stopped = [0]

    def cancel() -> None:
        stopped[0] += 1
        if stopped[0] > 40:
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch("stable-diffusion", tick=cancel)
    plan = next(event for event in fetch("stable-diffusion") if event["type"] == "plan")
    assert 0 < plan["present_bytes"] < plan["bytes"]


def test_a_mirror_serves_a_repository_that_is_gone(fetch: Fetch, folder: Path, filled: LocalHub) -> None:
    first, second = entries()["stable-diffusion-2-1-base"].sources
    filled.files[second.repo, second.revision] = filled.files.pop((first.repo, first.revision))
    plan = next(event for event in fetch("stable-diffusion") if event["type"] == "plan")
    assert [model["repo"] for model in plan["models"] if model["id"].startswith("stable")] == [second.repo]
    assert locate("stable-diffusion", "prior") == folder / "stable-diffusion-2-1-base"


def test_too_little_space_is_said_before_the_first_byte(
    fetch: Fetch, filled: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_free_bytes", lambda folder: 200_000_001)
    with pytest.raises(JobError, match=r"GB are still to be fetched, but only 0\.2 GB are free") as caught:
        fetch("stable-diffusion")
    assert caught.value.kind == "disk_full" and filled.sent == 0


def test_a_difference_from_the_catalog_is_reported(fetch: Fetch) -> None:
    """The local hub has small files: none has the hash that public records have."""
    warnings = [event["message"] for event in fetch("taesd") if event["type"] == "warning"]
    assert warnings == [
        "madebyollin/taesd lists another diffusion_pytorch_model.safetensors than public records of this revision do."
    ]


def test_of_a_verified_entry_a_difference_is_refused(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setitem(entries(), "taesd", replace(entries()["taesd"], verified=True))
    with pytest.raises(JobError, match="than the catalog expects") as caught:
        fetch("taesd")
    assert caught.value.kind == "changed"


def test_what_cannot_be_used_is_not_called_installed(fetch: Fetch, filled: LocalHub, folder: Path) -> None:
    key = next(key for key in filled.files if key[0] == "madebyollin/taesd")
    filled.files[key] = filled.files[key] | {"config.json": b'{"_class_name": "AutoencoderDC"}'}
    with pytest.raises(JobError, match="AutoencoderDC") as caught:
        fetch("taesd")
    assert caught.value.kind == "unusable" and not is_installed(folder / "taesd")


def test_two_downloads_do_not_meet(fetch: Fetch, folder: Path) -> None:
    from huggingface_hub.utils import WeakFileLock

    folder.mkdir(parents=True)
    with WeakFileLock(folder / ".lock"), pytest.raises(JobError, match="Another download") as caught:
        fetch("taesd")
    assert caught.value.kind == "busy"
    fetch("taesd")


def test_verify_finds_damage_and_get_repairs_exactly_that(
    fetch: Fetch, folder: Path, contents: dict, filled: LocalHub
) -> None:
    fetch("taesd")
    entry = entries()["taesd"]
    assert verify(entry, folder) == []
    weights = folder / "taesd" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert verify(entry, folder) == ["diffusion_pytorch_model.safetensors"]
    assert not is_installed(folder / "taesd")
    filled.requests.clear()
    fetch("taesd")
    assert is_complete(folder, "taesd", contents)
    fetched = [path for _, path, _ in filled.requests if "/resolve/" in path]
    assert len(fetched) == 1 and fetched[0].endswith("diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("place", ["../../precious", "/tmp/precious", "..\\precious"])
def test_a_manifest_that_names_files_elsewhere_deletes_none(fetch: Fetch, folder: Path, place: str) -> None:
    fetch("taesd")
    precious = folder.parent / "precious"
    precious.write_text("not of the model")
    manifest = folder / "taesd" / MANIFEST
    found = json.loads(manifest.read_text())
    found["files"][0]["path"] = place
    manifest.write_text(json.dumps(found))
    with pytest.raises(RequestError, match="not completely"):
        verify(entries()["taesd"], folder)
    assert precious.exists()


def test_unfinished_bytes_of_other_versions_are_tidied_up(fetch: Fetch, folder: Path) -> None:
    (folder / "taesd").mkdir(parents=True)
    old = folder / "taesd" / "diffusion_pytorch_model.safetensors.0123456789ab.part"
    old.write_bytes(bytes(1000))
    fetch("taesd")
    assert not old.exists() and is_installed(folder / "taesd")


def test_remove_frees_what_was_fetched_and_nothing_else(fetch: Fetch, folder: Path, tmp_path: Path) -> None:
    fetch("taesd", "dinov2-small")
    size = sum(path.stat().st_size for path in (folder / "taesd").rglob("*") if path.is_file())
    assert remove(entries()["taesd"], folder) == size
    assert not (folder / "taesd").exists() and is_installed(folder / "dinov2-small")
    # A link of the artist's own: what it points at stays.
    own = tmp_path / "elsewhere"
    (folder / "dinov2-small").rename(own)
    (folder / "dinov2-small").symlink_to(own)
    remove(entries()["dinov2-small"], folder)
    assert is_installed(own) and not (folder / "dinov2-small").is_symlink()


# The command, in a process of its own, as the add-on runs it.


def command(
    *arguments: str, endpoint: str = "", stdin: int = subprocess.DEVNULL, **variables: str
) -> subprocess.Popen[str]:
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import network_guard; network_guard.watch(); "
        "from recdreamer.cli.main import main; main(sys.argv[1:])"
    )
    environment = (
        os.environ | {"PYTHONPATH": str(ROOT / "backend"), "HF_HUB_DOWNLOAD_TIMEOUT": "1"} | variables
    )
    if endpoint:
        environment["HF_ENDPOINT"] = endpoint
    return subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent), "models", *arguments],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and rows. Its standard input is left as it is."""
    assert process.stdout is not None and process.stderr is not None
    rows, errors = [json.loads(line) for line in process.stdout], process.stderr.read()
    code = process.wait(60)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    assert "Traceback" not in errors, errors
    return code, rows


def test_the_command_fetches_lists_verifies_and_removes(
    filled: LocalHub, folder: Path, contents: dict
) -> None:
    code, rows = ended(command("get", "taesd", "--json", endpoint=filled.endpoint))
    assert code == 0 and rows[-1] == {"type": "result", "folder": str(folder)}
    assert is_complete(folder, "taesd", contents)
    code, rows = ended(command("list", "--json"))
    states = {row["id"]: row["state"] for row in rows if row["type"] == "model"}
    assert code == 0 and states["taesd"] == "installed" and states["clip"] == "available"
    code, rows = ended(command("verify", "--json"))
    assert code == 0 and rows[-2] == {
        "type": "verified", "id": "taesd", "wrong": [], "revision": entries()["taesd"].sources[0].revision,
    }  # fmt: skip
    (folder / "taesd" / "config.json").write_text("{}")
    code, rows = ended(command("verify", "taesd", "--json"))
    assert code == 1 and rows[-2]["wrong"] == ["config.json"]
    code, rows = ended(command("remove", "taesd", "--json"))
    assert code == 0 and rows[0]["bytes"] > 0 and not (folder / "taesd").exists()
    code, rows = ended(command("get", "nothing", "--json"))
    assert code == 1 and rows[-1]["type"] == "error" and "stable-diffusion" in rows[-1]["hint"]


def test_offline_is_one_sentence(filled: LocalHub) -> None:
    code, rows = ended(command("get", "taesd", "--json", endpoint=filled.endpoint, HF_HUB_OFFLINE="1"))
    assert code == 1 and rows[-1]["kind"] == "offline" and filled.requests == []


def test_without_acceptance_nothing_is_fetched(filled: LocalHub) -> None:
    code, rows = ended(command("get", "--json", endpoint=filled.endpoint))
    assert code == 1 and [row["type"] for row in rows] == ["license", "error"] and filled.requests == []


@pytest.mark.parametrize("how", ["kill", "cancel", "close", "terminate"])
def test_a_download_that_is_ended_goes_on_where_it_stopped(
    how: str, filled: LocalHub, folder: Path, contents: dict
) -> None:
    filled.faults.extend([Fault("none")] * 2 + [Fault("trickle", at=10**9, seconds=0.05)] * 9)
    process = command("get", "--json", "--accept-license", endpoint=filled.endpoint, stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("bytes", 0) > 100_000 and json.loads(line)["type"] == "progress":
            break
    match how:
        case "kill":
            process.kill()
        case "terminate":
            process.send_signal(signal.SIGTERM)
        case "cancel":
            process.stdin.write("cancel\n")
            process.stdin.flush()
        case "close":
            process.stdin.close()
    began = time.monotonic()
    code, rows = ended(process)
    assert time.monotonic() - began < 10
    if how != "kill":
        assert code == 4 and rows[-1] == {"type": "cancelled"}
    filled.faults.clear()
    code, rows = ended(command("get", "--json", "--accept-license", endpoint=filled.endpoint))
    assert code == 0 and all(is_complete(folder, name, contents) for name in SET)
    plan = next(row for row in rows if row["type"] == "plan")
    # What had come was not fetched again: finished models are only mentioned, the rest counts as present.
    assert plan["present_bytes"] > 50_000 or any(row["type"] == "here" for row in rows)
