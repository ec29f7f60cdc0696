"""Sizes, batches and times of each stage of the animals' training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from parts import PartsConfig

from denoiser import TextSize


@dataclass(frozen=True)
class AnimalPreset:
    """Pictures, batches and sizes of each stage."""

    num_photos: int
    """Of the biased camera; each judge sees half as many of its own."""
    vae: PartsConfig
    denoiser: PartsConfig
    oracle: PartsConfig
    extractor: PartsConfig
    encoder: PartsConfig
    """The autoencoder's encoder anew, so that noise does not move it."""
    vae_batch: int
    denoiser_batch: int
    judge_batch: int
    vae_widths: tuple[int, ...] = (16, 32, 64, 64)
    denoiser_widths: tuple[int, ...] = (64, 128, 128)
    extractor_size: tuple[int, int] = (96, 6)
    """Width, layers."""
    size_px: int = 128
    latent_channels: int = 16
    """With 8 at 128 px, stripes, spots and faces are blurred."""
    scaling_factor: float = 1.0
    """Of the latents, which the pipeline multiplies them by."""
    extractor_px: int = 128
    text: TextSize = field(default_factory=TextSize)
    has_clip_words: bool = False
    """The tokenizer is CLIP's with its 49,408 tokens, not one of the animals' words alone."""
    foreign_share: float = 0.5
    """Of the autoencoder's pictures: what an object looks like that is still forming (`augment.foreign`). Half as many of
    the oracle's are recolored."""
    contrast: float = 1.0
    """Weight of telling each picture from all others, in the extractor's loss."""
    samples_per_look: int = 6


PRESETS = {
    "animals": AnimalPreset(
        80_000,
        vae=PartsConfig(6, 1.5e-3, cooldown=0.5, ema_decay=0.999),
        denoiser=PartsConfig(15, 7e-4),
        oracle=PartsConfig(3.5, 1e-3, cooldown=0.5, ema_decay=0.999),
        extractor=PartsConfig(12, 1e-3, weight_decay=0.01, ema_decay=0.999),
        encoder=PartsConfig(3, 1e-3, cooldown=0.5, ema_decay=0.999),
        vae_batch=96, denoiser_batch=512, judge_batch=256,
    ),
    "animals-smoke": AnimalPreset(
        40, *(PartsConfig(9, 1e-3, max_steps=2, ema_decay=0.5) for _ in range(5)),
        vae_batch=2, denoiser_batch=4, judge_batch=8,
        vae_widths=(8, 8, 8, 8), denoiser_widths=(16, 16, 16), extractor_size=(32, 1), samples_per_look=2,
    ),
}  # fmt: skip
PRESETS["rehearsal"] = AnimalPreset(
    24_000,
    vae=PartsConfig(6, 1e-3, cooldown=0.5, ema_decay=0.999),
    denoiser=PartsConfig(15, 4e-4),
    oracle=PRESETS["animals"].oracle,
    extractor=PRESETS["animals"].extractor,
    encoder=PRESETS["animals"].encoder,
    vae_batch=16, denoiser_batch=128, judge_batch=192,
    vae_widths=(32, 64, 96, 128), denoiser_widths=(96, 192, 288, 384), extractor_size=(128, 6),
    size_px=512, latent_channels=4, scaling_factor=0.18215, extractor_px=224, text=TextSize(256, 4),
    has_clip_words=True,
)  # fmt: skip
"""Stable Diffusion's sizes of pictures, latents and text, in networks that an hour of one H200 trains."""
PRESETS["rehearsal-smoke"] = replace(
    PRESETS["animals-smoke"], latent_channels=4, scaling_factor=0.18215, extractor_px=32,
    denoiser_widths=(16, 16, 16, 16), text=TextSize(32, 1), has_clip_words=True,
)  # fmt: skip
