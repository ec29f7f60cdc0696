"""Features of pictures by DINOv2: a class token and a 16×16 map of patch tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils.hub import cached_file

from recdreamer.report import JobError

BUILTIN_FOLDER = Path(__file__).parents[1] / "builtin" / "extractor"
PATCHES = 16
"""Side of the patch map (paper, B.1.4)."""


@dataclass(frozen=True)
class Features:
    cls: Float[Tensor, "batch width"]
    """Unit vectors."""
    patches: Float[Tensor, "batch places width"]
    """Unit vectors of the 16 × 16 places, row by row."""


class FeatureExtractor(nn.Module):
    """DINOv2, with or without registers, with the normalisation that it was trained with.

    The released code feeds queries in [-1, 1] and templates normalised; here both go the same way.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str = "builtin") -> None:
        super().__init__()
        source = str(BUILTIN_FOLDER) if name == "builtin" else name
        try:
            # Resolved to a folder first: given an id, the model's loader would ask the network for adapters.
            path = Path(str(cached_file(source, "preprocessor_config.json", local_files_only=True)))
            self.model = AutoModel.from_pretrained(path.parent, local_files_only=True, use_safetensors=True)
            prepare = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise JobError(
                "extractor", f"{name!r} is not a DINOv2 folder that can be loaded ({str(error).splitlines()[0][:200]}).",
                "Choose 'builtin' or a folder with the model and its preprocessor_config.json.",
            ) from error  # fmt: skip
        self.model.requires_grad_(False).eval()
        size = prepare.get("crop_size") or prepare["size"]
        self.size_px: int = size.get("height") or size["shortest_edge"]
        self.register_buffer("mean", torch.tensor(prepare["image_mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(prepare["image_std"])[:, None, None])
        self.num_prefix = 1 + getattr(self.model.config, "num_register_tokens", 0)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Features of pictures in [0, 1], with gradient to the pictures."""
        if images.shape[-2:] != (self.size_px, self.size_px):
            images = nn.functional.interpolate(
                images, (self.size_px, self.size_px), mode="bilinear", antialias=True, align_corners=False
            )
        tokens = self.model((images - self.mean) / self.std).last_hidden_state
        patches = tokens[:, self.num_prefix :].transpose(1, 2)
        side = int(patches.shape[-1] ** 0.5)
        patches = patches.unflatten(2, (side, side))
        if side != PATCHES:
            patches = nn.functional.interpolate(
                patches, (PATCHES, PATCHES), mode="bilinear", align_corners=False
            )
        normalize = nn.functional.normalize
        return Features(
            normalize(tokens[:, 0], dim=-1), normalize(patches.flatten(2).transpose(1, 2), dim=-1)
        )
