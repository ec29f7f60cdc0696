"""The models as Blender gets them: the add-on's tasks with the real `recdreamer models` and a hub on 127.0.0.1."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest
from recdreamer_extension.addon.jobs.child_process import models_folder, worker_environment
from recdreamer_extension.addon.jobs.model_tasks import Models, ModelTask
from recdreamer_extension.addon.jobs.task import CANCELED, Step, Task

pytest.importorskip("huggingface_hub")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "catalog"))
from local_hub import Fault, LocalHub

from recdreamer.catalog.entries import entries

PYTHON = Path(sys.executable)


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    for name in (
        "RECDREAMER_MODELS",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "TRANSFORMERS_CACHE",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "Dätä"


@pytest.fixture
def hub(monkeypatch):
    """A hub with TAESD's files, of a size that takes a while."""
    entry = entries()["taesd"]
    config = json.dumps({"_class_name": "AutoencoderTiny"}).encode()
    files = {file.path: config if file.path.endswith(".json") else bytes(3_000_000) for file in entry.files}
    with LocalHub() as running:
        source = entry.sources[0]
        running.add(source.repo, source.revision if len(source.revision) == 40 else "d" * 40, files)
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "2")
        yield running


def test_the_list_has_what_the_catalog_has(data, wait_until):
    models = Models()
    models.ask(PYTHON, data)
    wait_until(lambda: models.poll() and models.is_known)
    assert {row.id for row in models.rows} == set(entries())
    row = models.find("stable-diffusion-2-1-base")
    assert (row.kind, row.state, row.accepted) == ("prior", "available", False) and row.bytes > 2e9
    assert models.find("stable-diffusion") is row, "the recommended one"
    assert models.why_not(row.id, "prior").kind == "model_missing"
    assert models.why_not("builtin", "prior") == ""
    assert models.why_not(str(data / "none"), "prior").kind == "model_missing"


def test_a_file_of_ones_own_that_cannot_work_is_refused_with_its_reason(data, wait_until, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"pickle")
    task = ModelTask(PYTHON, data, ["add", str(tmp_path / "model.ckpt")], "Adding")
    task.join()
    assert "model.ckpt" in task.problem and task.kind == "request"


def test_the_dry_run_tells_the_license_and_the_size_and_fetches_nothing(data, hub):
    task = ModelTask(PYTHON, data, ["get", "taesd", "--dry-run"], "Asking")
    task.join()
    assert not task.problem and task.is_dry and task.licenses == ()
    assert task.plan.left_bytes == sum(
        len(content) for files in hub.files.values() for content in files.values()
    )
    assert not models_folder(data).exists() and hub.sent == 0


def test_without_consent_the_license_is_shown_and_nothing_is_asked_of_the_hub(data, hub):
    task = ModelTask(PYTHON, data, ["get", "stable-diffusion"], "Getting")
    task.join()
    assert task.kind == "license" and "Use Restrictions" in task.licenses[0].text
    assert hub.requests == []


def test_cancel_keeps_what_came_and_the_next_try_goes_on(data, hub, wait_until):
    hub.faults.append(Fault("trickle", at=1 << 30, seconds=0.02))
    task = ModelTask(PYTHON, data, ["get", "taesd"], "Getting")

    def kept_bytes() -> int:
        """Of files that are complete, too: the next one may have just begun."""
        return sum(path.stat().st_size for path in models_folder(data).rglob("*") if path.is_file())

    wait_until(lambda: (task.poll() and kept_bytes() > 0) or not task.is_running)
    assert task.is_running, task.problem
    task.cancel()
    task.join()
    assert task.problem == CANCELED
    assert kept_bytes() > 0
    hub.faults.clear()
    again = ModelTask(PYTHON, data, ["get", "taesd"], "Getting")
    again.join()
    assert again.plan.present_bytes > 0


def test_a_refusal_of_the_hub_has_its_kind(data, hub):
    hub.listing_faults.extend([Fault("status", at=403)] * 9)
    task = ModelTask(PYTHON, data, ["get", "taesd"], "Getting")
    task.join()
    assert task.kind == "access" and task.problem.startswith("127.0.0.1")


def test_workers_find_the_models_of_the_data_folder(data, monkeypatch):
    code = "import os; print(os.environ['RECDREAMER_MODELS'])"
    task = Task([Step("Asking", [sys.executable, "-c", code])], data)
    task.join()
    assert task.line == str(data / "models")
    monkeypatch.setenv("RECDREAMER_MODELS", "/elsewhere")
    assert models_folder(data) == Path("/elsewhere"), "what the artist has set goes first"
    assert worker_environment(data)["RECDREAMER_MODELS"] == "/elsewhere"


def test_a_task_leaves_no_thread_and_no_open_file(data):
    before = threading.active_count()
    task = ModelTask(PYTHON, data, ["list"], "Looking")
    assert threading.active_count() <= before, "Blender crashes with them"
    task.join()
    assert task.has_succeeded and task._process._output.closed and task._process._process.stdin.closed
