"""Templates drawn from the prior itself by directional prompts (paper, C.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.images import write_picture
from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
from recdreamer.pose.features import FeatureExtractor
from recdreamer.pose.gallery import Sample, remove_gallery, write_gallery
from recdreamer.pose.templates import PoseTemplate, with_mirrored_sides
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, Template

VIEW_PHRASES = {"front": "from front view", "back": "from back view", "right": "facing left"}
"""Seen from its right side, a figure faces left in the picture; the other side is the mirror image."""
NUM_SAMPLES = 8
"""Per phrase."""


def draw_templates(
    folder: Path,
    prior: DiffusionPrior,
    extractor: FeatureExtractor,
    prompt: str,
    seed: int,
    per_class: int = 2,
) -> tuple[Template, ...]:
    """Draw pictures of each pose and keep those that most resemble the others of their pose.

    Images are relative to `folder`. Existing pictures are not drawn again. Fronts and backs are usually turned a
    little to one side; each is paired with its mirror image, so that neither side is preferred.
    """
    folder.mkdir(exist_ok=True)
    templates = []
    for label in VIEW_PHRASES:
        names = [f"{label}-{rank}.png" for rank in range(per_class)]
        if not all((folder / name).exists() for name in names):
            samples = _sample(prior, prompt, label, seed)
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
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> list[Sample]:
    """Write all samples of each phrase into `folder` for an artist to pick from, sorted by the pose that they show.

    A classifier built from the most typical samples determines the pose. Files are named after their class, the most
    certain first, and listed in gallery.json.
    """
    folder.mkdir(exist_ok=True)
    remove_gallery(folder)
    drawn, typical = [], []
    for index, label in enumerate(VIEW_PHRASES):
        tick(index, len(VIEW_PHRASES))
        samples = _sample(prior, prompt, label, seed)
        drawn.append(samples)
        mirrored_label = "left" if label == "right" else label
        for sample in samples[_most_typical(extractor, samples, label)[:2]]:
            typical.append(PoseTemplate(label, sample, None, None))
            typical.append(PoseTemplate(mirrored_label, sample.flip(-1), None, None))
    tick(len(VIEW_PHRASES), len(VIEW_PHRASES))
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


def _sample(prior: DiffusionPrior, prompt: str, label: str, seed: int) -> Float[Tensor, "samples 3 s s"]:
    index = list(VIEW_PHRASES).index(label)
    generator = torch.Generator(device=prior.device).manual_seed(seed * 31 + index)
    phrase = VIEW_PHRASES[label]
    return prior.sample([f"{prior.read(prompt, [phrase]).text}, {phrase}"] * NUM_SAMPLES, generator)


def _most_typical(extractor: FeatureExtractor, samples: Float[Tensor, "samples 3 s s"], label: str) -> Tensor:
    """Indices of the samples, the most similar to all others first; fronts and backs also count mirrored samples.

    An outlier is often a sample that ignored the prompt. The score includes orientation, because a side seen from the
    wrong side has the same texture. A turned front resembles others that are turned the same way, but none that are
    mirrored: two such templates would ask for a half face on either side and none in the middle.
    """
    others = samples if label == "right" else torch.cat([samples, samples.flip(-1)])
    alone = [PoseTemplate(str(i), sample, None, None) for i, sample in enumerate(others)]
    likeness = PoseClassifier(extractor, alone, ClassifierConfig(template_copies=0)).scores(samples)
    return likeness.sum(1).argsort(descending=True)
