"""The loop around the steps: what it saves, when, and what it hands to each step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recdreamer.cameras import CameraConfig, Cameras
from recdreamer.config import StepConfig
from recdreamer.distillation.guidance_config import GuidanceConfig, RectifierConfig
from recdreamer.distillation.methods import Guide
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.pose.rectifier import Rectifier
from recdreamer.prior.denoiser import Denoiser
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraBranch
from recdreamer.prior.prompts import Prompts, ViewConfig
from recdreamer.report import NullReport, Paused
from recdreamer.shared.protocol import JobFolder
from recdreamer.stages.run import StageContext, run_stage, run_steps

from ..distillation.recorded import cameras

CPU = torch.device("cpu")
CONFIG = StepConfig(
    method="usd", seed=3, num_steps=3, num_views=2, cameras=CameraConfig(), preview_every=100,
    guidance=GuidanceConfig(lora_learning_rate=0.02, lora_warmup_steps=4), checkpoint_every_s=1e9,
)  # fmt: skip
AZIMUTHS = torch.tensor([0.0, 180.0])


class Counter:
    """A part of a stage whose state is the number of its steps."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, torch.zeros(())

    def tensors(self) -> dict[str, Tensor]:
        return {self.name: self.count}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.count.copy_(tensors[self.name])


class SpyStore(CheckpointStore):
    """Remembers the steps that were saved."""

    saved: tuple[int, ...] = ()

    def save(self, stage: str, step: int, *rest: object, **named: object) -> None:
        self.saved = (*self.saved, step)
        super().save(stage, step, *rest, **named)


def run_counters(store: CheckpointStore, config: StepConfig, pause_at: int = -1) -> list[Counter]:
    counters = [Counter("one"), Counter("other")]

    def step(number: int) -> None:
        for times, counter in enumerate(counters, 1):
            counter.count += times

    def after(number: int) -> None:
        if number == pause_at:
            raise Paused

    run_steps("toy", store, config, CPU, counters, step, after)
    return counters


@pytest.mark.parametrize(("every_s", "saved"), [(0.0, (1, 2, 3, 3)), (1e9, (3,))])
def test_checkpoint_every_s_is_the_time_between_two_checkpoints(
    tmp_path: Path, every_s: float, saved: tuple[int, ...]
) -> None:
    """The last one is always written."""
    store = SpyStore(tmp_path)
    run_counters(store, replace(CONFIG, checkpoint_every_s=every_s))
    assert store.saved == saved


def test_all_parts_go_on_where_they_were(tmp_path: Path) -> None:
    with pytest.raises(Paused):
        run_counters(CheckpointStore(tmp_path), CONFIG, pause_at=2)
    one, other = run_counters(CheckpointStore(tmp_path), CONFIG)
    assert (one.count, other.count) == (3, 6)


# A whole stage, with the embedded prior and a picture as its model


@dataclass
class Picture:
    rgb: Tensor


class ToyTheta:
    """A picture that is the same from everywhere, and has views of its own or none."""

    device, first_bad_step = CPU, float("inf")

    def __init__(self, views: Cameras | None = None) -> None:
        self.theta, self.views = torch.full((3, 64, 64), 0.4, requires_grad=True), views
        self.seen: list[Cameras] = []

    def render(self, cameras: Cameras, step: int, generator: torch.Generator) -> Picture:
        self.seen.append(cameras)
        return Picture(self.theta.expand(len(cameras), -1, -1, -1))

    def descend(
        self, rendering: Picture, latents: Tensor, grad: Tensor, step: int, generator: torch.Generator
    ) -> None:
        with torch.no_grad():
            self.theta -= 0.01 * grad.mean()

    def picture(self, cameras: Cameras, size_px: int, brightness: float = 0.8) -> Tensor:
        return torch.full((len(cameras), 3, size_px, size_px), 0.5)

    def at(self, step: int) -> ToyTheta:
        return self

    def cameras(self, step: int) -> Cameras | None:
        return self.views

    def shown(self) -> list[ToyTheta]:
        return [self]

    def tensors(self) -> dict[str, Tensor]:
        return {"theta": self.theta.detach()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.theta.copy_(tensors["theta"])


class ByBrightness:
    """Two classes, told apart by the mean of a picture."""

    labels = ("front", "back")

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        bright = 5 * images.mean((1, 2, 3))
        return torch.stack([bright, -bright], 1).log_softmax(1)


class PausedAt(NullReport):
    def __init__(self, step: int = -1) -> None:
        self.step = step

    def progress(self, step: int, total: int) -> None:
        if step == self.step:
            raise Paused


def run(
    folder: Path, config: StepConfig = CONFIG, pause_at: int = -1, views: Cameras | None = None
) -> tuple[ToyTheta, Guide, dict[str, Tensor]]:
    """A stage from its beginning or its checkpoint; its model, its guide and its newest checkpoint."""
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    prompts = Prompts.encode(prior.encode_text, "a red bear", ViewConfig(), False)
    rectifier = Rectifier(ByBrightness(), "marginal", AZIMUTHS, 10, 10)
    guide = Guide(
        config.method, Denoiser(prior, LoraBranch(prior, 2, ("to_q",), 0)), prompts, config.guidance,
        [rectifier] if config.method == "usd" else [], RectifierConfig(),
    )  # fmt: skip
    job, theta = JobFolder(folder), ToyTheta(views)
    for made in (job.previews, job.checkpoints):
        made.mkdir(parents=True, exist_ok=True)
    try:
        run_stage("toy", StageContext(job, prior, CPU, PausedAt(pause_at)), config, guide, theta)
    finally:
        checkpoint = CheckpointStore(job.checkpoints).newest("toy")
    assert checkpoint is not None
    return theta, guide, checkpoint.tensors


def test_a_checkpoint_has_the_model_the_branch_its_optimizer_and_the_marginal(tmp_path: Path) -> None:
    """All of them have moved by then, and all go on from there."""
    _, guide, whole = run(tmp_path / "whole")
    assert guide.denoiser.branch is not None
    for part in ("theta", "marginal", *(f"lora.{name}" for name in guide.denoiser.branch.trainable())):
        assert part in whole, part
    for part in ("lora_B", "camera.2.weight"):
        assert any(part in name and bool(tensor.any()) for name, tensor in whole.items()), part
    assert any(name.startswith("lora_optimizer") and bool(tensor.any()) for name, tensor in whole.items())
    assert (whole["marginal"] - 0.5).abs().max() > 1e-3 and (whole["theta"] - 0.4).abs().max() > 1e-5
    with pytest.raises(Paused):
        run(tmp_path / "paused", pause_at=2)
    _, _, resumed = run(tmp_path / "paused")
    assert whole.keys() == resumed.keys()
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []


@pytest.mark.parametrize(("rate", "warmup", "length"), [(0.02, 4, 0.005), (0.02, 1, 0.02), (0.05, 1, 0.05)])
def test_the_branch_learns_at_the_rate_of_the_settings_after_their_warm_up(
    tmp_path: Path, rate: float, warmup: int, length: float
) -> None:
    """Adam's first step has the length of the rate, and these weights begin at zero."""
    guidance = GuidanceConfig(lora_learning_rate=rate, lora_warmup_steps=warmup)
    _, _, tensors = run(tmp_path, replace(CONFIG, method="vsd", num_steps=1, guidance=guidance))
    moved = [
        tensor.abs().max().item()
        for name, tensor in tensors.items()
        if name.startswith("lora.") and ("lora_B" in name or "camera.2" in name)
    ]
    assert len(moved) > 2 and max(moved) == pytest.approx(length, rel=1e-3)


def test_a_method_without_a_branch_teaches_it_nothing(tmp_path: Path) -> None:
    _, guide, tensors = run(tmp_path, replace(CONFIG, method="sds"))
    assert set(tensors) == {"theta"} and guide.denoiser.branch is not None
    assert not any(bool(p.any()) for name, p in guide.denoiser.branch.trainable().items() if "lora_B" in name)


def test_a_model_with_views_of_its_own_is_seen_from_them(tmp_path: Path) -> None:
    views = cameras(10.0, 200.0)
    own, _, _ = run(tmp_path / "own", replace(CONFIG, method="sds"), views=views)
    assert own.seen == [views] * 3
    drawn, _, _ = run(tmp_path / "drawn", replace(CONFIG, method="sds"))
    assert len({tuple(seen.azimuth_deg.tolist()) for seen in drawn.seen}) == 3
