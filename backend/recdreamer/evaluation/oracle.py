"""The oracle: a small supervised network that recognizes pose, kind, colour and hat of figurines.

It only measures results: no part of the method may import it, which tests/test_boundaries.py checks.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from recdreamer.evaluation.figurines import COLORS, KINDS, POSES

ORACLE_FILE = Path(__file__).parents[1] / "builtin" / "oracle" / "model.safetensors"


class Oracle(nn.Module):
    """Logits of pose, kind, colour and hat (no, yes) of a 64×64 picture in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 48, 72, 96)
        layers: list[nn.Module] = []
        previous = 3
        for width in widths:
            layers += [nn.Conv2d(previous, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            previous = width
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(previous * 16, 128), nn.SiLU())
        self.sizes = (len(POSES), len(KINDS), len(COLORS), 2)
        self.head = nn.Linear(128, sum(self.sizes))

    def forward(
        self, images: Float[Tensor, "batch 3 64 64"]
    ) -> tuple[
        Float[Tensor, "batch poses"], Float[Tensor, "batch kinds"], Float[Tensor, "batch colors"],
        Float[Tensor, "batch 2"],
    ]:  # fmt: skip
        pose, kind, color, hat = self.head(self.trunk(2 * images - 1)).split(self.sizes, dim=-1)
        return pose, kind, color, hat

    @torch.no_grad()
    def pose_probs(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch poses"]:
        """Probability of each of POSES; pictures of another size are resampled."""
        return self(_resampled(images))[0].softmax(-1)

    @torch.no_grad()
    def hat_probs(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch"]:
        """Probability that the figure wears a hat; pictures of another size are resampled."""
        return self(_resampled(images))[3].softmax(-1)[:, 1]


def _resampled(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 64 64"]:
    return nn.functional.interpolate(images, (64, 64), mode="bilinear", antialias=True, align_corners=False)


def load_oracle(device: torch.device | str = "cpu") -> Oracle:
    """The oracle that ships with the embedded prior."""
    oracle = Oracle()
    oracle.load_state_dict(load_file(ORACLE_FILE))
    return oracle.to(device).eval().requires_grad_(False)
