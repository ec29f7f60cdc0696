"""The Janus score R (paper, C.7 and Table 5): faces, tails, packs and ears, counted and compared with the true figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from recdreamer.evaluation.figurines import POSES

GLOBAL, LOCAL = 1.0, 0.5
"""Penalties for one feature too many or missing."""
REAR_FEATURES = {"bear": "packs", "bird": "tails", "robot": "packs", "rabbit": "tails"}
"""What the back of each kind shows."""
HEAD_FEATURES = {"bear": "ears", "bird": "crests", "robot": "antennas", "rabbit": "ears"}
"""What stands on the head of each kind."""


@dataclass(frozen=True)
class FeatureCount:
    name: str
    found: int
    expected: int
    penalty: float
    """Of each one too many or missing: GLOBAL or LOCAL."""


@dataclass(frozen=True)
class JanusScore:
    score: float
    """R, lower is better; 0 for an object with every feature once. A missing feature counts as much as an extra one:
    printed, R is the signed difference, in which an object without a face does better than a perfect one."""
    signed: float
    """R as printed."""
    counts: tuple[FeatureCount, ...]

    @property
    def is_free(self) -> bool:
        """Free of Janus: not one feature too many, none missing."""
        return self.score == 0

    def as_dict(self) -> dict[str, object]:
        return {
            "janus_score": self.score,
            "janus_score_signed": self.signed,
            "success": float(self.is_free),
            "counts": [asdict(count) for count in self.counts],
        }


def score_of(counts: Sequence[FeatureCount]) -> JanusScore:
    """R = Σ penalty · |found - expected| (paper, C.7).

    >>> score_of([FeatureCount("faces", 2, 1, GLOBAL), FeatureCount("ears", 3, 2, LOCAL)]).score
    1.5
    >>> faceless = score_of([FeatureCount("faces", 0, 1, GLOBAL)])
    >>> faceless.score, faceless.signed
    (1.0, -1.0)
    """
    apart = [(count.found - count.expected, count.penalty) for count in counts]
    return JanusScore(
        sum(penalty * abs(difference) for difference, penalty in apart),
        sum(penalty * difference for difference, penalty in apart),
        tuple(counts),
    )


def count_around(is_seen: Bool[Tensor, "views"], width: float) -> int:
    """How often a feature occurs around the circle, given in which of the evenly spaced views it is seen.

    A feature is seen in `width` neighbouring views, so a run is one feature up to 1.5 widths, two up to 2.5 and so on;
    a single view between two of another kind is one, too.

    >>> [count_around(Tensor([*range(24)]) < length, 6.0) for length in (0, 6, 11, 24)]
    [0, 1, 2, 4]
    """
    views = len(is_seen)
    if bool(is_seen.all()):
        return max(1, round(views / width))
    begins = (is_seen & ~is_seen.roll(1)).nonzero()[:, 0].tolist()
    ends = (is_seen & ~is_seen.roll(-1)).nonzero()[:, 0].tolist()
    lengths = [min((end - begin) % views for end in ends) + 1 for begin in begins]
    return sum(max(1, math.ceil(length / width - 0.5)) for length in lengths)


def count_features(
    probs: Float[Tensor, "views poses"],
    kind: str | None = None,
    on_head: tuple[int, int] | None = None,
) -> JanusScore:
    """R from an oracle's pose probabilities of evenly spaced views, in order of azimuth.

    Faces and backs are counted over the azimuth. `kind` is that of the figure, whose back has a tail or a pack, and
    `on_head` says how many ears, crests or antennas the result and the true figure have (`count_on_head`). Other objects
    have a face and a back.
    """
    guess, width = probs.argmax(-1), len(probs) / len(POSES)
    around = {pose: count_around(guess == POSES.index(pose), width) for pose in ("front", "back")}
    counts = [
        FeatureCount("faces", around["front"], 1, GLOBAL),
        FeatureCount(REAR_FEATURES.get(kind or "", "backs"), around["back"], 1, LOCAL),
    ]
    if kind is not None and on_head is not None:
        counts.append(FeatureCount(HEAD_FEATURES[kind], *on_head, LOCAL))
    return score_of(counts)
