"""A prior of the size of Stable Diffusion 2.1 with random weights, for timing without the real weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from recdreamer.prior.diffusion import DiffusionPrior, freeze
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.prior.words import ReadPrompt

UNET: dict[str, Any] = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
"""From the config.json of Stable Diffusion 2.1-base."""
VAE: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512), "scaling_factor": 0.18215,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT_SHAPE = (77, 1024)
DINOV2_SMALL: dict[str, Any] = {
    "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14, "image_size": 518,
    "num_register_tokens": 4,
}  # fmt: skip


class RandomPrior(DiffusionPrior):
    """Understands no text: every prompt gets an embedding of noise."""

    def encode_text(self, prompts: list[str]) -> Float[Tensor, "prompts tokens width"]:
        return torch.randn(len(prompts), *TEXT_SHAPE, device=self.device)

    def read(self, prompt: str, endings: Sequence[str] = ()) -> ReadPrompt:
        return ReadPrompt(prompt)

    def has_meaning(self, prompt: str) -> Bool[Tensor, "tokens"]:
        return torch.arange(TEXT_SHAPE[0], device=self.device) > 0


def random_sd21(device: torch.device, dtype: torch.dtype) -> RandomPrior:
    """A prior with 865 million random weights."""
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    # As files are loaded: in single precision first, it would not fit into a small card.
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
    finally:
        torch.set_default_dtype(usual)
    for part in (unet, vae):
        freeze(part, device)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule = NoiseSchedule(scheduler.alphas_cumprod.to(device), "epsilon")
    return RandomPrior(unet, vae, None, torch.nn.Identity(), schedule, image_px=512)


def random_dinov2(folder: Path) -> Path:
    """Write a DINOv2 ViT-S/14 with registers and random weights to `folder`, in its usual format."""
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**DINOV2_SMALL))
    folder.mkdir(exist_ok=True)
    # By hand, because `save_pretrained` writes nothing in processes of ranks above 0.
    model.config.architectures = [type(model).__name__]
    model.config.to_json_file(folder / "config.json", use_diff=False)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "model.safetensors",
    )
    prepare = {
        "crop_size": {"height": 224, "width": 224},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(prepare))
    return folder
