"""Fréchet distances between sets of pictures: FID, and uFID against a set with equally many pictures of each pose."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.linalg import eigh
from torch import Tensor

from recdreamer.pose.features import FeatureExtractor
from recdreamer.report import JobError

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The converted TensorFlow network of torch-fidelity and pytorch-fid."""
BATCH = 32


@runtime_checkable
class PictureFeatures(Protocol):
    """A feature vector of each picture in [0, 1]."""

    @property
    def name(self) -> str:
        """How the distance is named: distances by different features cannot be compared."""
        ...

    def __call__(
        self, pictures: Float[Tensor, "count 3 height width"]
    ) -> Float[Tensor, "count features"]: ...


class EmbeddedFeatures:
    """Class tokens of a DINOv2, by default the embedded one."""

    def __init__(self, extractor: FeatureExtractor, name: str = "embedded extractor") -> None:
        self.extractor = extractor
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @torch.no_grad()
    def __call__(self, pictures: Float[Tensor, "count 3 height width"]) -> Float[Tensor, "count features"]:
        return torch.cat([self.extractor(some).cls for some in pictures.split(BATCH)]).cpu()


class InceptionFeatures:
    """The 2,048 pooled activations of Inception v3, as in the FID of Heusel et al. (2017), by torch-fidelity."""

    name = "Inception"

    def __init__(self, weights: Path, device: torch.device) -> None:
        """Raises JobError if torch-fidelity is not installed."""
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
                FeatureExtractorInceptionV3,
            )
        except ImportError as error:
            raise JobError(
                "install",
                "torch-fidelity, which has the Inception network, is not installed.",
                "Install it, or use the embedded extractor.",
            ) from error
        self.device = device
        self.network = FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=str(weights)
        )
        self.network.to(device).eval()

    @torch.no_grad()
    def __call__(self, pictures: Float[Tensor, "count 3 height width"]) -> Float[Tensor, "count features"]:
        pixels = (pictures.clamp(0, 1) * 255).round().byte()
        return torch.cat([self.network(some.to(self.device))[0].cpu() for some in pixels.split(BATCH)])


def inception_weights() -> Path | None:
    """The file of the Inception network if it and torch-fidelity are on this machine; nothing is downloaded."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    return path if path.is_file() and importlib.util.find_spec("torch_fidelity") else None


def picture_features(device: torch.device, extractor: FeatureExtractor | None = None) -> PictureFeatures:
    """Inception where it is on the machine, the embedded extractor otherwise."""
    weights = inception_weights()
    if weights is not None:
        return InceptionFeatures(weights, device)
    return EmbeddedFeatures(extractor or FeatureExtractor("builtin").to(device))


def frechet_distance(
    one: Float[Tensor, "count_one features"], other: Float[Tensor, "count_other features"]
) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½) of two sets of features; lower is better (Heusel et al. 2017).

    The trace of the root is the sum of the roots of the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is symmetric, so that no
    complex root appears where a set has fewer pictures than features. The value then depends on the size of the sets:
    compare only sets of equal sizes. Raises ValueError for a set with fewer than two pictures.

    Between {-1, 1} and {-3, 3}, with variances 2 and 18, it is (√18 - √2)² = 8:

    >>> round(frechet_distance(torch.tensor([[-1.0], [1.0]]), torch.tensor([[-3.0], [3.0]])), 9)
    8.0
    """
    sets = [features.double().cpu().numpy() for features in (one, other)]
    if min(map(len, sets)) < 2:
        raise ValueError("A Fréchet distance needs at least two pictures on each side.")
    (mean_a, mean_b), (cov_a, cov_b) = (
        [features.mean(0) for features in sets],
        [np.atleast_2d(np.cov(features, rowvar=False)) for features in sets],
    )
    values, vectors = eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(eigh(root @ cov_b @ root, eigvals_only=True).clip(0)).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared
    return max(0.0, float(distance))  # Rounding can put equal sets below 0.


def balanced(poses: Int[Tensor, "count"], seed: int = 0) -> Int[Tensor, "picked"]:
    """Indices of a resample in which each pose that occurs comes equally often (paper, C.1.1).

    All pictures of the most frequent pose are there once; those of the others are repeated in random order, because
    leaving out frequent ones would lose pictures.

    >>> balanced(torch.tensor([0, 0, 0, 1])).tolist()[3:]
    [3, 3, 3]
    """
    random, classes = torch.Generator().manual_seed(seed), poses.unique().tolist()
    most = int(poses.bincount().max())
    picked = []
    for pose in classes:
        members = (poses == pose).nonzero()[:, 0].cpu()
        order = members[torch.randperm(len(members), generator=random)]
        picked.append(order.repeat(-(-most // len(order)))[:most])
    return torch.cat(picked)


def pose_balanced_distance(
    found: Float[Tensor, "count features"],
    reference: Float[Tensor, "reference features"],
    reference_poses: Int[Tensor, "reference"],
    seeds: Sequence[int] = (0,),
) -> float:
    """uFID: the distance from the reference with equally many pictures of each pose; the mean over resamples."""
    distances = [frechet_distance(found, reference[balanced(reference_poses, seed)]) for seed in seeds]
    return float(np.mean(distances))
