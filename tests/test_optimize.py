"""Algorithm 1 in whole: special cases, exact resuming, and what happens when numbers go wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from recdreamer.cameras import orbit
from recdreamer.config import GenerateConfig
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.models.radiance import Scene
from recdreamer.pose.rectifier import Rectifier
from recdreamer.presets import resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.report import JobError, NullReport, Paused
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically
from recdreamer.stages.guidance import prepare_guide
from recdreamer.stages.shape import shape_stage

SETTINGS = {
    "optimize.num_steps": 6,
    "optimize.num_views": 2,
    "optimize.render_px": 32,
    "optimize.preview_every": 100,
    "field.num_levels": 4,
    "field.log2_table_size": 12,
}


class QuietReport(NullReport):
    """Stops the run after `pause_at` steps."""

    def __init__(self, pause_at: int | None = None) -> None:
        self.pause_at, self.warnings = pause_at, []

    def progress(self, step: int, total: int) -> None:
        if step == self.pause_at:
            raise Paused

    def warning(self, message: str) -> None:
        self.warnings.append(message)


def make_job(folder: Path, **changes) -> tuple[JobFolder, GenerateConfig]:
    overrides = SETTINGS | changes.pop("overrides", {})
    request = JobRequest("a red bear", seed=3, device="cpu", overrides=overrides, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "job.json", request.to_json())
    return JobFolder(folder), resolve(request)


def run_shape(
    job: JobFolder, config: GenerateConfig, pause_at: int | None = None
) -> tuple[Scene, Rectifier | None]:
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    report = QuietReport(pause_at)
    guide = prepare_guide(job, config, prior)
    particles, _ = shape_stage(job, config, prior, guide, torch.device("cpu"), report)
    return particles.scenes[-1], guide.rectifiers[0] if guide.rectifiers else None


def moved(scene: Scene, config: GenerateConfig) -> dict[str, Tensor]:
    start = Scene(config, torch.device("cpu")).field.state_dict()
    return {name: value - start[name] for name, value in scene.field.state_dict().items()}


@pytest.mark.parametrize(
    "settings",
    [
        {"pose_mode": "marginal", "overrides": {"optimize.num_particles": 2}},
        {"pose_mode": "camera", "overrides": {"optimize.background": "learned"}},
    ],
)
def test_a_paused_run_ends_exactly_as_an_uninterrupted_one(settings: dict, tmp_path: Path) -> None:
    straight, _ = run_shape(*make_job(tmp_path / "straight", **settings))
    job, config = make_job(tmp_path / "paused", **settings)
    with pytest.raises(Paused):
        run_shape(job, config, pause_at=2)
    assert CheckpointStore(job.checkpoints).newest("shape").step == 2
    resumed, _ = run_shape(job, config)
    for name, value in straight.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name


def test_a_rectifier_of_no_weight_is_vsd(tmp_path: Path) -> None:
    # One step without the smoothness term: the rectifier draws random numbers that would shift later ones.
    plain = {"optimize.num_steps": 1, "regularizers.smoothness": 0.0, "regularizers.color_smoothness": 0.0}
    vsd, _ = run_shape(*make_job(tmp_path / "vsd", method="vsd", overrides=plain))
    off, _ = run_shape(*make_job(tmp_path / "off", overrides=plain | {"rectifier.weight": 0.0}))
    on, _ = run_shape(*make_job(tmp_path / "on", overrides=plain))
    for name, value in vsd.field.state_dict().items():
        assert torch.allclose(value, off.field.state_dict()[name], atol=1e-6), name
    assert not all(
        torch.allclose(v, on.field.state_dict()[k], atol=1e-6) for k, v in vsd.field.state_dict().items()
    )


def test_methods_move_the_field_in_different_ways(tmp_path: Path) -> None:
    ends = {}
    for name, settings in {
        "sds": {"method": "sds"},
        "vsd": {"method": "vsd"},
        "esd": {"method": "esd"},
        "perp-neg": {"method": "perp_neg"},
        "debiased": {"method": "debiased_sds"},
        "bridge": {"method": "sds_bridge", "overrides": {"guidance.bridge_from": 0.5}},
        "sampled marginal": {
            "pose_mode": "marginal",
            "overrides": {"rectifier.marginal": "sampled", "rectifier.marginal_samples": 4},
        },
        "noisy": {"pose_mode": "marginal", "overrides": {"rectifier.estimate": "noisy"}},
        "lazy": {"pose_mode": "marginal", "overrides": {"rectifier.lazy_steps": 5}},
        "front only": {"pose_mode": "marginal", "overrides": {"rectifier.target": {"front": 1.0}}},
        "q sampling": {"method": "vsd", "overrides": {"cameras.azimuth_probs": [0.1, 0.6, 0.15, 0.15]}},
        "camera": {"pose_mode": "camera"},
        "released": {"pose_mode": "marginal", "overrides": {"rectifier.clamp": "released"}},
        "separate": {"pose_mode": "marginal", "overrides": {"rectifier.separate_pass": True}},
        "no jacobian": {"pose_mode": "camera", "overrides": {"rectifier.jacobian": False}},
    }.items():
        job, config = make_job(tmp_path / name, **settings)
        ends[name] = moved(run_shape(job, config)[0], config)
    tables = [torch.cat([v.flatten() for v in end.values()]) for end in ends.values()]
    for i, first in enumerate(tables):
        assert torch.isfinite(first).all() and first.abs().max() > 0
        for second in tables[:i]:
            assert not torch.allclose(first, second)


def test_the_marginal_follows_what_the_classifier_saw(tmp_path: Path) -> None:
    _, rectifier = run_shape(*make_job(tmp_path, pose_mode="marginal"))
    assert rectifier is not None
    probs = rectifier.marginal.probs
    assert torch.allclose(probs.sum(1), torch.ones(len(probs)), atol=1e-5)
    assert (probs[5:] - 0.25).abs().max() > 1e-3, "the first half draws from high timesteps"


def test_a_learned_background_is_seen_in_half_of_the_views_and_learns(tmp_path: Path) -> None:
    job, config = make_job(tmp_path, method="sds", overrides={"optimize.background": "learned"})
    start, cameras = Scene(config, torch.device("cpu")), orbit(64, config.cameras, torch.device("cpu"))
    corners = start.render(cameras, 0, torch.Generator().manual_seed(0)).rgb[..., 0, :8]
    is_plain = corners.std(-1).sum(1) < 1e-4
    assert 16 < int(is_plain.sum()) < 48
    end, _ = run_shape(job, config)
    for name, value in start.tensors().items():
        if name.startswith("surrounding."):
            assert (value - end.tensors()[name]).abs().max() > 1e-4, name


def test_the_distillation_gradient_on_the_latents_is_grad_over_views(tmp_path: Path) -> None:
    _, config = make_job(tmp_path, overrides={f"regularizers.{n}": 0.0 for n in
                         ("sparsity", "opaque", "entropy", "smoothness", "color_smoothness")})  # fmt: skip
    scene = Scene(config, torch.device("cpu"))
    from recdreamer.cameras import sample_cameras

    generator = torch.Generator().manual_seed(0)
    rendering = scene.render(sample_cameras(config.cameras, 2, generator, "cpu"), 0, generator)
    latents = rendering.rgb.mean((2, 3), keepdim=True)
    latents.retain_grad()
    grad = torch.randn(latents.shape, generator=generator)
    scene.descend(rendering, latents, grad, 0, generator)
    assert torch.allclose(latents.grad, grad / 2, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_job_and_keeps_the_good_checkpoint(
    tmp_path: Path, monkeypatch
) -> None:
    job, config = make_job(tmp_path, method="sds")
    with pytest.raises(Paused):
        run_shape(job, config, pause_at=2)
    encode = DiffusionPrior.encode
    monkeypatch.setattr(DiffusionPrior, "encode", lambda self, images: encode(self, images) * torch.nan)
    with pytest.raises(JobError, match="at step 2") as caught:
        run_shape(job, config)
    assert caught.value.kind == "non_finite" and caught.value.hint
    kept = CheckpointStore(job.checkpoints).newest("shape")
    assert kept.step == 2 and all(
        torch.isfinite(v).all() for v in kept.tensors.values() if v.is_floating_point()
    )
