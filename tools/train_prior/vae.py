"""The autoencoder of the embedded prior: 64×64 pictures to 16×16×8 latents of unit variance."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from common import FitConfig, fit
from diffusers import AutoencoderKL
from torch import Tensor

LATENT_CHANNELS = 8


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Brightness, hue and edges weighed apart: plain L1 sharpens edges and loses the hue."""
    error = decoded - images
    luma = error.mean(1, keepdim=True)
    chroma = error - luma
    edges = (error[..., 1:, :] - error[..., :-1, :]).abs().mean() + (error[..., 1:] - error[..., :-1]).abs().mean()
    return (
        4 * luma.square().mean()
        + 12 * chroma.square().mean()
        + 4 * F.avg_pool2d(error, 4).square().mean()
        + 0.25 * error.abs().mean()
        + 0.25 * edges
    )


def train_vae(photos: Tensor, num_steps: int, batch: int, rate: float, folder: Path, seed: int) -> AutoencoderKL:
    """Train on uint8 `photos` and fold the whitening of the latents into the model."""
    torch.manual_seed(seed)
    vae = new_vae().to(photos.device)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(photos), (batch,), generator=generator, device=photos.device)
        images = photos[rows].float() / 127.5 - 1
        if torch.rand((), generator=generator, device=photos.device) < 0.5:
            images = images.flip(-1)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=photos.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        return reconstruction_loss(decoded, images) + 1e-3 * posterior.kl().mean() / posterior.mean[0].numel()

    fit("vae", vae, loss_of, FitConfig(num_steps, rate), folder, seed)
    _whiten(vae, photos[:2048])
    return vae


@torch.no_grad()
def _whiten(vae: AutoencoderKL, photos: Tensor) -> None:
    """Make each latent channel zero-mean and unit-variance by rewriting the two 1×1 convolutions.

    A StableDiffusionPipeline knows a single scaling factor; the channels of a small autoencoder differ.
    """
    means = torch.cat([vae.encode(chunk.float() / 127.5 - 1).latent_dist.mean for chunk in photos.split(256)])
    mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3))
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
    """Posterior means and deviations of all pictures, half precision."""
    means, stds = [], []
    for chunk in photos.split(512):
        posterior = vae.encode(chunk.float() / 127.5 - 1).latent_dist
        means.append(posterior.mean.half())
        stds.append(posterior.std.half())
    return torch.cat(means), torch.cat(stds)
