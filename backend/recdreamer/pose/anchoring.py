"""Checks that an artist's templates classify the prior's pictures; if not, the prior's own pictures replace them.

A block-out lacks the details that the prior will add, and a sketch lacks nearly all of them. Such a template may be
equally far from all pictures of the prior, or nearer to the wrong pose: a bear without a belly looks like every bear's
back. Comparing the templates with each other cannot show this, but the prior's own pictures of the poses can: their
pose is known from the prompt, and the templates can classify them.

For any feature extractor, the classifier's inputs during optimization come from the prior, so the prior's own pictures
are the nearest possible templates; a template's camera tells which of them it corresponds to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import angle_difference
from recdreamer.pose.classifier import PoseClassifier, class_members
from recdreamer.pose.control import wanted_classes
from recdreamer.pose.templates import PoseTemplate, class_azimuths
from recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG

TRUSTED = 0.6
"""Least mean probability of the right class, in each pose."""
NEAR_DEG = 60.0
"""A pose further than this from every class belongs to none."""
TURNS_DEG = (0.0, 180.0, 90.0, 270.0)
"""Possible turns of the templates relative to the prior's words: an artist may label any side as the front."""


@dataclass(frozen=True)
class Drawn:
    """The prior's own pictures of the poses, as templates."""

    templates: list[PoseTemplate]
    pictures: list[str]
    """Name of each template's source picture; some templates are mirrored."""


@dataclass(frozen=True)
class Reading:
    """How the templates classify the prior's own pictures of the poses."""

    turn_deg: float
    """Azimuth of the prior's front among the templates; one of TURNS_DEG."""
    shares: dict[str, float]
    """Mean probability of the right class, by the pose in the prior's prompt."""
    read_as: dict[str, str]
    """The likeliest class, by the same pose."""

    @property
    def mean_share(self) -> float:
        """Mean probability of the right class over the poses."""
        return sum(self.shares.values()) / len(self.shares)

    @property
    def is_trusted(self) -> bool:
        return min(self.shares.values()) >= TRUSTED


def read_drawn(
    classifier: PoseClassifier,
    given: Sequence[PoseTemplate],
    drawn: Drawn,
) -> Reading | None:
    """How the `given` templates classify the `drawn` ones; `classifier` has both, the given ones first.

    Templates with known cameras show one object on one turntable: they may be turned as a whole, but single views
    cannot be swapped. The chosen turn maximizes the worst pose's probability. None if the prior's own pictures
    cannot be told apart, because they then prove nothing.
    """
    images = torch.stack([template.image for template in drawn.templates])
    scores = classifier.template_scores(images.to(classifier.template_mask.device))
    if not _are_told_apart(classifier, scores[:, len(given) :], drawn):
        return None
    labels = tuple(dict.fromkeys(template.label for template in given))
    azimuths = class_azimuths(given, labels, scores.device)
    members = class_members(list(given), labels).to(scores)
    probs = classifier.logits(scores[:, : len(given)] @ members.T).softmax(-1)
    rows = {
        pose: [i for i, template in enumerate(drawn.templates) if template.label == pose]
        for pose in dict.fromkeys(template.label for template in drawn.templates)
    }
    found = {turn: _shares(probs, rows, turn, azimuths) for turn in TURNS_DEG}
    turn_deg = max(TURNS_DEG, key=lambda turn: min(found[turn].values()))
    if min(found[turn_deg].values()) < TRUSTED:
        turn_deg = 0.0  # Templates that fail in every turn say nothing about it.
    read_as = {pose: labels[int(probs[of_pose].mean(0).argmax())] for pose, of_pose in rows.items()}
    return Reading(turn_deg, found[turn_deg], read_as)


def with_known_sides(
    drawn: Drawn, reading: Reading, read: Callable[[Drawn], Reading | None]
) -> tuple[Drawn, Reading]:
    """The pictures with their sides as the given templates read them, for a prior that obeys no words for them.

    `reading` is that of the pictures as they are.
    """
    swapped = with_sides_swapped(drawn)
    other = read(swapped)
    return (swapped, other) if other and other.mean_share > reading.mean_share else (drawn, reading)


def with_sides_swapped(drawn: Drawn) -> Drawn:
    """The same pictures, of which each shows the other side than was believed."""
    other = {"right": "left", "left": "right"}
    templates = [
        replace(template, label=other[template.label], azimuth_deg=CLASS_AZIMUTHS_DEG[other[template.label]])
        if template.label in other
        else template
        for template in drawn.templates
    ]
    return Drawn(templates, drawn.pictures)


def anchored(given: Sequence[PoseTemplate], drawn: Drawn, reading: Reading) -> list[PoseTemplate]:
    """The templates to use: both kinds with equal weight in each class if the given ones are trusted, else the prior's
    own for the classes at their azimuths. A class without a picture of the prior keeps its own templates."""
    labels = tuple(dict.fromkeys(template.label for template in given))
    azimuths = class_azimuths(given, labels)
    drawn_deg = [CLASS_AZIMUTHS_DEG[t.label] + reading.turn_deg for t in drawn.templates]
    wanted = _classes_of(drawn_deg, azimuths)
    templates: list[PoseTemplate] = []
    for index, label in enumerate(labels):
        own = [template for template in given if template.label == label]
        stand_ins = [
            replace(template, label=label, azimuth_deg=float(azimuths[index]), weight=float(weight))
            for template, weight in zip(drawn.templates, wanted[:, index], strict=True)
            if weight > 0
        ]
        if stand_ins and not reading.is_trusted:
            own = []
        for group in (own, stand_ins):
            total = sum(template.weight for template in group)
            templates += [replace(template, weight=template.weight / total) for template in group]
    return templates


def doubts(reading: Reading) -> tuple[str, str] | None:
    """The problem with the templates and its remedy; None if they are fine."""
    if not reading.is_trusted:
        worst = min(reading.shares, key=lambda pose: reading.shares[pose])
        seen = reading.read_as[worst]
        how = f"mistake its {worst} for {seen}" if seen != worst else f"barely recognize its {worst}"
        return (
            f"Your templates do not match the pictures that the model draws for this prompt (they {how}).",
            "The model's own pictures will define the sides, and your cameras their directions. "
            "To use your own pictures, add details that tell the sides apart, such as a face or colors.",
        )
    if reading.turn_deg:
        front = "back" if reading.turn_deg == 180 else "side"
        return (
            f"Your front shows what the model draws from the {front}.",
            "The result will be turned to match your templates. Relabel them if you do not want that.",
        )
    return None


def _shares(
    probs: Float[Tensor, "drawn classes"],
    rows: dict[str, list[int]],
    turn_deg: float,
    class_azimuth_deg: Float[Tensor, "classes"],
) -> dict[str, float]:
    """Mean probability of the classes near each pose's azimuth, for the poses that have such classes."""
    shares = {}
    for pose, of_pose in rows.items():
        (wanted,) = _classes_of([CLASS_AZIMUTHS_DEG[pose] + turn_deg], class_azimuth_deg)
        if wanted.any():
            shares[pose] = float((probs[of_pose] * (wanted / wanted.max())).sum(-1).mean())
    return shares


def _classes_of(
    azimuth_deg: list[float], class_azimuth_deg: Float[Tensor, "classes"]
) -> Float[Tensor, "views classes"]:
    """How much each view shows of each class; 0 for classes that are far away."""
    views = torch.tensor(azimuth_deg).to(class_azimuth_deg)
    is_near = angle_difference(views[:, None], class_azimuth_deg[None]).abs() <= NEAR_DEG
    return wanted_classes(views, class_azimuth_deg) * is_near


def _are_told_apart(classifier: PoseClassifier, scores: Float[Tensor, "drawn drawn"], drawn: Drawn) -> bool:
    """Whether the drawn pictures classify each other correctly, leaving out each picture itself and its mirror image.

    A prior that ignores the words for a view draws the same pose for all of them.
    """
    poses = tuple(dict.fromkeys(template.label for template in drawn.templates))
    is_other = torch.tensor([[a != b for b in drawn.pictures] for a in drawn.pictures]).to(scores)
    weights = is_other[:, None] * class_members(drawn.templates, poses).to(scores)
    means = torch.einsum("bct,bt->bc", weights / weights.sum(-1, keepdim=True).clamp_min(1e-9), scores)
    probs = classifier.logits(means).softmax(-1)
    right = torch.tensor([poses.index(template.label) for template in drawn.templates], device=probs.device)
    shares = probs.gather(1, right[:, None])[:, 0]
    return min(float(shares[right == index].mean()) for index in range(len(poses))) >= TRUSTED
