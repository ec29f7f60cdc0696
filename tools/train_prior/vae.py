"""The autoencoder of the embedded prior: 64×64 pictures to 16×16 latents of unit variance.

It is trained with more channels than it needs; those that carry more noise than signal in the end are cut
off, followed by a short training.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from augment import foreign
from common import FitConfig, fit

TRAINED_CHANNELS = 8
WORST_CHANGE = 0.08
"""Largest root mean square of the change that moves an encoder most, in [-1, 1]."""


def new_vae(
    latent_channels: int,
    widths: tuple[int, ...] = (16, 32, 64),
    size_px: int = 64,
    scaling_factor: float = 1.0,
) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=size_px,
        mid_block_add_attention=False,
        scaling_factor=scaling_factor,
    )


def reconstruction_loss(decoded: Tensor, images: Tensor, weight: Tensor | None = None) -> Tensor:
    """Brightness, hue and edges weighed apart: plain L1 sharpens edges and loses the hue.

    `weight` is that of each pixel, with a mean of 1.
    """
    error = decoded - images
    luma = error.mean(1, keepdim=True)
    chroma = error - luma
    down, right = error[..., 1:, :] - error[..., :-1, :], error[..., 1:] - error[..., :-1]
    whole, top, left = (1.0, 1.0, 1.0) if weight is None else (weight, weight[..., 1:, :], weight[..., 1:])
    return (
        4 * (whole * luma.square()).mean()
        + 12 * (whole * chroma.square()).mean()
        + 4 * F.avg_pool2d(error, 4).square().mean()
        + 0.25 * (whole * error.abs()).mean()
        + 0.25 * ((top * down.abs()).mean() + (left * right.abs()).mean())
    )


def subject_weight(images: Tensor, weight: float) -> Tensor:
    """`weight` times more for pixels on and near the subject; the background has one colour along each row."""
    is_subject = ((images - images[..., :1]).abs().amax(1, keepdim=True) > 0.06).float()
    values = 1 + (weight - 1) * F.max_pool2d(is_subject, 3, stride=1, padding=1)
    return values / values.mean()


def train_vae(
    photos: Tensor, num_steps: int, batch: int, rate: float, folder: Path, seed: int
) -> AutoencoderKL:
    """Train on uint8 `photos`, prune dead channels, and fold the whitening of the latents into the model."""
    torch.manual_seed(seed)
    vae = new_vae(TRAINED_CHANNELS).to(photos.device)
    _fit_vae("vae", vae, photos, batch, FitConfig(num_steps, rate), folder, seed)
    vae = _without_dead_channels(vae, photos[:2048])
    _fit_vae(
        "vae_pruned",
        vae,
        photos,
        batch,
        FitConfig(num_steps // 10, rate / 4, ema_decay=0.99),
        folder,
        seed + 1,
    )
    whiten(vae, photos[:2048])
    return vae


def _fit_vae(
    name: str, vae: AutoencoderKL, photos: Tensor, batch: int, config: FitConfig, folder: Path, seed: int
) -> None:
    def loss_of(generator: torch.Generator) -> Tensor:
        return vae_loss(vae, *draw_pictures(vae, photos, batch, generator))

    fit(name, vae, loss_of, config, folder, seed)


def draw_pictures(
    vae: AutoencoderKL, photos: Tensor, batch: int, generator: torch.Generator, foreign_share: float = 0.0
) -> tuple[Tensor, Tensor]:
    """A random batch of uint8 pictures in [-1, 1], and noise for the posterior.

    `foreign_share` of them are changed to what no photo shows (`augment.foreign`).
    """
    rows = torch.randint(len(photos), (batch,), generator=generator, device=photos.device)
    images = photos[rows].float() / 127.5 - 1
    if torch.rand((), generator=generator, device=photos.device) < 0.5:
        images = images.flip(-1)
    if num_foreign := round(foreign_share * batch):
        changed = 2 * foreign((images[:num_foreign] + 1) / 2, generator) - 1
        images = torch.cat((changed, images[num_foreign:]))
    side = images.shape[-1] // 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (batch, vae.config.latent_channels, side, side)
    return images, torch.randn(shape, generator=generator, device=photos.device)


def vae_loss(
    vae: AutoencoderKL, images: Tensor, noise: Tensor, kl_weight: float = 1e-3, weight: float = 1.0
) -> Tensor:
    """Of pictures decoded from a draw of the posterior; `weight` is that of the subject against the background."""
    posterior = vae.encode(images).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    pixels = None if weight == 1 else subject_weight(images, weight)
    loss = reconstruction_loss(decoded.float(), images, pixels)
    return loss + kl_weight * posterior.kl().mean() / posterior.mean[0].numel()


class Encoder(nn.Module):
    """The encoder of an autoencoder alone: scaled latents of pictures in [-1, 1]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        assert vae.quant_conv is not None
        self.encoder, self.quant_conv, self.scale = vae.encoder, vae.quant_conv, vae.config.scaling_factor

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.quant_conv(self.encoder(images)).chunk(2, dim=1)[0]


def draw_disturbed(
    encoder: Encoder, images: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """For `hardening_loss`: pictures, their latents, the pictures under noise, fine or coarse, where the search for the
    worst change begins, and how large that is."""
    count, device, size = len(images), images.device, images.shape[-1]
    draw = torch.rand(3, count, 1, 1, 1, generator=generator, device=device)
    fine = torch.randn(images.shape, generator=generator, device=device)
    coarse = torch.randn(count, 3, size // 2, size // 2, generator=generator, device=device)
    noise = torch.where(draw[0] < 0.5, fine, F.interpolate(coarse, (size, size), mode="bilinear"))
    begin = 0.02 * torch.randn(images.shape, generator=generator, device=device)
    radius = WORST_CHANGE * draw[2] * images[0].numel() ** 0.5
    with torch.no_grad():
        latents = encoder(images)
    return images, latents, images + 0.3 * draw[1] * noise, begin, radius


def hardening_loss(
    encoder: Encoder, images: Tensor, latents: Tensor, disturbed: Tensor, begin: Tensor, radius: Tensor
) -> Tensor:
    """How far an encoder is from `latents`, for the pictures and for the same under noise and under the change that moves
    it most (adversarial training, Madry et al. 2018, with one step).

    Distillation sends its gradient back through the encoder. One that was trained to reconstruct alone answers to
    patterns that nobody sees, so most of that gradient is such patterns, and little is what the picture should become.
    """
    change = begin.detach().requires_grad_()
    away = (encoder(disturbed + change) - latents).square().mean()
    (slope,) = torch.autograd.grad(away, change)
    length = slope.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(1e-12)
    worst = (disturbed + radius * slope / length).detach()
    half = len(images) // 2
    wanted = torch.cat((latents[:half], latents))
    return (encoder(torch.cat((images[:half], worst))) - wanted).square().mean()


@torch.no_grad()
def _without_dead_channels(vae: AutoencoderKL, photos: Tensor) -> AutoencoderKL:
    """The same model without the channels whose noise exceeds half of their signal; four stay at least."""
    means, stds = encode_all(vae, photos)
    signal, noise = means.float().std((0, 2, 3)), stds.float().mean((0, 2, 3))
    order = (noise / signal).argsort()
    alive = order[: max(4, int((noise < 0.5 * signal).sum()))].sort().values
    print(
        f"[vae] keeps channels {alive.tolist()} of {len(signal)}; noise / signal {(noise / signal).tolist()}"
    )
    pruned = new_vae(len(alive)).to(photos.device)
    quant, post = vae.quant_conv, vae.post_quant_conv
    moments = torch.cat((alive, alive + len(signal)))
    state = vae.state_dict()
    # Two convolutions in a row are one: 1×1 after 3×3 in the encoder, 1×1 before 3×3 in the decoder.
    mix = quant.weight[moments, :, 0, 0]
    state["encoder.conv_out.weight"] = torch.einsum("om,mihw->oihw", mix, vae.encoder.conv_out.weight)
    state["encoder.conv_out.bias"] = mix @ vae.encoder.conv_out.bias + quant.bias[moments]
    spread = post.weight[:, :, 0, 0]
    dead_mean = means.float().mean((0, 2, 3))
    dead_mean[alive] = 0
    constant = post.bias + spread @ dead_mean
    conv_in = vae.decoder.conv_in
    state["decoder.conv_in.weight"] = torch.einsum("omhw,mi->oihw", conv_in.weight, spread[:, alive])
    state["decoder.conv_in.bias"] = conv_in.bias + conv_in.weight.sum((2, 3)) @ constant
    for name, size in (("quant_conv", 2 * len(alive)), ("post_quant_conv", len(alive))):
        state[f"{name}.weight"] = torch.eye(size, device=photos.device)[:, :, None, None]
        state[f"{name}.bias"] = torch.zeros(size, device=photos.device)
    pruned.load_state_dict(state)
    return pruned


@torch.no_grad()
def whiten(vae: AutoencoderKL, photos: Tensor) -> None:
    """Make each latent channel, times the scaling factor, zero-mean and unit-variance by rewriting the two 1×1
    convolutions.

    A StableDiffusionPipeline knows a single scaling factor; the channels of a small autoencoder differ.
    """
    means = torch.cat(
        [vae.encode(chunk.float() / 127.5 - 1).latent_dist.mean for chunk in photos.split(_at_once(photos))]
    )
    mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3)) * vae.config.scaling_factor
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant is not None and post is not None
    channels = len(mean)
    post.bias += (post.weight[:, :, 0, 0] @ mean[:, None])[:, 0]
    post.weight *= std[None, :, None, None]
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()


@torch.no_grad()
def encode_all(vae: AutoencoderKL, photos: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior means and deviations of all pictures, times the scaling factor, in half precision."""
    means, stds, scale = [], [], vae.config.scaling_factor
    for chunk in photos.split(_at_once(photos)):
        posterior = vae.encode(chunk.float() / 127.5 - 1).latent_dist
        means.append((scale * posterior.mean).half())
        stds.append((scale * posterior.std).half())
    return torch.cat(means), torch.cat(stds)


def _at_once(photos: Tensor) -> int:
    """Pictures whose encoding takes a few GiB."""
    return max(1, 512 * 128**2 // photos[0, 0].numel())
