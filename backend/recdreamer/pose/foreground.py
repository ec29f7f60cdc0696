"""Separates the object's patches from the background: by alpha, or by the first principal component (paper, B.1.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recdreamer.pose.features import PATCHES
from recdreamer.pose.templates import PoseTemplate


@dataclass(frozen=True)
class ForegroundRule:
    """A half-space of feature space; the same rule masks templates and queries.

    (The released code thresholds templates and queries by different rules.)
    """

    direction: Float[Tensor, "width"]
    threshold: float

    @staticmethod
    def fit(
        patches: Float[Tensor, "templates places width"], hint: Float[Tensor, "templates places"]
    ) -> ForegroundRule:
        """The first component of all templates' patches, with its sign from `hint` (large on the object).

        The threshold is the midpoint between the two clusters along the component: the mean, as in the paper,
        would lie inside the background if the object is small.

        Two clusters at 0 and one patch at 4: the threshold is 2, the mean would be 4/3.

        >>> patches, hint = torch.tensor([[[0.0], [0.0], [4.0]]]), torch.tensor([[0.0, 0.0, 1.0]])
        >>> rule = ForegroundRule.fit(patches, hint)
        >>> round(rule.threshold, 4), rule.mask(patches).tolist()
        (2.0, [[0.0, 0.0, 1.0]])
        """
        flat = patches.flatten(0, 1)
        center = flat.mean(0)
        _, _, basis = torch.linalg.svd(flat - center, full_matrices=False)
        direction = basis[0]
        along = flat @ direction
        if torch.dot(along - along.mean(), (hint.flatten() - hint.mean()).to(along)) < 0:
            direction, along = -direction, -along
        threshold = along.mean()
        for _ in range(20):
            above = along > threshold
            if bool(above.all()) or not bool(above.any()):
                break  # Pictures without structure have a single cluster.
            threshold = 0.5 * (along[above].mean() + along[~above].mean())
        return ForegroundRule(direction, float(threshold))

    def mask(self, patches: Float[Tensor, "batch places width"]) -> Float[Tensor, "batch places"]:
        """1 on the object, 0 elsewhere; 1 everywhere if no patch passes the rule."""
        mask = (patches.detach() @ self.direction > self.threshold).float()
        return torch.where(mask.sum(-1, keepdim=True) > 0, mask, torch.ones_like(mask))


def template_masks(
    rule: ForegroundRule, patches: Float[Tensor, "templates places width"], templates: list[PoseTemplate]
) -> Float[Tensor, "templates places"]:
    """1 on the object: by a template's alpha where it has one, else by the rule."""
    masks = rule.mask(patches)
    for index, template in enumerate(templates):
        if template.mask is not None:
            alpha = F.adaptive_avg_pool2d(template.mask.to(patches), PATCHES).flatten()
            # Thin lines fill less than half of any patch.
            masks[index] = (alpha > min(0.5, alpha.amax().item() / 2)).to(masks)
    return masks


def foreground_hint(
    templates: list[PoseTemplate],
    attention: Float[Tensor, "templates places"] | None,
    device: torch.device | str,
) -> Float[Tensor, "templates places"]:
    """Large on the object, in [0, 1]: a template's alpha, else the prior's attention to it, else the middle."""
    hints = []
    for index, template in enumerate(templates):
        if template.mask is not None:
            hint = F.adaptive_avg_pool2d(template.mask.to(device), PATCHES).flatten()
        elif attention is not None:
            hint = attention[index].to(device)
            hint = (hint - hint.amin()) / (hint.amax() - hint.amin()).clamp_min(1e-12)
        else:
            hint = center_hint(device)
        hints.append(hint)
    return torch.stack(hints)


def center_hint(device: torch.device | str) -> Float[Tensor, "places"]:
    """Large in the middle of the picture: the fallback for an object without alpha or attention.

    >>> hint = center_hint("cpu").view(PATCHES, PATCHES)
    >>> hint[0, 0].item(), round(hint[7, 7].item(), 3)  # 1 - (1 + 1) / 2 and 1 - (1/15)²
    (0.0, 0.996)
    """
    axis = torch.linspace(-1, 1, PATCHES, device=device)
    return (1 - (axis[:, None] ** 2 + axis[None] ** 2) / 2).flatten()


def horizontal_map(mask: Float[Tensor, "batch places"]) -> Float[Tensor, "batch places"]:
    """-0.5 at the object's leftmost column to 0.5 at its rightmost, linear between and beyond (paper, B.1.2).

    >>> mask = torch.zeros(1, PATCHES * PATCHES)
    >>> mask[0, 4:9] = 1
    >>> horizontal_map(mask)[0, [2, 4, 6, 8]].tolist()
    [-1.0, -0.5, 0.0, 0.5]
    """
    columns = torch.arange(PATCHES, device=mask.device, dtype=mask.dtype)
    used = mask.unflatten(1, (PATCHES, PATCHES)).amax(1) > 0
    far = torch.full_like(columns, torch.inf)
    left = torch.where(used, columns, far).amin(-1, keepdim=True)
    right = torch.where(used, columns, -far).amax(-1, keepdim=True)
    coordinate = (columns - left) / (right - left).clamp_min(1) - 0.5
    return coordinate.repeat(1, PATCHES)
