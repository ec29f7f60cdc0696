"""2D particles: a run in whole, its resumption to the bit, and that who observes changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recdreamer.cli import main
from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.particles_2d_job import particles_job, poses_of, write_square_sheet
from recdreamer.job.checkpoint import Checkpoint, CheckpointStore
from recdreamer.pose.templates import templates_in
from recdreamer.presets import resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.report import JobError, NullReport, Paused
from recdreamer.shared.protocol import JobFolder, JobRequest, RequestError, Template, write_atomically
from recdreamer.stages.guidance import prepare_guide, prepare_rectifiers
from recdreamer.stages.particles_2d import (
    STAGE,
    LatentParticles,
    PoseObserver,
    check_config,
    is_due,
    particle_step,
)

STEPS = 4
SMALL = {
    "optimize.num_particles": 3,
    "optimize.num_views": 2,
    "optimize.num_steps": STEPS,
    "rectifier.classifier.template_copies": 1,
}


class Recorder(NullReport):
    """A report that asks for a pause after a step."""

    def __init__(self, pause_at: int = -1) -> None:
        self.pause_at = pause_at
        self.previews: list[Path] = []

    def progress(self, step: int, total: int) -> None:
        if step == self.pause_at:
            raise Paused

    def preview(self, path: Path) -> None:
        self.previews.append(path)

    def pose_distribution(self, probs: dict[str, float]) -> None:
        assert sum(probs.values()) == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Templates; what they show matters to nothing here."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label in ("front", "back", "left"):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{label}.png")
    return folder


def job_of(folder: Path, pictures: Path, method: str = "usd", **settings) -> tuple[JobFolder, JobRequest]:
    templates = templates_in(pictures)
    copies = tuple(Template(t.label, t.image, mirrored=t.mirrored) for t in templates)
    shutil.copytree(pictures, folder, dirs_exist_ok=True)
    request = JobRequest(
        "a red bear",
        method=method,
        pose_mode="marginal",
        device="cpu",
        templates=copies,
        overrides=SMALL | settings,
    )
    write_atomically(folder / "job.json", request.to_json())
    return JobFolder(folder), request


def end_of(job: JobFolder) -> Checkpoint:
    checkpoint = CheckpointStore(job.checkpoints).newest(STAGE)
    assert checkpoint is not None and checkpoint.final and checkpoint.step == STEPS
    return checkpoint


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[JobFolder, Recorder]:
    """USD without interruption."""
    job, request = job_of(tmp_path_factory.mktemp("finished"), pictures)
    report = Recorder()
    particles_job(job, request, report)
    return job, report


def test_a_run_leaves_pictures_and_numbers(finished: tuple[JobFolder, Recorder]) -> None:
    job, report = finished
    sheets = [job.root / "sheets" / f"step-{step:06d}.png" for step in range(1, STEPS + 1)]
    assert report.previews == sheets
    for path in (*sheets, job.root / "particles.png", job.root / "marginal.png"):
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG" and picture.width > 200
    trace = json.loads((job.root / "trace.json").read_text(encoding="utf-8"))
    assert set(trace["labels"]) == set(POSES) and len(trace["records"]) == STEPS
    for record in trace["records"]:
        for key in ("marginal", "mean_marginal"):
            rows = torch.tensor(record[key])
            assert rows.shape == (10, 4)
            torch.testing.assert_close(rows.sum(1), torch.ones(10))
        assert sum(record["oracle"]["counts"].values()) == 3
    assert trace["records"][-1]["marginal"] != trace["records"][0]["marginal"]
    written = json.loads((job.result / "report.json").read_text(encoding="utf-8"))
    assert (written["method"], written["steps"], written["particles"]) == ("usd", STEPS, 3)
    assert written["seconds_per_step"] > 0 and 0 <= written["oracle"]["pose_entropy"] <= 1
    assert written["oracle"] == trace["records"][-1]["oracle"]


def test_every_particle_leaves_its_noise(finished: tuple[JobFolder, Recorder]) -> None:
    config = resolve(finished[0].read_request())
    start = LatentParticles(
        config.optimize, config.seed, DiffusionPrior.load("builtin", "cpu", torch.float32)
    )
    end = end_of(finished[0])
    for i, latents in enumerate(start.latents):
        assert not torch.equal(latents, end.tensors[f"latents.{i}"])
    assert any(
        bool(tensor.any()) for name, tensor in end.tensors.items() if "lora_B" in name and "optimizer" not in name
    )  # fmt: skip


def test_a_resumed_run_ends_in_the_same_bits(
    finished: tuple[JobFolder, Recorder], tmp_path: Path, pictures: Path
) -> None:
    job, request = job_of(tmp_path / "job", pictures)
    with pytest.raises(Paused):
        particles_job(job, request, Recorder(pause_at=2))
    # As a run would that was killed after it had told of steps which no checkpoint knows.
    trace = (finished[0].root / "trace.json").read_bytes()
    write_atomically(job.root / "trace.json", trace)
    particles_job(job, request, Recorder())
    ours, theirs = end_of(job).tensors, end_of(finished[0]).tensors
    assert set(ours) == set(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for name in ("trace.json", "particles.png"):
        assert (job.root / name).read_bytes() == (finished[0].root / name).read_bytes(), name


def test_vsd_is_the_same_whether_it_is_observed_or_not(tmp_path: Path, pictures: Path) -> None:
    job, request = job_of(tmp_path, pictures, "vsd")
    config, ends = resolve(request), []
    for is_observed in (True, False):
        prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
        guide, observer = prepare_guide(job, config, prior), None
        if is_observed:
            observer = PoseObserver(
                guide, prepare_rectifiers(job, config, prior)[0].classifier, config.rectifier
            )
        assert guide.denoiser.branch is not None
        lora = LoraTrainer(guide.denoiser.branch, 1e-3, 1)
        particles = LatentParticles(config.optimize, config.seed, prior)
        for step in range(3):
            particle_step(step, config.step("shape"), particles, guide, lora, observer)
        if observer is not None:
            assert not torch.equal(observer.marginal.probs, torch.full_like(observer.marginal.probs, 0.25))
        ends.append(particles.tensors() | lora.tensors())
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


def test_a_particle_that_is_not_drawn_stands_still(tmp_path: Path, pictures: Path) -> None:
    config = resolve(job_of(tmp_path, pictures)[1])
    particles = LatentParticles(
        config.optimize, config.seed, DiffusionPrior.load("builtin", "cpu", torch.float32)
    )
    everyone = torch.arange(3)
    before = particles.at(everyone)
    for drawn in ([0, 1], [0, 2]):
        particles.descend(torch.tensor(drawn), torch.ones_like(before[:2]), 0)
    moved = (particles.at(everyone) - before).flatten(1).norm(dim=1)
    assert moved[1] == pytest.approx(moved[2].item(), rel=1e-3) and moved[0] > 1.9 * moved[1] > 0
    drawn = particles.draw(torch.Generator().manual_seed(0))
    assert len(drawn) == len(set(drawn.tolist())) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "perp_neg"], "perp_neg needs the camera's azimuth, and 2D particles have no camera."),
        (["--n", "0"], "0 does not fit the setting 'optimize.num_particles' (it must be from 1"),
        (["--steps", "0"], "optimize.num_steps is 0."),
        (
            ["--set", "optimize.num_views=0"],
            "0 does not fit the setting 'optimize.num_views' (it must be from 1",
        ),
        (["--set", "optimize.speed=3"], "There is no setting 'optimize.speed'."),
        (["--prompt", " "], "The prompt is empty."),
    ],
)
def test_a_bad_request_is_one_sentence_and_leaves_nothing(arguments, sentence, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="1"):
        main.main(["particles", "--prompt", "a red bear", "--out", str(tmp_path / "job"), *arguments])
    error = capsys.readouterr().err
    assert error.startswith(sentence) and error.count("\n") == 1
    assert not (tmp_path / "job").exists()


def test_a_pose_mode_that_needs_cameras_is_refused() -> None:
    with pytest.raises(RequestError, match="no camera"):
        check_config(resolve(JobRequest("a red bear", pose_mode="camera")))


def test_without_matplotlib_it_is_told_before_the_work(tmp_path, pictures, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    job, request = job_of(tmp_path, pictures)
    with pytest.raises(JobError, match=r"Matplotlib.*backend\[figures\]"):
        particles_job(job, request, Recorder())
    assert not job.checkpoints.exists()


def test_the_command_line_from_end_to_end(tmp_path: Path, pictures: Path, capsys) -> None:
    """Through a real worker; the same command once more finds it done, another one finds it taken."""
    settings = [f"{name}={value}" for name, value in SMALL.items() if "particles" not in name]
    out = tmp_path / "jöb"
    command = ["particles", "--prompt", "a red bear", "--method", "vsd", "--n", "3", "--steps", "2",
               "--device", "cpu", "--templates", str(pictures), "--out", str(out)]  # fmt: skip
    command += ["--set", *[item for item in settings if "num_steps" not in item]]
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            main.main(command)
        assert "Done." in capsys.readouterr().out
    request = JobFolder(out).read_request()
    assert request.pose_mode == "marginal" and request.overrides["optimize.num_particles"] == 3
    report = out / "result" / "report.json"
    assert json.loads(report.read_text(encoding="utf-8"))["method"] == "vsd"
    # The folder itself says what is made in it.
    report.unlink()
    JobFolder(out).state.unlink()
    subprocess.run(
        [sys.executable, "-m", "recdreamer", "run", str(out)], check=True, stdin=subprocess.DEVNULL
    )
    assert json.loads(report.read_text(encoding="utf-8"))["particles"] == 3
    with pytest.raises(SystemExit, match="1"):
        main.main([*command, "--seed", "5"])
    assert "other settings" in capsys.readouterr().err


def test_the_oracle_counts_and_a_sheet_is_a_grid(tmp_path: Path) -> None:
    found = poses_of(torch.full((5, 3, 64, 64), 0.5))
    assert sum(found["counts"].values()) == 5 and max(found["counts"].values()) == 5
    assert sum(found["shares"].values()) == pytest.approx(1, abs=1e-5)
    pictures = torch.arange(5)[:, None, None, None].expand(5, 3, 64, 64) / 10
    write_square_sheet(tmp_path / "sheet.png", pictures)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 128, 2 * 128)
        places = [(64 + 128 * (i % 3), 64 + 128 * (i // 3)) for i in range(6)]
        assert [sheet.getpixel(place)[0] for place in places] == [0, 26, 51, 76, 102, 255]


def test_due_steps_are_evenly_spaced_and_include_the_last() -> None:
    assert [step for step in range(1, 21) if is_due(step, 20, 4)] == [5, 10, 15, 20]
    assert [step for step in range(1, 4) if is_due(step, 3, 10)] == [1, 2, 3]
    assert sum(is_due(step, 4001, 40) for step in range(1, 4002)) == 40 and is_due(4001, 4001, 40)
