"""The proof of kills sees what it is there to see: an artist and a worker of the tests make each fault on purpose."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "kills"))
import proof

if not sys.platform.startswith("linux"):
    pytest.skip("the proof reads /proc", allow_module_level=True)

WORKER = """
    import sys, time
    from pathlib import Path
    job = Path(sys.argv[-1])
    fault = (Path({root!r}) / "fault").read_text()
    (job / "tries").open("a").write("x")
    lock = (job / "worker.lock").open("w")
    time.sleep(0.5)
    (job / "result").mkdir(exist_ok=True)
    again = len((job / "tries").read_text()) > 1
    (job / "result" / "mesh.npz").write_text("other" if fault == "wrong" and again else "mesh")
"""
ARTIST = """
    import json, os, subprocess, sys, time
    from pathlib import Path
    out, backend = Path(sys.argv[2]), sys.argv[3]
    fault = (Path({root!r}) / "fault").read_text()
    job = out / "data" / "jobs" / "one"
    job.mkdir(parents=True, exist_ok=True)
    (job / "job.json").write_text("{{}}")
    def tell(phase, is_busy):
        (out / "new").write_text(json.dumps(dict(phase=phase, is_up=True, is_busy=is_busy, doing="shape")))
        (out / "new").replace(out / "status.json")
    while not (job / "result" / "mesh.npz").exists() or not (out / "enough").exists():
        run = [backend, "-m", "recdreamer", "run", str(job)]
        workers = [subprocess.Popen(run) for _ in range(2 if fault == "twice" else 1)]
        while any(worker.poll() is None for worker in workers):
            tell("", True)
            time.sleep(0.02)
    (out / "imported.txt").write_text("one")
    (out / "generated.txt").write_text("one")
    if fault == "stuck":
        (out / "refused.txt").write_text("resume: it is gray")
    if fault == "lost":
        (job / "job.json").unlink()
    if fault == "orphan":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(8)", str(job)])
    tell("done", False)
"""


@pytest.fixture
def prove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the proof on an artist with a fault; the report."""
    programs = {}
    for name, text in (("artist", ARTIST), ("worker", WORKER)):
        script = tmp_path / f"{name}.py"
        script.write_text(textwrap.dedent(text).format(root=str(tmp_path)))
        programs[name] = tmp_path / name
        programs[name].write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        programs[name].chmod(0o755)
    (tmp_path / "extension.zip").touch()
    monkeypatch.setattr(proof, "_last_line", lambda command: str(tmp_path / "extension.zip"))
    monkeypatch.setattr(proof, "ORPHANS_S", 1.0)
    monkeypatch.setattr(proof, "WAIT_S", 0.3)

    def prove(fault: str) -> proof.Report:
        (tmp_path / "fault").write_text(fault)
        return proof.Proof(tmp_path / "out", programs["artist"], programs["worker"], 3).run(2)

    return prove


def test_a_careful_artist_loses_nothing(prove) -> None:
    report = prove("")
    assert report.holds and report.jobs == report.imported == 1 and report.kills.total() == 2


@pytest.mark.parametrize("fault", ["wrong", "twice", "stuck", "lost", "orphan"])
def test_each_fault_is_seen(prove, fault: str) -> None:
    report = prove(fault)
    assert not report.holds
    assert bool(getattr(report, "orphans" if fault == "orphan" else fault))
