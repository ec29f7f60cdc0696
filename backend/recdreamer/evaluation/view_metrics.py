"""Metrics of the field on pictures around an object, without its truth: which of them see a second face?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.pose.attribute_classifier import AttributeClassifier
from recdreamer.pose.features import FeatureExtractor, Features

DIRECTIONS = ("from front view", "from side view", "from back view")
"""Words of the paper's three CLIP classes (C.1.2)."""


class ClipJudge:
    """CLIP as a classifier by direction words, and as a measure of how well pictures fit a prompt."""

    def __init__(
        self, prompt: str, name: str = "builtin", directions: tuple[str, ...] = DIRECTIONS,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        """`name` is "builtin", a folder, or a CLIP that is installed. Raises JobError and RequestError."""
        texts = {words: f"{prompt}, {words}" for words in directions} | {"": prompt}
        self.clip = AttributeClassifier(name, texts).to(device)
        self.name = f"{'embedded CLIP' if name == 'builtin' else name}"

    @torch.no_grad()
    def pose_probs(
        self, pictures: Float[Tensor, "views 3 height width"]
    ) -> Float[Tensor, "views directions"]:
        """Probabilities of the prompt with each direction."""
        cosines = self.features(pictures) @ self.clip.texts[:-1].T
        return (self.clip.model.logit_scale.exp() * cosines).softmax(-1)

    @torch.no_grad()
    def features(self, pictures: Float[Tensor, "views 3 height width"]) -> Float[Tensor, "views features"]:
        """Unit vectors."""
        return self.clip.image_features(pictures)

    def fit(self, pictures: Float[Tensor, "views 3 height width"]) -> Float[Tensor, "views"]:
        """Cosine between each picture and the prompt without directions."""
        return self.features(pictures) @ self.clip.texts[-1]


def clip_score(fit: Float[Tensor, "views"]) -> float:
    """Mean of 1 - cos between pictures and prompt, lower is better (paper, C.1.3 and Table 1; ESD)."""
    return 1 - fit.mean().item()


def best_view(fit: Float[Tensor, "views"]) -> float:
    """The best view's fit to the prompt, averaged with its two neighbours, higher is better.

    T3Bench (2023) takes the best of regionally smoothed views; by CLIP here, as ImageReward is no part of this
    package.

    >>> round(best_view(torch.tensor([0.2, 0.3, 0.4, 0.2])), 3)
    0.3
    """
    return ((fit.roll(1) + fit + fit.roll(-1)) / 3).max().item()


def opposite_cosine(features: Float[Tensor, "views features"], azimuth_deg: Float[Tensor, "views"]) -> float:
    """Cosine between front and back, lower is better (MV-SDI's Janus score, with its CLIP: above 0.85 is Janus).

    The front is where the object says that it is, at azimuth 0; `features` are unit vectors.
    """
    front, back = (((azimuth_deg - at + 180) % 360 - 180).abs().argmin() for at in (0.0, 180.0))
    return (features[front] @ features[back]).item()


def neighbor_cosine(features: Float[Tensor, "views features"]) -> float:
    """Mean cosine between neighbouring views, higher is better.

    Stands for pairwise view consistency (MEt3R 2025 and View-CS), which warps one view into the other first.
    """
    return (features * features.roll(1, 0)).sum(-1).mean().item()


def patch_distance(found: Features, true: Features) -> Float[Tensor, "views"]:
    """A distance of the LPIPS type between pictures, lower is better.

    LPIPS (Zhang et al. 2018) is a weighted sum of squared differences of unit features over the places of a picture.
    Here the features are the extractor's patch tokens with equal weights, halved to 1 - cos.
    """
    return (1 - (found.patches * true.patches).sum(-1)).mean(-1)


def best_turn(distances: Float[Tensor, "views views"]) -> int:
    """By how many views a ring is ahead of the true one at the best fit, given distance[found, true].

    >>> ring = torch.tensor([0.0, 1.0, 2.0, 3.0])
    >>> best_turn((ring.roll(1)[:, None] - ring[None]).abs())
    1
    """
    views = len(distances)
    rows = torch.arange(views, device=distances.device)
    costs = torch.stack([distances[(rows + turn) % views, rows].mean() for turn in range(views)])
    turn = int(costs.argmin())
    return turn if turn <= views // 2 else turn - views


@torch.no_grad()
def distance_up_to_yaw(
    extractor: FeatureExtractor,
    found: Float[Tensor, "views 3 height width"],
    true: Float[Tensor, "views 3 height width"],
) -> dict[str, float]:
    """PSNR in dB and the patch distance of a ring of pictures from the true one, at the yaw that fits best.

    The yaw is one of the ring's steps, found by the patch distance: the turn that puts the front at azimuth 0.
    """
    ours, theirs = extractor(found), extractor(true)
    pairs = torch.einsum("fpw,tpw->ft", ours.patches, theirs.patches) / ours.patches.shape[1]
    turn = best_turn(1 - pairs)
    views = (torch.arange(len(found), device=found.device) + turn) % len(found)
    squared = (found[views] - true).square().mean().clamp_min(1e-10)
    patches = Features(ours.cls[views], ours.patches[views])
    return {
        "psnr_db": -10 * squared.log10().item(),
        "patch_distance": patch_distance(patches, theirs).mean().item(),
        "yaw_deg": -turn * 360 / len(found),
    }
