"""The whole chain of USD on networks: noise, U-Net, Tweedie, decoder, classifier, rectifier, and back to the latents.

The networks are small and random, of the classes that Stable Diffusion and DINOv2 are made of.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from recdreamer.cameras import orbit_cameras
from recdreamer.distillation.guidance_config import GuidanceConfig, RectifierConfig
from recdreamer.distillation.methods import Guide
from recdreamer.distillation.noised import Noised, add_noise
from recdreamer.optimize import distillation_grad
from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
from recdreamer.pose.features import FeatureExtractor
from recdreamer.pose.rectifier import Rectifier
from recdreamer.pose.templates import PoseTemplate
from recdreamer.prior.denoiser import Denoiser, Question
from recdreamer.prior.diffusion import BUILTIN_FOLDER, DiffusionPrior, TinyDecoder, TinyEncoder
from recdreamer.prior.lora import LoraBranch
from recdreamer.prior.prompts import Prompts, ViewConfig
from recdreamer.prior.schedule import NoiseSchedule, Prediction
from recdreamer.report import JobError

from .mixture import as_method

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def small_unet(channels: int = 4) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=channels, out_channels=channels, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=12, attention_head_dim=2,
    )  # fmt: skip


def small_prior(dtype: torch.dtype, prediction: Prediction = "epsilon") -> DiffusionPrior:
    torch.manual_seed(0)
    unet = small_unet()
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, norm_num_groups=4, sample_size=32,
        scaling_factor=0.5, mid_block_add_attention=False,
    )  # fmt: skip
    for part in (unet, vae):
        part.requires_grad_(False).eval().to(dtype)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    schedule = NoiseSchedule((1 - betas).cumprod(0).to(torch.float64), prediction)
    return DiffusionPrior(unet, vae, None, nn.Identity(), schedule, image_px=32)


def small_classifier(folder: Path, dtype: torch.dtype) -> PoseClassifier:
    torch.manual_seed(1)
    model = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=4
        )
    )
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2], "size": {"height": 32, "width": 32}}'
    )
    extractor = FeatureExtractor(str(folder)).to(dtype)
    templates = [
        PoseTemplate(label, torch.rand(3, 32, 32, dtype=dtype), None, None)
        for label in ("front", "right", "back")
    ]
    return PoseClassifier(extractor, templates, ClassifierConfig(query_copies=2, template_copies=1)).to(dtype)


class InFloat64(DiffusionPrior):
    """The production prior works in float32 between its networks; differences want more digits."""

    def output(self, latents_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return self.unet(latents_t, t, text).sample

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample / 2 + 0.5


def guide_of(prior: DiffusionPrior, folder: Path, dtype: torch.dtype, **settings: object) -> Guide:
    classifier = small_classifier(folder, dtype)
    rectifier = Rectifier(classifier, "marginal", None, num_intervals=10, n_ema=100)
    rectifier.marginal.to(dtype)
    rectifier.marginal.probs[:] = torch.tensor([0.6, 0.3, 0.1])
    rectifier.target = rectifier.target.to(dtype)
    words = torch.randn(2, 5, 12, dtype=dtype, generator=torch.Generator().manual_seed(3))
    prompts = Prompts.encode(
        lambda texts: torch.stack([words[min(1, len(text))] for text in texts]), "x", ViewConfig(), False
    )
    config = RectifierConfig(weight=1.0, clamp="none", **settings)
    return Guide(
        "usd",
        Denoiser(prior, LoraBranch(prior, 2, TARGETS, 0)),
        prompts,
        GuidanceConfig(),
        [rectifier],
        config,
    )


def noised_latents(prior: DiffusionPrior, dtype: torch.dtype) -> Noised:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 8, 8, generator=generator, dtype=dtype)
    cameras = orbit_cameras(torch.tensor([20.0, 200.0]), torch.full((2,), 10.0), 3.0, 40.0)
    return add_noise(latents, torch.tensor([150, 620]), cameras, 0, 10, prior.schedule, generator)


def second_term(guide: Guide, x: Noised) -> Tensor:
    """What USD adds to VSD."""
    vsd = as_method(guide, "vsd")
    usd_grad = distillation_grad(guide, x, guide.ask(x, torch.Generator().manual_seed(9)))
    return usd_grad - distillation_grad(vsd, x, vsd.ask(x, torch.Generator()))


@pytest.mark.parametrize(("prediction", "scale"), [("epsilon", 1.0), ("v_prediction", 1.0), ("epsilon", 7.5)])
def test_the_gradient_through_all_networks_is_that_of_differences(
    prediction: Prediction, scale: float, tmp_path: Path
) -> None:
    """-ω σ ∇ log r(x_t), with every network's Jacobian in it, in float64 (paper, Eq. 13)."""
    small = small_prior(torch.float64, prediction)
    prior = InFloat64(**{name: getattr(small, name) for name in DiffusionPrior.__dataclass_fields__})
    guide = guide_of(prior, tmp_path, torch.float64, estimate_guidance=scale)
    x = noised_latents(prior, torch.float64)
    rectifier, schedule, text = guide.rectifiers[0], prior.schedule, guide._text(x)
    assert (guide._empty(x) - text).abs().max() > 0.1

    def log_ratio(latents_t: Tensor) -> Tensor:
        eps, eps_empty = (prior.eps(latents_t, x.t, words) for words in (text, guide._empty(x)))
        # As in the released code, where the scale is that of the prior's term.
        images = prior.decode(schedule.x0_hat(latents_t, eps_empty + scale * (eps - eps_empty), x.t))
        return rectifier.log_ratio(images, x.t, None, torch.Generator().manual_seed(9))[0]

    latents_t = x.latents_t.clone().requires_grad_()
    (grad,) = torch.autograd.grad(log_ratio(latents_t).sum(), latents_t)
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        towards = torch.randn(grad.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (log_ratio(x.latents_t + step * towards).sum() for step in (1e-5, -1e-5))
        difference = (ahead - behind) / 2e-5
        assert torch.allclose((grad * towards).sum(), difference, rtol=1e-5)
    # The production code adds exactly this to VSD.
    expected = -x.w_t * schedule.sigma_t(x.t) * grad
    assert expected.abs().max() > 1e-9
    assert torch.allclose(second_term(guide, x), expected, rtol=1e-4, atol=1e-3 * expected.abs().max().item())


@pytest.fixture
def plain(tmp_path: Path) -> tuple[Guide, Noised, Tensor]:
    prior = small_prior(torch.float32)
    prior.schedule = NoiseSchedule(prior.schedule.alphas_cumprod.float(), "epsilon")
    guide = guide_of(prior, tmp_path / "plain", torch.float32)
    x = noised_latents(prior, torch.float32)
    return guide, x, second_term(guide, x)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def test_checkpointing_changes_nothing(plain: tuple[Guide, Noised, Tensor]) -> None:
    guide, x, wanted = plain
    guide.denoiser.enable_checkpointing()
    assert relative_error(second_term(guide, x), wanted) < 1e-5


def test_checkpointing_changes_nothing_for_the_branch(plain: tuple[Guide, Noised, Tensor]) -> None:
    """Its activations are computed again when it is off already, and questions were asked in between."""
    guide, x, _ = plain
    branch, grads = guide.denoiser.branch, []
    assert branch is not None and x.c2w is not None
    for is_checkpointing in (False, True):
        if is_checkpointing:
            guide.denoiser.enable_checkpointing()
        lesson = branch.draw(x.latents, guide._text(x), x.c2w, torch.Generator().manual_seed(0), 0.0)
        loss = branch.loss(lesson)
        guide.ask(x, torch.Generator().manual_seed(0))
        grads.append(torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, branch.learning())]))
    assert grads[0].norm() > 0
    assert relative_error(grads[1], grads[0]) < 1e-5


def test_half_precision_points_the_same_way(plain: tuple[Guide, Noised, Tensor]) -> None:
    """bfloat16 has 8 binary digits: the direction holds to a few per cent through three networks.

    Everything is the object here: on the noise of random networks a patch easily changes sides of the mask.
    """
    guide, x, _ = plain
    classifier = guide.rectifiers[0].classifier
    classifier.rule = replace(classifier.rule, threshold=-math.inf)
    wanted = second_term(guide, x)
    for part in (guide.denoiser.prior.unet, guide.denoiser.prior.vae):
        part.to(torch.bfloat16)
    found = second_term(guide, x)
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.98
    assert 0.9 < found.norm() / wanted.norm() < 1.1


def test_the_gradient_does_not_depend_on_the_scale_of_the_loss(plain: tuple[Guide, Noised, Tensor]) -> None:
    """A factor on log r is a factor on its gradient, from 2⁻¹² to 2¹²: nothing underflows on the way."""
    guide, x, _ = plain
    rectifier, log_ratio = guide.rectifiers[0], guide.rectifiers[0].log_ratio

    def slope(factor: float) -> Tensor:
        def scaled(*asked: object) -> tuple[Tensor, Tensor]:
            log_r, log_probs = log_ratio(*asked)
            return factor * log_r, log_probs

        rectifier.log_ratio = scaled
        grad = guide.ask(x, torch.Generator().manual_seed(9)).grad_log_r
        assert grad is not None
        return grad / factor

    wanted = slope(1.0)
    assert wanted.norm() > 0
    for factor in (2.0**-12, 2.0**12):
        assert relative_error(slope(factor), wanted) < 1e-4


def test_nothing_frozen_gets_a_gradient(plain: tuple[Guide, Noised, Tensor]) -> None:
    guide, x, _ = plain
    branch = guide.denoiser.branch
    assert branch is not None
    guide.ask(x, torch.Generator().manual_seed(0))
    prior, classifier = guide.denoiser.prior, guide.rectifiers[0].classifier
    frozen = [*prior.unet.parameters(), *prior.vae.parameters(), *classifier.parameters()]
    assert all(parameter.grad is None for parameter in [*frozen, *branch.parameters()])
    # The branch's own loss reaches the branch and nothing else.
    assert x.c2w is not None
    lesson = branch.draw(x.latents, guide._text(x), x.c2w, torch.Generator().manual_seed(0), 0.0)
    branch.loss(lesson).backward()
    assert all(parameter.grad is None for parameter in frozen)
    assert all(parameter.grad is not None for parameter in branch.parameters())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_branch_is_trained_to_what_its_network_predicts(prediction: Prediction) -> None:
    """Noise for an eps-network; alpha_t · eps - sigma_t · x_0 for a v-network; and it answers in noise either way."""
    prior = small_prior(torch.float32, prediction)
    prior.schedule = NoiseSchedule(prior.schedule.alphas_cumprod.float(), prediction)
    branch, generator = LoraBranch(prior, 2, TARGETS, 0), torch.Generator().manual_seed(4)
    latents, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12)
    c2w = torch.eye(4).expand(2, 4, 4)
    loss = branch.loss(branch.draw(latents, text, c2w, generator, camera_dropout=0.0))
    generator.manual_seed(4)
    t = torch.randint(1000, (2,), generator=generator)
    eps = torch.randn(latents.shape, generator=generator)
    alpha, sigma = prior.schedule.alpha_t(t), prior.schedule.sigma_t(t)
    latents_t = alpha * latents + sigma * eps
    # At its start the branch is the pretrained network, whatever the camera.
    output = prior.unet(latents_t, t, text).sample
    wanted = eps if prediction == "epsilon" else alpha * eps - sigma * latents
    assert torch.allclose(loss, (output - wanted).square().mean(), rtol=1e-5)
    (asked,) = Denoiser(prior, branch).ask(latents_t, t, Question(text, True, c2w))
    in_noise = output if prediction == "epsilon" else alpha * output + sigma * latents_t
    assert torch.allclose(asked, in_noise, atol=1e-5)


def test_a_tiny_decoder_is_asked_in_the_autoencoders_place(tmp_path: Path) -> None:
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    channels = prior.unet.config.in_channels
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3, num_encoder_blocks=(1,) * 3,
        num_decoder_blocks=(1,) * 3, latent_channels=channels,
    )  # fmt: skip
    tiny.save_pretrained(tmp_path)
    latents = torch.randn(2, channels, 16, 16, requires_grad=True)
    images = Denoiser(prior, None, TinyDecoder(str(tmp_path), prior)).decode(latents)
    assert images.shape == (2, 3, 64, 64)
    assert torch.allclose(images, tiny.eval().decode(latents).sample / 2 + 0.5, atol=1e-6)
    assert torch.autograd.grad(images.sum(), latents)[0].abs().sum() > 0


def test_a_tiny_encoder_encodes_in_the_denoisers_scale_and_in_the_priors_size(tmp_path: Path) -> None:
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3, num_encoder_blocks=(1,) * 3,
        num_decoder_blocks=(1,) * 3, latent_channels=prior.unet.config.in_channels,
    )  # fmt: skip
    tiny.save_pretrained(tmp_path)
    pictures = torch.rand(2, 3, 32, 32, requires_grad=True)
    latents = TinyEncoder(str(tmp_path), prior).encode(pictures)
    large = torch.nn.functional.interpolate(pictures, (64, 64), mode="bilinear")
    assert latents.shape == prior.encode(pictures).shape
    assert torch.allclose(latents, tiny.eval().encode(2 * large - 1).latents, atol=1e-6)
    assert torch.autograd.grad(latents.sum(), pictures)[0].abs().sum() > 0


def test_a_decoder_that_does_not_fit_is_said_in_a_sentence(tmp_path: Path) -> None:
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    with pytest.raises(JobError, match="There is no tiny decoder"):
        TinyDecoder(str(BUILTIN_FOLDER / "nothing"), prior)
    AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
                    num_decoder_blocks=(1, 1), latent_channels=3).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(JobError, match="decodes 3 latent channels"):
        TinyDecoder(str(tmp_path), prior)
