"""Checkpoints against damage, full disks and numbers that are none."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from recdreamer.job import checkpoint
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.report import JobError


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_saved_tensors_are_restored(store):
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tensors = {
        "weight": weight,
        "view": weight[:, 1:3],  # Shares memory and is not contiguous.
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "count": torch.tensor(7),
    }
    path = store.save("optimize", 40, tensors, {"seed": 3, "marginal": [0.5, 0.5]})
    saved = store.newest("optimize")
    assert path.name == "optimize-00000040"
    assert (saved.stage, saved.step, saved.final) == ("optimize", 40, False)
    assert saved.meta == {"seed": 3, "marginal": [0.5, 0.5]}
    assert saved.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert saved.tensors[name].dtype == tensor.dtype
        assert torch.equal(saved.tensors[name], tensor)


def test_an_empty_store_has_nothing(store):
    assert store.newest("optimize") is None
    store.save("optimize", 1, {}, {})
    assert store.newest("mesh") is None


def test_the_two_newest_of_a_stage_and_every_end_stay(store):
    for step in (10, 20, 30):
        store.save("optimize", step, {}, {})
    store.save("optimize", 30, {}, {}, final=True)
    for step in (5, 6, 7):
        store.save("refine", step, {}, {})
    assert names(store) == [
        "optimize-00000020",
        "optimize-00000030",
        "optimize-00000030-final",
        "refine-00000006",
        "refine-00000007",
    ]
    assert store.newest("optimize").final


@pytest.mark.parametrize("damage", ["cut", "flipped", "no tensors", "no meta", "half a meta", "foreign meta"])
def test_a_damaged_one_is_passed_over(store, damage, capsys):
    store.save("optimize", 10, {"x": torch.ones(100)}, {})
    newest = store.save("optimize", 20, {"x": torch.zeros(100)}, {})
    tensors, meta = newest / "tensors.safetensors", newest / "meta.json"
    data = tensors.read_bytes()
    match damage:
        case "cut":
            tensors.write_bytes(data[:-1])
        case "flipped":
            tensors.write_bytes(data[:-1] + b"\xff")
        case "no tensors":
            tensors.unlink()
        case "no meta":
            meta.unlink()
        case "half a meta":
            meta.write_text(meta.read_text()[:10])
        case "foreign meta":
            meta.write_text("[]")
    assert store.newest("optimize").step == 10
    assert "optimize-00000020 is damaged" in capsys.readouterr().out


def test_a_step_can_be_saved_again(store):
    """After a resume the same steps come again, perhaps over a damaged checkpoint."""
    path = store.save("optimize", 10, {"x": torch.zeros(1)}, {})
    (path / "meta.json").write_text("")
    store.save("optimize", 10, {"x": torch.ones(1)}, {})
    assert store.newest("optimize").tensors["x"].item() == 1
    assert names(store) == ["optimize-00000010"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_keeps_the_older_one(store, monkeypatch, number):
    store.save("optimize", 10, {"x": torch.ones(100)}, {})

    def half_then_full(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", half_then_full)
        with pytest.raises(JobError) as caught:
            store.save("optimize", 20, {"x": torch.zeros(100)}, {})
    assert caught.value.kind == "disk_full"
    assert names(store) == ["optimize-00000010"]
    assert store.newest("optimize").step == 10
    store.save("optimize", 20, {"x": torch.zeros(100)}, {})
    assert store.newest("optimize").step == 20


def test_what_a_killed_process_left_is_removed(store):
    store.save("optimize", 10, {}, {})
    leftover = store.folder / f"{checkpoint.TEMPORARY}abc"
    leftover.mkdir()
    (leftover / "tensors.safetensors").write_bytes(b"half")
    assert store.newest("optimize").step == 10
    store.save("optimize", 20, {}, {})
    assert not leftover.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_infinite_and_undefined_numbers_are_never_saved(store, value):
    store.save("optimize", 10, {"x": torch.ones(2)}, {})
    with pytest.raises(JobError) as caught:
        store.save("optimize", 20, {"x": torch.tensor([1.0, value])}, {})
    assert caught.value.kind == "non_finite"
    assert "step 20" in caught.value.message
    assert names(store) == ["optimize-00000010"]


@pytest.mark.parametrize(("stage", "step"), [("../up", 1), ("Mesh", 1), ("mesh", -1), ("mesh", 10**8)])
def test_a_wrong_name_is_refused(store, stage, step):
    with pytest.raises(ValueError, match="lower-case"):
        store.save(stage, step, {}, {})


def test_the_files_need_no_pickle(store):
    path = store.save("optimize", 1, {"x": torch.ones(1)}, {"a": 1})
    assert names(store) == ["optimize-00000001"]
    assert sorted(p.name for p in path.iterdir()) == ["meta.json", "tensors.safetensors"]
    assert json.loads((path / "meta.json").read_text())["meta"] == {"a": 1}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes.")
@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o002, 0o775, 0o664)])
def test_whoever_may_read_the_job_may_continue_it(umask: int, folder: int, file: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        path = CheckpointStore(tmp_path / "checkpoints").save("shape", 1, {"x": torch.zeros(2)}, {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == path.parent.stat().st_mode & 0o777 == folder
    assert {entry.stat().st_mode & 0o777 for entry in path.iterdir()} == {file}
