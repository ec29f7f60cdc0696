"""What one step of Algorithm 1 hands from line to line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from recdreamer.cameras import CameraConfig, Cameras
from recdreamer.config import StepConfig
from recdreamer.distillation.guidance_config import GuidanceConfig
from recdreamer.distillation.methods import Guide
from recdreamer.distillation.noised import Noised
from recdreamer.optimize import optimize_step
from recdreamer.parallel.view_shares import ALL_VIEWS, Share
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import Lesson, LoraTrainer

from .recorded import SCHEDULE, RecordingDenoiser, answer, cameras, prompts

STEPS = 10
CONFIG = StepConfig(
    method="vsd", seed=3, num_steps=STEPS, num_views=3, cameras=CameraConfig(elevation_deg=(50.0, 55.0)),
    guidance=GuidanceConfig(), preview_every=1, checkpoint_every_s=1.0,
)  # fmt: skip


class Halved(DiffusionPrior):
    """Latents are half the picture's first values."""

    def encode(self, images: Tensor) -> Tensor:
        return torch.cat([images, images[:, :1]], 1) / 2


@dataclass
class Picture:
    rgb: Tensor


class ToyModel:
    """Shows the same picture from everywhere; remembers the cameras and the gradient."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.theta = torch.full((3, 2, 2), 0.4, requires_grad=True)
        self.shown: list[tuple[Cameras, int]] = []
        self.given: list[tuple[Tensor, Tensor, int]] = []

    def render(self, cameras: Cameras, step: int, generator: torch.Generator) -> Picture:
        self.shown.append((cameras, step))
        return Picture(self.theta.expand(len(cameras), -1, -1, -1))

    def descend(
        self, rendering: Picture, latents: Tensor, grad: Tensor, step: int, generator: torch.Generator
    ) -> None:
        self.given.append((latents, grad, step))


class SpyTrainer(LoraTrainer):
    """Remembers what it was to learn."""

    def __init__(self) -> None:
        self.drawn: list[Lesson] = []
        self.taught: list[tuple[Tensor, Tensor, Tensor, int]] = []

    def draw(self, latents: Tensor, text: Tensor, c2w: Tensor, generator: torch.Generator) -> Lesson:
        return Lesson(latents, torch.zeros(len(latents), dtype=torch.long), text, c2w, latents)

    def grads(self, lesson: Lesson) -> tuple[Tensor, ...]:
        self.drawn.append(lesson)
        return ()

    def learn(self, grads: Sequence[Tensor], step: int, share: Share = ALL_VIEWS) -> None:
        (lesson,) = self.drawn
        self.taught.append((lesson.latents_t, lesson.text, lesson.c2w, step))


class SpyGuide(Guide):
    """Remembers the noised renders that it was asked about and that it observed."""

    def __init__(self, config: StepConfig) -> None:
        super().__init__(config.method, RecordingDenoiser(), prompts(), config.guidance)
        self.asked: list[Noised] = []
        self.observed: list[Noised] = []

    def ask(self, x: Noised, generator: torch.Generator, lesson: Lesson | None = None):
        self.asked.append(x)
        return super().ask(x, generator, lesson)

    def observe(self, x: Noised, log_probs: object, share: Share = ALL_VIEWS) -> None:
        self.observed.append(x)


def run(
    step: int = 0, config: StepConfig = CONFIG, views: Cameras | None = None
) -> tuple[ToyModel, SpyGuide, SpyTrainer]:
    model, guide, trainer = ToyModel(), SpyGuide(config), SpyTrainer()
    prior = Halved(SimpleNamespace(device=torch.device("cpu")), None, None, nn.Identity(), SCHEDULE, 8)
    optimize_step(step, config, prior, model, guide, trainer, views)
    return model, guide, trainer


def test_the_renders_are_noised_with_their_own_cameras() -> None:
    views = cameras(10.0, 130.0, 250.0)
    model, guide, _ = run(step=4, views=views)
    ((shown, step),), (x,) = model.shown, guide.asked
    assert shown is views and step == 4
    assert x.cameras is views and (x.step, x.progress) == (4, 0.4)
    assert torch.equal(x.latents, torch.full((3, 4, 2, 2), 0.2))
    noisy = SCHEDULE.alpha_t(x.t) * x.latents + SCHEDULE.sigma_t(x.t) * x.eps
    assert torch.allclose(x.latents_t, noisy)
    assert guide.observed == [x]


def test_the_model_descends_along_the_gradient_on_its_own_latents() -> None:
    model, guide, _ = run(step=4)
    ((latents, grad, step),), (x,) = model.given, guide.asked
    assert step == 4 and torch.equal(latents.detach(), x.latents) and latents.requires_grad
    text = torch.tensor([answer(name) for name in guide.denoiser.asked[0].texts])
    difference = answer("empty") + 7.5 * (text - answer("empty")) - answer("plain", of_branch=True)
    wanted = SCHEDULE.sigma_t(x.t).square() * difference[:, None, None, None]
    assert torch.allclose(grad, wanted.expand_as(grad))


def test_the_branch_learns_the_clean_renders_from_their_cameras_with_the_plain_prompt() -> None:
    views = cameras(10.0, 130.0, 250.0)
    _, guide, trainer = run(step=4, views=views)
    ((latents, text, c2w, step),) = trainer.taught
    assert torch.equal(latents, guide.asked[0].latents) and not latents.requires_grad
    assert torch.equal(text, prompts().plain.expand(3, -1, -1))
    assert torch.equal(c2w, views.c2w) and step == 4


@pytest.mark.parametrize(("every", "taught"), [(1, [0, 1, 2, 3, 4, 5]), (3, [0, 3])])
def test_lora_every_is_the_steps_between_two_lessons_of_the_branch(every: int, taught: list[int]) -> None:
    config = replace(CONFIG, guidance=GuidanceConfig(lora_every=every))
    assert [step for step in range(6) if run(step, config)[2].taught] == taught


def test_views_are_drawn_as_the_settings_say_if_none_are_given() -> None:
    shown = run()[0].shown[0][0]
    assert len(shown) == CONFIG.num_views
    assert ((shown.elevation_deg >= 50) & (shown.elevation_deg <= 55)).all()


def test_each_step_and_each_seed_draws_numbers_of_its_own_and_the_same_again() -> None:
    def drawn(step: int, seed: int) -> Tensor:
        model, guide, _ = run(step, replace(CONFIG, seed=seed))
        x = guide.asked[0]
        return torch.cat([x.eps.flatten(), x.t.float(), model.shown[0][0].azimuth_deg])

    first = drawn(2, 3)
    assert torch.equal(first, drawn(2, 3))
    for other in (drawn(3, 3), drawn(2, 4)):
        assert not (first == other).any(), "noise, timesteps and cameras are all others"


def test_timesteps_come_from_the_range_of_the_step() -> None:
    """With five intervals the first steps draw from the noisiest fifth, the last from the least noisy one."""
    config = replace(CONFIG, guidance=GuidanceConfig(num_intervals=5))
    for step, low, high in ((0, 800, 980), (STEPS - 1, 20, 200)):
        t = torch.cat([run(step, replace(config, seed=seed))[1].asked[0].t for seed in range(8)])
        assert low <= t.min() and t.max() < high and t.max() - t.min() > 60
