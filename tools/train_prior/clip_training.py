"""A tiny CLIP of the embedded world: pictures and captions in one space, as an image classifier by text."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from augment import degrade
from captions import MAX_TOKENS
from common import FitConfig, fit
from extractor import Estimator

IMAGE_MEAN, IMAGE_STD = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)
WIDTH = 64


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = CLIPTextConfig(
        vocab_size=tokenizer.vocab_size, max_position_embeddings=MAX_TOKENS, hidden_size=WIDTH,
        intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=4, num_attention_heads=4,
        image_size=64, patch_size=8,
    )  # fmt: skip
    # Shares start at a tenth of CLIP's largest sharpness.
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH,
                   logit_scale_init_value=math.log(10))
    )  # fmt: skip


class Contrast(nn.Module):
    """The model and its loss: which caption of the batch belongs to which picture (Radford et al. 2021).

    Captions repeat within a batch, so every picture with the same words is as right as the other.
    """

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.clip = new_clip(tokenizer)

    def forward(self, images: Tensor, tokens: Tensor, captions: Tensor) -> Tensor:
        mean, std = images.new_tensor(IMAGE_MEAN)[:, None, None], images.new_tensor(IMAGE_STD)[:, None, None]
        found = self.clip(input_ids=tokens, pixel_values=(images - mean) / std)
        same = (captions[:, None] == captions).float()
        wanted = same / same.sum(1, keepdim=True)
        sides = (found.logits_per_image, found.logits_per_text)
        return sum(F.cross_entropy(logits, wanted) for logits in sides) / 2


def train_clip(
    photos: Tensor, captions: Tensor, table: Tensor, tokenizer: CLIPTokenizer, estimate: Estimator,
    num_steps: int, batch: int, rate: float, folder: Path, seed: int,
    max_timestep: int = 800, time_limit_s: float | None = None,
) -> CLIPModel:  # fmt: skip
    """Train on uint8 pictures and (versions, pictures) captions, rows of the token `table`.

    Half of the pictures are replaced by the prior's one-step estimates of them: that is what a rectifier asks about.
    """
    device = photos.device
    torch.manual_seed(seed)
    model = Contrast(tokenizer).to(device)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(photos), (batch,), generator=generator, device=device)
        version = torch.randint(len(captions), (batch,), generator=generator, device=device)
        words = captions[version, rows]
        images, half = photos[rows].float() / 255, batch // 2
        t = torch.randint(20, max_timestep, (half,), generator=generator, device=device)
        images = torch.cat((images[:half], estimate(images[half:], words[half:], t, generator)))
        return model(degrade(images, generator), table[words], words)

    config = FitConfig(num_steps, rate, warmup_steps=300, weight_decay=0.01, time_limit_s=time_limit_s)
    return fit("clip", model, loss_of, config, folder, seed).clip


@torch.no_grad()
def hat_accuracy(clip: CLIPModel, photos: Tensor, hat: Tensor, texts: Tensor) -> float:
    """Share of held-out uint8 pictures whose hat is recognized by the two captions (without, with) in `texts`."""
    mean = torch.tensor(IMAGE_MEAN, device=photos.device)[:, None, None]
    std = torch.tensor(IMAGE_STD, device=photos.device)[:, None, None]
    logits = [clip(input_ids=texts, pixel_values=(chunk.float() / 255 - mean) / std).logits_per_image
              for chunk in photos.split(256)]  # fmt: skip
    return (torch.cat(logits).argmax(-1) == hat).float().mean().item()
