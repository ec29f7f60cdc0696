"""The lock files: they cover the backend's dependencies, and nothing can be installed but what they name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from recdreamer_extension.addon.jobs.environment import OUTDATED
from recdreamer_extension.addon.setup import locks
from recdreamer_extension.addon.setup.builds import BUILDS, Build
from recdreamer_extension.addon.setup.installation import describe_size
from recdreamer_extension.addon.setup.locks import PYTHONS, Pin, digest_of, is_complete, read_lock
from recdreamer_extension.addon.setup.remedies import REMEDIES

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "backend" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EACH_BUILD = pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)


@EACH_BUILD
def test_the_lock_is_of_these_dependencies(build):
    """Fails after every change of them until `python3 tools/dev.py lock` has been run."""
    text = locks.lock_file(build).read_text(encoding="utf-8")
    assert f"# requirements: {digest_of(PROJECT['dependencies'])}\n" in text


@EACH_BUILD
@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_is_locked_to_a_version_that_it_allows(build, python):
    requirements = pytest.importorskip("packaging.requirements")
    pins = {pin.name: pin for pin in read_lock(locks.lock_file(build)) if python in pin.pythons}
    assert len(pins) > 50
    platform = {"linux": "linux", "windows": "win32", "macos": "darwin"}[build.system]
    for line in PROJECT["dependencies"]:
        wanted = requirements.Requirement(line)
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        marks = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": platform}
        if wanted.marker is not None and not wanted.marker.evaluate(marks):
            assert name not in pins or any(other.startswith(name) for other in pins)
        elif name == "warp-lang":
            assert pins[name].version == build.warp
        elif name == "torch":
            assert pins[name].version == build.torch
        else:
            assert wanted.specifier.contains(pins[name].version), f"{line}: {pins[name].version}"


def test_the_pythons_are_those_of_the_backend():
    specifiers = pytest.importorskip("packaging.specifiers")
    allowed = specifiers.SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(9, 20) if f"3.{minor}" in allowed] == list(PYTHONS)


@EACH_BUILD
def test_all_but_pytorchs_own_wheels_have_hashes_and_measured_sizes(build):
    pins = read_lock(locks.lock_file(build))
    for pin in pins:
        if pin.hashes:
            assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in pin.hashes)
            assert pin.download > 0 and pin.unpacked > 0
    without = [pin.name for pin in pins if not pin.hashes]
    # Of PyTorch's own index, one wheel; recorded as soon as the lock is written where it can be reached.
    assert without in ([], ["torch"] if build.torch_backend else [])
    assert is_complete(pins) == (not without)


@EACH_BUILD
def test_only_builds_for_cuda_bring_it(build):
    names = {pin.name for pin in read_lock(locks.lock_file(build))}
    brings = {name for name in names if name.startswith(("nvidia-", "cuda-"))}
    assert bool(brings) == (build.accelerator == "cuda13" and build.system == "linux") or build.torch_backend


def test_the_sizes_are_those_that_were_measured():
    """PyTorch for CUDA 13 on Linux: 3.0 GB to fetch and 5.5 GB on the disk; pip fetched and wrote the same."""
    build = next(build for build in BUILDS if build.name == "linux-cuda13")
    pins = [pin for pin in read_lock(locks.lock_file(build)) if "3.11" in pin.pythons]
    assert 2.9e9 < sum(pin.download for pin in pins) < 3.1e9
    assert 5.4e9 < sum(pin.unpacked for pin in pins) < 5.7e9


def test_uv_is_locked_for_all_systems():
    text = locks.UV_LOCK.read_text(encoding="utf-8")
    assert f"uv=={locks.UV_VERSION}" in text
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) > 10


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_reading(tmp_path):
    lock = write(
        tmp_path / "a.txt",
        "# Words.\n# requirements: 12\n# 10 20\nnumpy==2.5 ; python_version in '3.12 3.13' \\\n"
        "    --hash=sha256:aa \\\n    --hash=sha256:bb\n# not recorded: why\ntorch==2.13.0+cpu\n",
    )
    assert read_lock(lock) == [
        Pin("numpy", "2.5", ("3.12", "3.13"), ("aa", "bb"), 10, 20),
        Pin("torch", "2.13.0+cpu", PYTHONS, (), 0, 0),
    ]


def test_a_requirement_that_is_not_pinned_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a pinned requirement"):
        read_lock(write(tmp_path / "a.txt", "# 1 2\nnumpy>=2\n"))


def test_the_fingerprint_is_of_what_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "FOLDER", tmp_path)
    build = Build("linux", "x86_64", "cpu", "1", "1")
    write(tmp_path / "linux-cpu.txt", "# 1 2\na==1\n")
    before = locks.fingerprint(build)
    write(tmp_path / "linux-cpu.txt", "# 3 4\na==1\n")
    assert locks.fingerprint(build) == before
    write(tmp_path / "linux-cpu.txt", "# 3 4\na==1.1\n")
    assert locks.fingerprint(build) != before


def test_the_page_on_installing_has_the_sizes_of_the_locks():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for name, download, unpacked in [
        ("linux-cuda13", "Linux 3.0 GB", "Linux 5.5 GB"),
        ("windows-cuda13", "Windows about 2.2 GB", "Windows about 4.3 GB"),
        ("linux-cuda12", "Linux about 3.1 GB", "Linux about 6.3 GB"),
        ("windows-cuda12", "Windows about 2.9 GB", "Windows about 5.4 GB"),
        ("linux-cpu", "Linux about 0.4 GB", "Linux about 1.5 GB"),
        ("windows-cpu", "Windows 0.4 GB", "Windows 1.2 GB"),
        ("macos-cpu", "| 0.2 GB |", "| 0.9 GB |"),
    ]:
        build = next(build for build in BUILDS if build.name == name)
        said = describe_size(build)
        for words, place in [(download, "Downloads "), (unpacked, "takes ")]:
            assert words in page
            number = re.search(r"(about )?[\d.]+ GB", words)[0]
            assert f"{place}{number}" in said or f"{place}about {number}" in said


def test_the_page_on_installing_quotes_real_sentences():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ((?:The|Another|A|There|…) [^|]+) \|", page.split("## When it fails")[1], re.MULTILINE
    )
    said = (
        " ".join(remedy.sentence for remedy in REMEDIES) + " There is no Python 3.11 to 3.13 on this computer"
    )
    said += " ".join(OUTDATED)
    sources = (
        "addon/jobs/model_tasks.py",
        "backend/recdreamer/job/errors.py",
        "backend/recdreamer/catalog/hub.py",
        "addon/setup/installation.py",
    )
    said += " ".join((ROOT / name).read_text(encoding="utf-8") for name in sources)
    sources = ("backend/recdreamer/catalog/refusals.py", "backend/recdreamer/cli/doctor.py")
    said += " ".join((ROOT / name).read_text(encoding="utf-8") for name in sources)
    said = re.sub(r"\{[^}]*\}", "…", said)
    assert len(rows) >= 22
    for row in rows:
        for part in re.split(r"…|;", row):
            assert part.strip(" .") in said, part
    # And none of those that an installation can end with is missing.
    quotes = [[part.strip(" .") for part in quote.split("…")] for row in rows for quote in row.split(";")]
    for remedy in REMEDIES:
        assert any(all(part in remedy.sentence for part in quote) for quote in quotes), remedy.kind
