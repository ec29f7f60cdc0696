"""Templates drawn from the prior itself by directional prompts (paper, C.3)."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
from recdreamer.pose.features import FeatureExtractor
from recdreamer.pose.templates import PoseTemplate, with_mirrored_sides
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.protocol import CLASS_AZIMUTHS_DEG, Template, write_atomically

VIEW_PHRASES = {"front": "from front view", "back": "from back view", "right": "facing left"}
"""Who stands to the right of a figure sees it face left; the other side is the mirror image."""


def draw_templates(
    folder: Path,
    prior: DiffusionPrior,
    extractor: FeatureExtractor,
    prompt: str,
    seed: int,
    per_class: int = 2,
    num_samples: int = 8,
) -> tuple[Template, ...]:
    """Draw pictures of each pose and keep those that resemble the others of their pose most.

    Images are relative to `folder`. Samples that are already there are not drawn again.
    """
    templates = []
    for index, (label, phrase) in enumerate(VIEW_PHRASES.items()):
        names = [f"{label}-{rank}.png" for rank in range(per_class)]
        if not all((folder / name).exists() for name in names):
            generator = torch.Generator(device=prior.device).manual_seed(seed * 31 + index)
            samples = prior.sample([f"{prompt}, {phrase}"] * num_samples, generator)
            # The odd one out is often a sample that did not obey; told with orientation, as a side seen from the
            # wrong side has the same texture.
            alone = [PoseTemplate(str(i), sample, None, None) for i, sample in enumerate(samples)]
            likeness = PoseClassifier(extractor, alone, ClassifierConfig(template_copies=0)).scores(samples)
            central = likeness.sum(1).argsort(descending=True)[:per_class]
            for name, sample in zip(names, samples[central], strict=True):
                _write(folder / name, sample)
        azimuth_deg = CLASS_AZIMUTHS_DEG[label]
        templates += [Template(label, name, "prior", azimuth_deg) for name in names]
    return with_mirrored_sides(tuple(templates))


def _write(path: Path, image: torch.Tensor) -> None:
    pixels = (image.permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(pixels).save(temporary, format="PNG")
    write_atomically(path, temporary.read_bytes())
    temporary.unlink()
