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
from recdreamer.pose.gallery import Sample, remove_gallery, write_gallery
from recdreamer.pose.templates import PoseTemplate, with_mirrored_sides
from recdreamer.prior.diffusion import AT_ONCE, DiffusionPrior
from recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, Template, write_atomically

LABELS = ("front", "back", "right")
"""The poses that are drawn; the left side is the mirror image of the right one."""
SIDES = "sides.json"
"""How many of the drawn sides look to the left, where that was found by matching."""


@dataclass(frozen=True)
class DrawConfig:
    """How the prior draws templates."""

    front: str = "from front view"
    """Words for each pose, those of the released code."""
    back: str = "from back view"
    side: str = "from side view"
    left: str = "facing left"
    """Put behind the words for the side in half of its pictures, and `right` in the other half, which is mirrored. Stable
    Diffusion obeys them in part at best, so the pictures are turned alike by matching, and the majority decides which
    way is left: seen from its right side, a figure faces left."""
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
    templates = []
    for label in LABELS:
        names = [f"{label}-{rank}.png" for rank in range(per_class)]
        if not all((folder / name).exists() for name in names):
            samples = _samples(folder, prior, extractor, prompt, label, seed, config)
            for name, sample in zip(names, samples[_most_typical(extractor, samples, label)], strict=False):
                write_picture(folder / name, sample)
        templates += [Template(label, name, "prior", CLASS_AZIMUTHS_DEG[label]) for name in names]
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
    drawn, typical = [], []
    for index, label in enumerate(LABELS):
        tick(index, len(LABELS))
        samples = _samples(folder, prior, extractor, prompt, label, seed, config)
        drawn.append(samples)
        mirrored_label = "left" if label == "right" else label
        for sample in samples[_most_typical(extractor, samples, label)[:2]]:
            typical.append(PoseTemplate(label, sample, None, None))
            typical.append(PoseTemplate(mirrored_label, sample.flip(-1), None, None))
    tick(len(LABELS), len(LABELS))
    samples = torch.cat(drawn)
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
        counts = json.loads((folder / SIDES).read_text(encoding="utf-8"))
        lookers, in_all = int(counts["left"]), int(counts["in_all"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    # By chance alone, fewer are on one side in 95 of 100 cases.
    if lookers > in_all / 2 + 0.98 * in_all**0.5:
        return ""
    return (
        f"The model does not follow words for left and right: {lookers} of {in_all} pictures of the side look the same "
        "way, which may be the wrong one. Capture a turntable of any object like it as templates, or choose "
        "the pose mode 'marginal', which does not need to know."
    )


def _samples(
    folder: Path,
    prior: DiffusionPrior,
    extractor: FeatureExtractor,
    prompt: str,
    label: str,
    seed: int,
    config: DrawConfig,
) -> Float[Tensor, "samples 3 s s"]:
    """Pictures of a pose; those of the side all face left, as far as is known."""
    generator = torch.Generator(device=prior.device).manual_seed(seed * 31 + LABELS.index(label))
    phrases = [config.phrases()[label]] * config.num_samples
    is_voted = label == "right" and bool(config.right)
    if is_voted:
        phrases[1::2] = [_joined(config.side, config.right)] * len(phrases[1::2])
    texts = [_joined(prior.read(prompt, [phrase]).text, phrase) for phrase in phrases]
    samples = prior.sample(texts, generator, config.guidance_scale, config.num_steps)
    if not is_voted:
        return samples
    samples[1::2] = samples[1::2].flip(-1)
    is_left = facing_left(extractor, samples)
    counts = {"left": int(is_left.sum()), "in_all": len(samples)}
    write_atomically(folder / SIDES, json.dumps(counts).encode())
    return torch.where(is_left[:, None, None, None], samples, samples.flip(-1))


def facing_left(
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
