"""A job folder that was written before the configuration of a step got a type of its own (commit 5dd6b83).

`job_of_0.1.zip` holds its request, its config.json and its checkpoints: SDS in three stages, paused after two of the
texture's three steps, with settings by the names that they had then.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from recdreamer.generate import generate
from recdreamer.presets import resolve
from recdreamer.shared.protocol import JobFolder

from .small_jobs import Recorder, job_of, mesh_of


@pytest.fixture
def old(tmp_path: Path) -> JobFolder:
    with zipfile.ZipFile(Path(__file__).parent / "job_of_0.1.zip") as archive:
        archive.extractall(tmp_path / "old")
    return JobFolder(tmp_path / "old")


def test_it_runs_to_its_end_from_where_it_was_paused(old: JobFolder) -> None:
    config, report = resolve(old.read_request()), Recorder()
    assert config.optimize.background_brightness == (0.5, 1.0) and config.field.log2_table_size == 8
    generate(old, config, report)
    assert not report.told["shape"] and (2, 2) not in report.told["geometry"]
    assert [step for step, _ in report.told["texture"] if step] == [3]
    mesh = mesh_of(old)
    assert len(mesh["faces"]) == 400
    # As the version that wrote the folder ended it.
    expected = ([-0.005364, -0.004602, 0.254384], [0.135557, 0.142240, 0.149807])
    assert mesh["verts"].mean(0) == pytest.approx(expected[0], abs=1e-3)
    assert mesh["verts"].std(0) == pytest.approx(expected[1], abs=1e-3)


def test_another_job_continues_it(old: JobFolder, tmp_path: Path) -> None:
    sizes = {"field.num_levels": 4, "field.log2_table_size": 8, "field.hidden_width": 16}
    job, request = job_of(
        tmp_path / "new", sizes, start="continue", start_job=str(old.root), stages=("geometry", "texture")
    )
    report = Recorder()
    generate(job, resolve(request), report)
    assert report.stages == ["prepare", "geometry", "texture", "mesh"] and len(mesh_of(job)["faces"]) > 100
