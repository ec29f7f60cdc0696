"""The denoiser and its text encoder, trained together by v-prediction on the latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from captions import CaptionTable
from common import FitConfig, fit


@dataclass(frozen=True)
class TextSize:
    """Of the text encoder."""

    width: int = 96
    num_layers: int = 2


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own noise schedule, with v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction", timestep_spacing="trailing",
    )  # fmt: skip


class Denoiser(nn.Module):
    def __init__(
        self, tokenizer: CLIPTokenizer, latent_channels: int, widths: tuple[int, ...] = (64, 128),
        text: TextSize = TextSize(),
    ) -> None:  # fmt: skip
        super().__init__()
        lower = len(widths) - 1
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=tokenizer.vocab_size, max_position_embeddings=tokenizer.model_max_length,
                hidden_size=text.width, intermediate_size=2 * text.width, num_hidden_layers=text.num_layers,
                num_attention_heads=4, projection_dim=text.width, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
        self.unet = UNet2DConditionModel(
            sample_size=16, in_channels=latent_channels, out_channels=latent_channels, layers_per_block=1,
            block_out_channels=widths, down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * lower),
            up_block_types=(*("CrossAttnUpBlock2D",) * lower, "UpBlock2D"), cross_attention_dim=text.width,
            # The number of heads, misnamed in diffusers for historical reasons.
            attention_head_dim=4, norm_num_groups=16,
        )  # fmt: skip


def train_denoiser(
    latents: tuple[Tensor, Tensor], captions: Tensor, tokenizer: CLIPTokenizer,
    num_steps: int, batch: int, rate: float, ema_decay: float, folder: Path, seed: int,
    time_limit_s: float | None = None, compiled: bool = False,
) -> Denoiser:  # fmt: skip
    """Train on posterior means and deviations, and on (versions, pictures) captions of the same pictures."""
    means, _ = latents
    device = means.device
    torch.manual_seed(seed)
    denoiser = Denoiser(tokenizer, means.shape[1]).to(device)
    denoiser.unet.to(memory_format=torch.channels_last)
    if compiled:
        denoiser.unet.compile()
    tokens = CaptionTable(tokenizer).tokens.to(device)
    alphas_cumprod = new_scheduler().alphas_cumprod.to(device)

    def loss_of(generator: torch.Generator) -> Tensor:
        latents_t, t, velocity, rows = draw_latents(latents, captions, alphas_cumprod, batch, generator)
        return velocity_loss(denoiser, latents_t, t, velocity, tokens[rows])

    config = FitConfig(num_steps, rate, ema_decay=ema_decay, time_limit_s=time_limit_s)
    return fit("denoiser", denoiser, loss_of, config, folder, seed)


def draw_latents(
    latents: tuple[Tensor, Tensor], captions: Tensor, alphas_cumprod: Tensor, batch: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """A random batch of posterior means and deviations at random noise levels, with one caption of each picture.

    Noisy latents, timesteps, velocities, and rows of the caption table.
    """
    means, stds = latents
    device = means.device
    rows = torch.randint(len(means), (batch,), generator=generator, device=device)
    version = torch.randint(len(captions), (batch,), generator=generator, device=device)
    t = torch.randint(1000, (batch,), generator=generator, device=device)
    mean, std = means[rows].float(), stds[rows].float()
    clean = mean + std * torch.randn(mean.shape, generator=generator, device=device)
    eps = torch.randn(mean.shape, generator=generator, device=device)
    alpha_t = alphas_cumprod[t].sqrt()[:, None, None, None]
    sigma_t = (1 - alphas_cumprod[t]).sqrt()[:, None, None, None]
    return alpha_t * clean + sigma_t * eps, t, alpha_t * eps - sigma_t * clean, captions[version, rows]


def velocity_loss(
    denoiser: Denoiser, latents_t: Tensor, t: Tensor, velocity: Tensor, tokens: Tensor
) -> Tensor:
    text = denoiser.text_encoder(tokens)[0]
    return (denoiser.unet(latents_t, t, text).sample.float() - velocity).square().mean()
