"""The doctor: each check a row with its own sentence, and nothing is well that cannot run a job."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recdreamer.cli import doctor, main
from recdreamer.cli.doctor import Trouble

BACKEND = Path(main.__file__).parents[2]


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict]:
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return {row["check"]: row for row in found}


def test_this_installation_is_well_and_finishes_a_job(tmp_path, capsys):
    assert doctor.examine(tmp_path / "a folder to come", "cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Everything is ready."
    assert all(line.startswith("ok    ") for line in lines[:-1])
    assert lines[-2].startswith("ok    small job: finished on cpu in ")
    assert any("PyTorch and Warp" in line and "compute on cpu" in line for line in lines)


def test_rows_for_a_front_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "MIN_DISK_MB", 10**12)
    with pytest.raises(SystemExit) as caught:
        main.main(["doctor", "--json", "--quick", "--device", "cpu", "--folder", str(tmp_path)])
    assert caught.value.code == 1
    found = rows(capsys)
    assert "small job" not in found
    assert found.pop("job folder")["fix"] == "data_folder"
    assert all(row["is_ok"] and row["fix"] == "" for row in found.values())


class Gpu:
    """torch as it is with a build for CUDA."""

    def __init__(
        self, available: bool, capability: tuple[int, int] = (8, 9), archs: str = "sm_80 sm_86 sm_90"
    ):
        self.version = SimpleNamespace(cuda="12.6")
        self.cuda = SimpleNamespace(
            is_available=lambda: available,
            get_device_name=lambda: "RTX",
            get_device_capability=lambda: capability,
            get_arch_list=archs.split,
            mem_get_info=lambda: (6 * 2**30, 8 * 2**30),
        )


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_build_for_the_gpu_without_a_gpu_fails(monkeypatch, device, tmp_path, capsys):
    """It was "ok" on the CPU before: gigabytes fetched, the card unused, and all said to be well."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "version", SimpleNamespace(cuda="13.0"))
        patch.setattr(torch.cuda, "is_available", lambda: False)
        assert doctor.examine(tmp_path, device, as_json=True) == 1
    found = rows(capsys)
    assert found["device"]["text"].startswith(
        "PyTorch is installed for CUDA 13.0, but finds no NVIDIA GPU that it can use. Update the NVIDIA driver"
    )
    assert found["device"]["fix"] == "install"
    # What follows from it is said once.
    for name in ("kernels", "small job"):
        assert not found[name]["is_ok"] and found[name]["text"].startswith("Not tried")
    assert doctor.chosen_device("cpu") == "cpu"


def test_a_build_for_the_cpu_cannot_use_the_gpu(monkeypatch):
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=None))
    assert doctor.chosen_device("auto") == "cpu"
    with pytest.raises(Trouble, match="for the CPU alone"):
        doctor.chosen_device("cuda")


@pytest.mark.parametrize(
    ("capability", "archs", "fits"),
    [
        ((8, 9), "sm_80 sm_86 sm_90", True),
        ((12, 0), "sm_50 sm_86 sm_90", False),
        ((6, 1), "sm_50 sm_60 sm_70", True),
        ((6, 1), "sm_75 sm_80", False),
        ((12, 1), "sm_90 sm_100 sm_120", True),
        ((12, 0), "sm_90 compute_90", True),
        ((8, 0), "sm_86", False),
    ],
)
def test_a_card_without_kernels_fails(monkeypatch, capability, archs, fits):
    monkeypatch.setitem(sys.modules, "torch", Gpu(True, capability, archs))
    if fits:
        assert doctor._device("auto") == "RTX, 6.0 of 8.0 GiB free"
    else:
        with pytest.raises(Trouble, match=r"has no kernels. Install the backend again") as caught:
            doctor._device("auto")
        assert caught.value.fix == "install"


def test_a_small_card_is_reported_without_advice_to_install_again(monkeypatch):
    gpu = Gpu(True)
    gpu.cuda.mem_get_info = lambda: (2**29, 2**30)
    monkeypatch.setitem(sys.modules, "torch", gpu)
    with pytest.raises(Trouble, match=r"only 1\.0 GiB") as caught:
        doctor._device("auto")
    assert caught.value.fix == ""


def test_a_job_that_fails_gives_its_own_sentence(monkeypatch):
    from recdreamer.cli import work
    from recdreamer.report import JobError

    def fail(*_: object) -> None:
        raise JobError("memory", "The GPU is full.", "Close other programs.")

    monkeypatch.setattr(work, "generate_job", fail)
    with pytest.raises(Trouble, match=r"The GPU is full. Close other programs."):
        doctor._job("cpu")
    monkeypatch.setattr(work, "generate_job", lambda *_: None)
    with pytest.raises(Trouble, match="without a mesh"):
        doctor._job("cpu")


WITHOUT_WARP = """
import sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "warp":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
from recdreamer.cli.main import main
main(["doctor", "--quick", "--device", "cpu", "--folder", sys.argv[1]])
"""


def test_without_warp(tmp_path):
    """Warp is required: the pipeline cannot even be imported without it."""
    command = [sys.executable, "-c", WITHOUT_WARP, tmp_path]
    done = subprocess.run(command, cwd=BACKEND, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    *findings, end = done.stdout.splitlines()
    assert [line for line in findings if not line.startswith("ok    ")] == [
        "FAIL  kernels: Warp cannot be loaded (No module named 'warp'). Install the backend again."
    ]
    assert end == f"1 of {len(findings)} checks failed."


def test_it_reports_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(dir: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    with pytest.raises(doctor.Trouble, match=r"cannot be written \(Permission denied\)\. Choose another"):
        doctor._folder(tmp_path / "a folder to come")


def test_it_reports_a_full_disk(tmp_path, monkeypatch):
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage._replace(free=20_000_000))
    with pytest.raises(doctor.Trouble, match=r"Only 20 MB are free .* A job needs about 500 MB\."):
        doctor._folder(tmp_path)


def test_it_names_each_trouble_and_a_remedy(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(doctor, "MIN_MEMORY_MB", 1e9)
    monkeypatch.setattr(doctor, "_prior", lambda: json.loads(""))
    assert doctor.examine(tmp_path / "file", "cpu", quick=True) == 1
    failures = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failures) == 3
    assert all(failure.endswith(".") and failure.count(". ") >= 1 for failure in failures)


def test_it_tells_of_a_cache_that_does_not_last(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    told = doctor._caches()
    assert told.startswith(f"only for one run at a time, as {tmp_path / 'file'}") and "XDG_CACHE_HOME" in told
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    assert doctor._caches() == str(tmp_path / "there" / "recdreamer" / "warp")
