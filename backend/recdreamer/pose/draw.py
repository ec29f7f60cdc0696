"""Templates drawn from the prior itself by directional prompts (paper, C.3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recdreamer.images import write_picture
from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
from recdreamer.pose.features import FeatureExtractor
from recdreamer.pose.foreground import ForegroundRule, center_hint, horizontal_map
from recdreamer.pose.gallery import Sample, remove_gallery, write_gallery
from recdreamer.pose.templates import PoseTemplate, with_mirrored_sides
from recdreamer.prior.diffusion import AT_ONCE, DiffusionPrior
from recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, Template, write_atomically

LABELS = ("front", "back", "right")
"""The poses that are drawn; the left side is the mirror image of the right one."""
SIDES = "sides.json"
"""How sure it is that the drawn sides look to the left, where that had to be found."""
CLEAR_HEADS = 0.2
"""Correlation from which the heads decide. Of 22 drawn animals and figurines, the heads were right in 19, and in all 6
with this one, which was read off the same pictures (docs/animals.md)."""


@dataclass(frozen=True)
class DrawConfig:
    """How the prior draws templates."""

    front: str = "from front view"
    """Words for each pose, those of the released code."""
    back: str = "from back view"
    side: str = "from side view"
    left: str = "facing left"
    """Put behind the words for the side in half of its pictures, and `right` in the other half, which is mirrored. Stable
    Diffusion obeys them in part at best, so the pictures are turned alike by matching, and a clear majority decides which
    way is left, else the heads: seen from its right side, a figure faces left."""
    right: str = "facing right"
    """Empty: all pictures of the side are drawn with the same words, which are obeyed."""
    num_samples: int = 32
    """Of each pose. The released code draws 60 to 300 in all, from which a person picks."""
    guidance_scale: float = 7.5
    """(Released code: 7.5 on top of the estimate for the prompt, which is 8.5 here.)"""
    num_steps: int = 50
    """Of DDIM (released code)."""

    def phrases(self) -> dict[str, str]:
        """Words by pose, in the order of LABELS.

        >>> DrawConfig().phrases()["right"]
        'from side view, facing left'
        """
        return {"front": self.front, "back": self.back, "right": _joined(self.side, self.left)}


def draw_templates(
    folder: Path,
    prior: DiffusionPrior,
    extractor: FeatureExtractor,
    prompt: str,
    seed: int,
    config: DrawConfig,
    per_class: int = 2,
) -> tuple[Template, ...]:
    """Draw pictures of each pose and keep those that most resemble the others of their pose.

    Images are relative to `folder`. Existing pictures are not drawn again. Fronts and backs are usually turned a
    little to one side; each is paired with its mirror image, so that neither side is preferred.
    """
    folder.mkdir(exist_ok=True)
    names = {label: [f"{label}-{rank}.png" for rank in range(per_class)] for label in LABELS}
    if not all((folder / name).exists() for of_label in names.values() for name in of_label):
        for label, samples in _samples(folder, prior, extractor, prompt, seed, config).items():
            typical = samples[_most_typical(extractor, samples, label)]
            for name, sample in zip(names[label], typical, strict=False):
                write_picture(folder / name, sample)
    templates = [
        Template(label, name, "prior", CLASS_AZIMUTHS_DEG[label]) for label in LABELS for name in names[label]
    ]
    for_both_sides = [replace(template, mirrored=True) for template in templates if template.label != "right"]
    return with_mirrored_sides((*templates, *for_both_sides))


def draw_gallery(
    folder: Path,
    prior: DiffusionPrior,
    extractor: FeatureExtractor,
    prompt: str,
    seed: int,
    config: DrawConfig,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> list[Sample]:
    """Write all samples of each phrase into `folder` for an artist to pick from, sorted by the pose that they show.

    A classifier built from the most typical samples determines the pose. Files are named after their class, the most
    certain first, and listed in gallery.json.
    """
    folder.mkdir(exist_ok=True)
    remove_gallery(folder)
    typical = []
    drawn = _samples(folder, prior, extractor, prompt, seed, config, tick)
    for label, samples in drawn.items():
        mirrored_label = "left" if label == "right" else label
        for sample in samples[_most_typical(extractor, samples, label)[:2]]:
            typical.append(PoseTemplate(label, sample, None, None))
            typical.append(PoseTemplate(mirrored_label, sample.flip(-1), None, None))
    samples = torch.cat(list(drawn.values()))
    classifier = PoseClassifier(extractor, typical, ClassifierConfig(template_copies=4), seed)
    share, guess = classifier(samples).exp().max(1)
    listed = []
    for index, label in enumerate(classifier.labels):
        of_label = (guess == index).nonzero()[:, 0]
        for rank, sample in enumerate(of_label[share[of_label].argsort(descending=True)].tolist()):
            name = f"{label}-{rank}.png"
            write_picture(folder / name, samples[sample])
            listed.append(Sample(name, label, share[sample].item(), CLASS_AZIMUTHS_DEG[label]))
    write_gallery(folder, listed)
    return listed


def side_doubt(folder: Path) -> str:
    """What the artist should know of the sides that were drawn into `folder`, or nothing."""
    try:
        found = json.loads((folder / SIDES).read_text(encoding="utf-8"))
        lookers, in_all, heads = int(found["left"]), int(found["in_all"]), float(found["heads"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if _is_clear(lookers, in_all) or heads >= CLEAR_HEADS:
        return ""
    return (
        f"The model does not follow words for left and right: {lookers} of {in_all} pictures of the side look the way "
        "that was asked for, and no head can be told in them, so that may be the wrong one. Capture a turntable of any "
        "object like it as templates, or choose the pose mode 'marginal' (Free Front in Blender), which finds out."
    )


def _is_clear(lookers: int, in_all: int) -> bool:
    """Whether so many of all agree by more than chance: by chance alone, fewer do in 95 of 100 cases."""
    return lookers > in_all / 2 + 0.98 * in_all**0.5


def _samples(
    folder: Path,
    prior: DiffusionPrior,
    extractor: FeatureExtractor,
    prompt: str,
    seed: int,
    config: DrawConfig,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Float[Tensor, "samples 3 s s"]]:
    """Pictures of each pose; those of the side all face left, as far as can be told."""
    drawn = {}
    for index, label in enumerate(LABELS):
        tick(index, len(LABELS))
        generator = torch.Generator(device=prior.device).manual_seed(seed * 31 + index)
        phrases = [config.phrases()[label]] * config.num_samples
        if label == "right" and config.right:
            phrases[1::2] = [_joined(config.side, config.right)] * len(phrases[1::2])
        texts = [_joined(prior.read(prompt, [phrase]).text, phrase) for phrase in phrases]
        drawn[label] = prior.sample(texts, generator, config.guidance_scale, config.num_steps)
    tick(len(LABELS), len(LABELS))
    if config.right:
        drawn["right"][1::2] = drawn["right"][1::2].flip(-1)
        drawn["right"], found = _facing_left(extractor, **drawn)
        write_atomically(folder / SIDES, json.dumps(found).encode())
    return drawn


def _facing_left(
    extractor: FeatureExtractor,
    front: Float[Tensor, "fronts 3 s s"],
    back: Float[Tensor, "backs 3 s s"],
    right: Float[Tensor, "samples 3 s s"],
) -> tuple[Float[Tensor, "samples 3 s s"], dict[str, int | float]]:
    """The pictures of the right side, all turned to the left, and how sure that is.

    A clear majority of the words decides, else the heads.
    """
    is_left = looking_alike(extractor, right)
    alike = torch.where(is_left[:, None, None, None], right, right.flip(-1))
    heads, lookers = heads_on_the_left(extractor, alike, front, back), int(is_left.sum())
    if heads < 0 and not _is_clear(lookers, len(right)):
        alike, heads, lookers = alike.flip(-1), -heads, len(right) - lookers
    return alike, {"left": lookers, "in_all": len(right), "heads": heads}


def heads_on_the_left(
    extractor: FeatureExtractor,
    sides: Float[Tensor, "samples 3 s s"],
    fronts: Float[Tensor, "fronts 3 s s"],
    backs: Float[Tensor, "backs 3 s s"],
) -> float:
    """Whether pictures of a side have the head on the left: positive if so, in [-1, 1].

    The head is seen from the front, the tail from behind. So the likeness of each place to its best match in the fronts,
    less that in the backs, is correlated with the place from left to right.
    """
    pictures = (sides, fronts, backs)
    patches = [torch.cat([extractor(few).patches for few in each.split(AT_ONCE)]) for each in pictures]
    every = torch.cat(patches)
    rule = ForegroundRule.fit(every, center_hint(every.device).expand(len(every), -1))
    masks = [rule.mask(each) for each in patches]
    of_sides, is_object = patches[0], masks[0]
    nearest = []
    for others, mask in zip(patches[1:], masks[1:], strict=True):
        best = [
            torch.einsum("iuf,vf->iuv", of_sides, one[seen > 0]).amax(-1)
            for one, seen in zip(others, mask, strict=True)
        ]
        nearest.append(torch.stack(best).mean(0))
    return -float(_correlation(nearest[0] - nearest[1], horizontal_map(is_object), is_object).mean())


def _correlation(
    x: Float[Tensor, "rows places"], y: Float[Tensor, "rows places"], weight: Float[Tensor, "rows places"]
) -> Float[Tensor, "rows"]:
    """Weighted correlation in each row.

    >>> rows = torch.tensor([[0.0, 1.0, 2.0, 9.0]])
    >>> round(float(_correlation(rows, -2 * rows, torch.tensor([[1.0, 1.0, 1.0, 0.0]]))), 4)
    -1.0
    """
    mean = lambda values: (weight * values).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)  # noqa: E731
    x, y = x - mean(x), y - mean(y)
    return (mean(x * y) / (mean(x * x) * mean(y * y)).sqrt().clamp_min(1e-12))[:, 0]


def looking_alike(
    extractor: FeatureExtractor, samples: Float[Tensor, "samples 3 s s"]
) -> Bool[Tensor, "samples"]:
    """Which pictures of a side look the way that most of them do; the others look like these mirrored.

    Two pictures that look the same way resemble each other more than either resembles the other's mirror image. The first
    eigenvector of these differences parts all pictures into two directions (spectral clustering).
    """
    both = torch.cat([samples, samples.flip(-1)])
    alone = [PoseTemplate(str(index), sample, None, None) for index, sample in enumerate(both)]
    classifier = PoseClassifier(extractor, alone, ClassifierConfig(template_copies=0))
    scores = torch.cat([classifier.scores(few) for few in samples.split(AT_ONCE)])
    same, mirrored = scores.chunk(2, dim=1)
    difference = (same - mirrored) + (same - mirrored).T
    is_one = torch.linalg.eigh(difference.fill_diagonal_(0).double())[1][:, -1] > 0
    return is_one if 2 * int(is_one.sum()) >= len(samples) else ~is_one


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _most_typical(extractor: FeatureExtractor, samples: Float[Tensor, "samples 3 s s"], label: str) -> Tensor:
    """Indices of the samples, the most similar to all others first; fronts and backs also count mirrored samples.

    An outlier is often a sample that ignored the prompt. The score includes orientation, because a side seen from the
    wrong side has the same texture. A turned front resembles others that are turned the same way, but none that are
    mirrored: two such templates would ask for a half face on either side and none in the middle.
    """
    others = samples if label == "right" else torch.cat([samples, samples.flip(-1)])
    alone = [PoseTemplate(str(i), sample, None, None) for i, sample in enumerate(others)]
    classifier = PoseClassifier(extractor, alone, ClassifierConfig(template_copies=0))
    likeness = torch.cat([classifier.scores(few) for few in samples.split(AT_ONCE)])
    return likeness.sum(1).argsort(descending=True)
