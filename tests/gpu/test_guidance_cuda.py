"""One step of every method on CUDA against the CPU, half precision, and a whole job."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recdreamer.cameras import Cameras, orbit_cameras
from recdreamer.config import GenerateConfig
from recdreamer.distillation.methods import Guide
from recdreamer.distillation.noised import Noised, add_noise
from recdreamer.generate import generate
from recdreamer.optimize import distillation_grad
from recdreamer.pose.draw import draw_templates
from recdreamer.pose.features import FeatureExtractor
from recdreamer.presets import EMBEDDED_DRAWING, resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.report import NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest, Method, Template, write_atomically
from recdreamer.stages.guidance import prepare_guide

from .no_waits import no_waits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

METHODS: tuple[Method, ...] = ("sds", "debiased_sds", "perp_neg", "sds_bridge", "vsd", "esd", "usd")


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Template, ...]:
    folder = tmp_path_factory.mktemp("templates")
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    drawn = draw_templates(folder, prior, FeatureExtractor(), "a red bear", 0, EMBEDDED_DRAWING)
    return tuple(
        Template(t.label, str(folder / t.image), "prior", t.azimuth_deg, t.elevation_deg, t.mirrored)
        for t in drawn
    )


def make_job(
    folder: Path, templates: tuple[Template, ...], device: str, method: Method = "usd", **overrides: object
) -> tuple[JobFolder, GenerateConfig]:
    folder.mkdir(parents=True, exist_ok=True)
    copies = [replace(t, image=Path(shutil.copy(t.image, folder)).name) for t in templates]
    request = JobRequest(
        "a red bear", method=method, pose_mode="marginal", seed=3, device=device, templates=tuple(copies),
        overrides=overrides,
    )  # fmt: skip
    write_atomically(folder / "job.json", request.to_json())
    return JobFolder(folder), resolve(request)


def guide_on(
    device: str, folder: Path, templates: tuple[Template, ...], method: Method, **overrides: object
) -> Guide:
    job, config = make_job(folder / device, templates, device, method, **overrides)
    return prepare_guide(job, config, DiffusionPrior.load("builtin", device, torch.float32))


def cameras_on(device: str) -> Cameras:
    return orbit_cameras(
        80 * torch.arange(4.0, device=device), torch.full((4,), 10.0, device=device), 4.0, 30.0
    )


def grad_of(guide: Guide, device: str) -> Tensor:
    """The method's gradient of the same noised latents, drawn on the CPU."""
    generator = torch.Generator().manual_seed(1)
    schedule = guide.denoiser.schedule
    latents = torch.randn(4, 5, 16, 16, generator=generator)
    t = torch.tensor([60, 300, 600, 900])
    cpu = add_noise(latents, t, None, 480, 500, schedule.to("cpu"), generator)
    cameras = cameras_on(device)
    moved = (getattr(cpu, name).to(device) for name in ("latents", "latents_t", "eps", "t", "sigma_t", "w_t"))
    x = Noised(*moved, cameras, cpu.step, cpu.progress)
    answers = guide.ask(x, torch.Generator().manual_seed(2))
    return distillation_grad(guide, x, answers).cpu()


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("method", METHODS)
def test_each_methods_gradient_is_that_of_the_cpu(
    method: Method, tmp_path: Path, templates: tuple[Template, ...]
) -> None:
    grads = [grad_of(guide_on(device, tmp_path, templates, method), device) for device in ("cuda", "cpu")]
    assert relative_error(*grads) < 5e-3


def test_checkpointing_changes_nothing(tmp_path: Path, templates: tuple[Template, ...]) -> None:
    plain = grad_of(guide_on("cuda", tmp_path / "plain", templates, "usd"), "cuda")
    other = guide_on("cuda", tmp_path / "other", templates, "usd", **{"guidance.checkpointing": True})
    assert relative_error(grad_of(other, "cuda"), plain) < 5e-3


def test_half_precision_points_the_same_way(tmp_path: Path, templates: tuple[Template, ...]) -> None:
    guide = guide_on("cuda", tmp_path, templates, "vsd")
    wanted = grad_of(guide, "cuda")
    for part in (guide.denoiser.prior.unet, guide.denoiser.prior.vae):
        part.to(torch.bfloat16)
    assert (
        torch.nn.functional.cosine_similarity(grad_of(guide, "cuda").flatten(), wanted.flatten(), dim=0)
        > 0.99
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_guidance_never_waits_for_the_device(
    method: Method, tmp_path: Path, templates: tuple[Template, ...]
) -> None:
    guide = guide_on("cuda", tmp_path, templates, method)
    generator = torch.Generator("cuda").manual_seed(0)
    latents, t = torch.randn(4, 5, 16, 16, device="cuda"), torch.tensor([60, 300, 600, 900], device="cuda")
    cameras = cameras_on("cuda")
    x = add_noise(latents, t, cameras, 480, 500, guide.denoiser.schedule, generator)

    def lines_4_and_5() -> None:
        answers = guide.ask(x, generator)
        distillation_grad(guide, x, answers)
        guide.observe(x, answers.log_probs)

    lines_4_and_5()
    with no_waits():
        lines_4_and_5()


def test_a_whole_job(tmp_path: Path, templates: tuple[Template, ...]) -> None:
    steps = {"optimize.num_steps": 60, "mesh.resolution": 48, "mesh.texture_size_px": 256}
    job, config = make_job(tmp_path, templates, "cuda", **steps)
    generate(job, config, NullReport())
    report = json.loads((job.result / "report.json").read_text())
    assert report["device"].startswith("cuda")
    assert report["meshes"][0]["faces"] > 100
    assert (job.result / "model.glb").stat().st_size > 1000
