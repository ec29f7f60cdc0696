"""Whether an artist's templates read what the prior draws; where they do not, the prior's own pictures take their place.

A block-out lacks what the prior will add, and a sketch lacks nearly all of it. Such a template may be as far from each
picture of the prior as from any other, or nearer to the wrong pose: a bear without a belly is like every bear's back.
No comparison of the templates with each other shows that. The prior's own pictures of the poses show it: their pose is
known from the words they were asked for, and each of them can be read by the templates.

What holds for any feature extractor: the pictures that the classifier reads while optimizing are the prior's, so the
prior's own pictures are the nearest templates there can be; and a template's camera says which of them it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import angle_difference
from recdreamer.pose.classifier import PoseClassifier, class_members
from recdreamer.pose.control import wanted_classes
from recdreamer.pose.templates import PoseTemplate, class_azimuths
from recdreamer.protocol import CLASS_AZIMUTHS_DEG

TRUSTED = 0.6
"""Least mean probability of the right class, in each pose."""
NEAR_DEG = 60.0
"""A pose that lies further than this from every class has none."""
TURNS_DEG = (0.0, 180.0, 90.0, 270.0)
"""By how much templates may be turned against the prior's words: an artist's front is whatever was labelled so."""


@dataclass(frozen=True)
class Drawn:
    """The prior's own pictures of the poses, as templates."""

    templates: list[PoseTemplate]
    pictures: list[str]
    """Names the picture that each template is made of; some are mirrored."""


@dataclass(frozen=True)
class Reading:
    """How templates read the prior's own pictures of the poses."""

    turn_deg: float
    """Azimuth among the templates at which the prior's front is found; one of TURNS_DEG."""
    shares: dict[str, float]
    """Mean probability of the right class, by the pose that the prior was asked for."""
    read_as: dict[str, str]
    """The likeliest class, likewise."""

    @property
    def is_trusted(self) -> bool:
        return min(self.shares.values()) >= TRUSTED


def read_drawn(
    classifier: PoseClassifier,
    given: Sequence[PoseTemplate],
    drawn: Drawn,
) -> Reading | None:
    """How the `given` templates read the `drawn` ones; `classifier` has both, the given ones first.

    Templates with known cameras are one object on one turntable: they may be turned as a whole, but not front for
    back alone. So of four turns that is taken in which the pose that is read worst is read best. None where the
    prior cannot tell its own pictures apart: then it is no witness.
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
        turn_deg = 0.0  # Templates that cannot read are no witnesses of a turn.
    read_as = {pose: labels[int(probs[of_pose].mean(0).argmax())] for pose, of_pose in rows.items()}
    return Reading(turn_deg, found[turn_deg], read_as)


def anchored(given: Sequence[PoseTemplate], drawn: Drawn, reading: Reading) -> list[PoseTemplate]:
    """The templates to go by: both kinds where the given ones can read, with the same weight in each class; else the
    prior's own, each for the classes that lie where it looks from. A class without any keeps its own."""
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
    """What is wrong with templates that read so, and what to do about it; None where nothing is."""
    if not reading.is_trusted:
        worst = min(reading.shares, key=lambda pose: reading.shares[pose])
        seen = reading.read_as[worst]
        how = f"take its {worst} for {seen}" if seen != worst else f"hardly know its {worst}"
        return (
            f"Your templates cannot read this prompt's pictures (they {how}).",
            "The prior's own pictures will say what each side looks like, and your cameras where it is. "
            "To have yours count, add what tells the sides apart, such as a face, or colors.",
        )
    if reading.turn_deg:
        front = "back" if reading.turn_deg == 180 else "side"
        return (
            f"Your front shows what the prior draws from the {front}.",
            "The result will be turned as your templates are; relabel them if that is not what you want.",
        )
    return None


def _shares(
    probs: Float[Tensor, "drawn classes"],
    rows: dict[str, list[int]],
    turn_deg: float,
    class_azimuth_deg: Float[Tensor, "classes"],
) -> dict[str, float]:
    """Mean probability of the classes that lie where a pose is seen from, for each pose that has any."""
    shares = {}
    for pose, of_pose in rows.items():
        (wanted,) = _classes_of([CLASS_AZIMUTHS_DEG[pose] + turn_deg], class_azimuth_deg)
        if wanted.any():
            shares[pose] = float((probs[of_pose] * (wanted / wanted.max())).sum(-1).mean())
    return shares


def _classes_of(
    azimuth_deg: list[float], class_azimuth_deg: Float[Tensor, "classes"]
) -> Float[Tensor, "views classes"]:
    """How much a view shows of each class; nothing of any that is far away."""
    views = torch.tensor(azimuth_deg).to(class_azimuth_deg)
    is_near = angle_difference(views[:, None], class_azimuth_deg[None]).abs() <= NEAR_DEG
    return wanted_classes(views, class_azimuth_deg) * is_near


def _are_told_apart(classifier: PoseClassifier, scores: Float[Tensor, "drawn drawn"], drawn: Drawn) -> bool:
    """Whether each pose is read right by the other drawn pictures; none reads itself, or its mirror image.

    A prior that does not obey the words for a view draws one pose for all of them.
    """
    poses = tuple(dict.fromkeys(template.label for template in drawn.templates))
    is_other = torch.tensor([[a != b for b in drawn.pictures] for a in drawn.pictures]).to(scores)
    weights = is_other[:, None] * class_members(drawn.templates, poses).to(scores)
    means = torch.einsum("bct,bt->bc", weights / weights.sum(-1, keepdim=True).clamp_min(1e-9), scores)
    probs = classifier.logits(means).softmax(-1)
    right = torch.tensor([poses.index(template.label) for template in drawn.templates], device=probs.device)
    shares = probs.gather(1, right[:, None])[:, 0]
    return min(float(shares[right == index].mean()) for index in range(len(poses))) >= TRUSTED
