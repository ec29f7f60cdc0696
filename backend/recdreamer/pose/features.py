"""Features of pictures by DINOv2: a class token and a 16×16 map of patch tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModel

from recdreamer.catalog.locate import located
from recdreamer.prior.loading import Preprocessing, loading

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
    """DINOv2, with or without registers, with the input normalisation of its training.

    The released code feeds queries in [-1, 1] but normalised templates; here both are normalised.
    """

    def __init__(self, name: str = "builtin", input_px: int = 0) -> None:
        """`name` is "builtin", a folder of DINOv2, or one that is installed or cached, such as "dinov2-small".

        `input_px` is the side of its input, to whole patches; 0: that of its training. More give more patches, which are
        averaged to the same map.

        Raises JobError if it is not here or cannot be loaded.
        """
        super().__init__()
        folder = located(name, "extractor", BUILTIN_FOLDER).path
        hint = "Download the model again, or choose another."
        with loading("extractor", name, "a DINOv2 folder", hint):
            self.prepare = Preprocessing(folder, "bilinear")
            self.model = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        self.model.requires_grad_(False).eval()
        if input_px:
            patch = self.model.config.patch_size
            self.prepare.size_px = patch * max(1, round(input_px / patch))
        self.fingerprint = _fingerprint(self.model, self.prepare)
        """Identifies weights and preprocessing, independent of the folder."""
        self.num_prefix = 1 + getattr(self.model.config, "num_register_tokens", 0)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Features of pictures in [0, 1], with gradient to the pictures.

        Never in half precision, even if the model is: soft nearest neighbours depend on small differences of distance.
        """
        tokens = self.model(self.prepare(images).to(self.model.dtype)).last_hidden_state
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
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


def _fingerprint(model: nn.Module, prepare: Preprocessing) -> str:
    digest = hashlib.sha256(str(prepare.size_px).encode())
    for part in (model, prepare):
        for name, tensor in part.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
