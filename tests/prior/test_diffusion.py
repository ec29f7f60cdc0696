"""The embedded prior, loaded as any Stable Diffusion is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recdreamer.evaluation.figurines import photograph
from recdreamer.prior.diffusion import DiffusionPrior, guided
from recdreamer.report import JobError


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return DiffusionPrior.load("builtin", "cpu", torch.float32)


def test_the_ordinary_pipeline_loads_the_same_weights(prior: DiffusionPrior) -> None:
    from diffusers import StableDiffusionPipeline

    from recdreamer.prior.diffusion import BUILTIN_FOLDER

    pipeline = StableDiffusionPipeline.from_pretrained(
        BUILTIN_FOLDER, safety_checker=None, local_files_only=True
    )
    latents = torch.randn(
        1, prior.unet.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(0)
    )
    text = prior.encode_text(["a red bear"])
    theirs = pipeline.encode_prompt("a red bear", "cpu", 1, False)[0]
    assert torch.allclose(text, theirs, atol=1e-5)
    t = torch.tensor([400])
    velocity = pipeline.unet(latents, t, theirs).sample
    alpha, sigma = prior.schedule.alpha_t(t), prior.schedule.sigma_t(t)
    assert torch.allclose(prior.eps(latents, t, text), alpha * velocity + sigma * latents, atol=1e-4)


def test_pictures_survive_the_autoencoder(prior: DiffusionPrior) -> None:
    images = photograph(8, torch.Generator().manual_seed(3)).images
    decoded = prior.decode(prior.encode(images)).clamp(0, 1)
    assert -10 * torch.log10((decoded - images).square().mean()) > 28


def test_encoder_gradient_agrees_with_a_difference_quotient(prior: DiffusionPrior) -> None:
    generator = torch.Generator().manual_seed(4)
    images = photograph(1, generator).images
    direction, weight = torch.randn(images.shape, generator=generator), None
    images.requires_grad_()
    latents = prior.encode(images)
    weight = torch.randn(latents.shape, generator=generator)
    (grad,) = torch.autograd.grad((latents * weight).sum(), images)
    step = 1e-3
    with torch.no_grad():
        moved = [(prior.encode(images + s * step * direction) * weight).sum() for s in (1, -1)]
    assert torch.allclose((grad * direction).sum(), (moved[0] - moved[1]) / (2 * step), rtol=2e-2)


def test_pictures_of_another_size_are_resampled(prior: DiffusionPrior) -> None:
    assert prior.encode(torch.rand(1, 3, 96, 96)).shape == prior.encode(torch.rand(1, 3, 64, 64)).shape


def test_guidance_is_in_diffusers_convention() -> None:
    cond, uncond = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 1.0)
    assert [guided(cond, uncond, s).item() for s in (0.0, 1.0, 2.0)] == [1.0, 3.0, 5.0]


def test_samples_are_seeded_and_in_range(prior: DiffusionPrior) -> None:
    pictures = [prior.sample(["a red bear"], torch.Generator().manual_seed(5), num_steps=4) for _ in range(2)]
    assert torch.equal(*pictures)
    assert pictures[0].min() >= 0 and pictures[0].max() <= 1


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("no/such-model", "model_missing", "The image model no/such-model is not on this machine"),
        ("empty folder", "prior", "is a folder without a model"),
    ],
)
def test_a_wrong_model_is_one_clear_sentence(name: str, kind: str, sentence: str, tmp_path: Path) -> None:
    source = str(tmp_path) if name == "empty folder" else name
    with pytest.raises(JobError, match=sentence) as caught:
        DiffusionPrior.load(source, "cpu", torch.float32)
    assert caught.value.kind == kind
    assert "\n" not in caught.value.message and caught.value.hint


def test_many_pictures_go_through_the_networks_in_batches(
    prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pictures as all at once, of which Stable Diffusion's would not fit."""
    sizes, eps = [], DiffusionPrior.eps

    def counted(self: DiffusionPrior, latents_t: torch.Tensor, *asked: torch.Tensor) -> torch.Tensor:
        sizes.append(len(latents_t))
        return eps(self, latents_t, *asked)

    monkeypatch.setattr(DiffusionPrior, "eps", counted)
    prompts = ["a red bear", "a blue bird", "a red bear", "a teal rabbit", "a blue bird"]
    draw = lambda at_once: prior.sample(prompts, torch.Generator().manual_seed(1), 3.0, 2, at_once)  # noqa: E731
    together = draw(5)
    sizes.clear()
    assert torch.allclose(draw(2), together, atol=1e-4) and max(sizes) == 2
