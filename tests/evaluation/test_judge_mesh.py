"""`recdreamer evaluate mesh`: what it adds to a job, and what it says where there is nothing to measure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from recdreamer.cli import main
from recdreamer.evaluation.judge_mesh import judge_mesh
from recdreamer.report import JobError
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically

MEASURES = {"yaw_deg", "chamfer", "f_score", "normal_consistency", "color_difference", "psnr_db"}


def job_with(prompt: str, result: Path | None, folder: Path) -> JobFolder:
    job = JobFolder(folder / "jöb")
    job.root.mkdir(parents=True)
    write_atomically(job.request, JobRequest(prompt).to_json())
    if result is not None:
        shutil.copytree(result, job.result)
        write_atomically(job.result / "report.json", json.dumps({"seed": 7}))
    return job


def evaluate(job: JobFolder) -> int:
    with pytest.raises(SystemExit) as caught:
        main.main(["evaluate", "mesh", str(job.root)])
    return int(caught.value.code or 0)


def test_a_mesh_is_measured_and_the_report_keeps_what_it_had(tmp_path, bear_folder, capsys) -> None:
    job = job_with("a red bear", bear_folder, tmp_path)
    assert evaluate(job) == 0
    report = json.loads((job.result / "report.json").read_text(encoding="utf-8"))
    found = report["geometry"]
    assert report["seed"] == 7 and json.loads(capsys.readouterr().out) == found
    assert set(found["best_yaw"]) == set(found["unrotated"]) == MEASURES
    assert abs(found["best_yaw"]["yaw_deg"]) < 1.5
    assert found["floor"]["chamfer"] < found["best_yaw"]["chamfer"] < 0.008
    assert found["best_yaw"]["psnr_db"] > 26
    assert found["triangles"]["is_watertight"]
    assert (job.result / "mesh-sheet.png").stat().st_size > 1000


def test_a_mesh_of_several_tiles_is_measured_like_one_of_one(tmp_path, bear_folder) -> None:
    job = job_with("a red bear", bear_folder, tmp_path)
    one = judge_mesh(job)
    with np.load(job.result / "mesh.npz") as arrays:
        mesh = dict(arrays)
    mesh["uvs"][mesh["verts"][mesh["faces"]].mean(1)[:, 2] > 0.9, :, 0] += 1
    np.savez(job.result / "mesh.npz", **mesh)
    shutil.copy(job.result / "albedo.png", job.result / "albedo.1001.png")
    (job.result / "albedo.png").rename(job.result / "albedo.1002.png")
    assert judge_mesh(job)["best_yaw"] == pytest.approx(one["best_yaw"], rel=1e-5, abs=1e-6)
    (job.result / "albedo.1002.png").unlink()
    with pytest.raises(JobError, match=r"albedo\.1002\.png cannot be read"):
        judge_mesh(job)


def test_a_prompt_without_a_true_figure_is_refused_in_one_sentence(tmp_path, bear_folder, capsys) -> None:
    job = job_with("a wooden chair", bear_folder, tmp_path)
    assert evaluate(job) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["note"].startswith("There is no true figure for 'a wooden chair'")
    assert set(found) == {"triangles", "note"} and (job.result / "mesh-sheet.png").exists()


def test_a_job_without_a_mesh_is_refused_in_one_sentence(tmp_path, capsys) -> None:
    assert evaluate(job_with("a red bear", None, tmp_path)) == 1
    assert "has no finished mesh. Run the job to its end first." in capsys.readouterr().err
