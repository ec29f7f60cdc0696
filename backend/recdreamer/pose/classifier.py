"""The training-free pose classifier: matches a picture with templates in texture and in orientation (paper, B.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recdreamer.pose.features import FeatureExtractor, Features
from recdreamer.pose.foreground import ForegroundRule, foreground_hint, horizontal_map, template_masks
from recdreamer.pose.perturbation import averaged_logits, box_blur
from recdreamer.pose.template_features import template_features
from recdreamer.pose.templates import PoseTemplate

Normalization = Literal["centered", "paper", "released"]


@dataclass(frozen=True)
class ClassifierConfig:
    normalization: Normalization = "released"
    """How scores become logits. `released`: q / Σq / 0.01, the most robust over prompts, templates and seeds
    (docs/evaluation.md). `paper`: q / 0.05 (Eq. 17). `centered`: minus the templates' own mean score, in units of
    the margin between right and wrong class, so that a shapeless picture is not undecided between all classes."""
    temperature: float | None = None
    """Of the softmax over classes; None takes 0.1 (`centered`), 0.05 (`paper`) or 0.01 (`released`)."""
    patch_temperature: float = 0.02
    """Of the soft nearest-patch match. (Paper and released code: 0.01.)"""
    branches: Literal["full", "texture", "orientation"] = "full"
    """Both scores, or one alone (Table 6)."""
    template_copies: int = 16
    """Augmented copies over which the features of a template are averaged."""
    query_copies: int = 2
    """Perturbed copies over which the scores of a query are averaged; without them the gradient finds adversarial
    patterns that change the features but nothing visible."""
    query_noise: float = 0.06
    """Standard deviation of the noise on those copies."""


_TEMPERATURES = {"centered": 0.1, "paper": 0.05, "released": 0.01}


class PoseClassifier(nn.Module):
    """p(c|x) for pictures x in [0, 1], differentiable, each picture independently."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        templates: list[PoseTemplate],
        config: ClassifierConfig,
        seed: int = 0,
        attention: Float[Tensor, "templates places"] | None = None,
        cache: Path | None = None,
    ) -> None:
        """`attention` of the prior to the prompt's words tells which side of the first component is the object, for
        templates without alpha. `cache` is a folder for the templates' features.
        """
        super().__init__()
        self.extractor, self.config = extractor, config
        self.labels = tuple(dict.fromkeys(template.label for template in templates))
        device = extractor.prepare.mean.device
        images = torch.stack([template.image for template in templates]).to(device)
        with torch.no_grad():
            features = template_features(extractor, images, config.template_copies, seed, cache)
            self.rule = ForegroundRule.fit(features.patches, foreground_hint(templates, attention, device))
            mask = template_masks(self.rule, features.patches, templates)
            self.template_cls = features.cls
            # Only the object's patches are matched; the rest is padding that the softmax masks out.
            most = int(mask.sum(1).max())
            order = mask.argsort(dim=1, descending=True, stable=True)[:, :most]
            self.template_patches = features.patches.gather(
                1, order[..., None].expand(-1, -1, features.patches.shape[-1])
            )
            self.template_mask = mask.gather(1, order)
            self.template_places = horizontal_map(mask).gather(1, order)
            self.members = class_members(templates, self.labels).to(features.cls)
            self._calibrate(images)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Log-probabilities of the pose classes. With a generator, averaged over perturbed copies."""
        logits_of = lambda pictures: self.logits(self.scores(pictures))  # noqa: E731
        settings = self.config
        return averaged_logits(
            logits_of, images, generator, settings.query_copies, settings.query_noise
        ).log_softmax(-1)

    def scores(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Template scores, averaged over the templates of each class."""
        return self.template_scores(images) @ self.members.T

    def template_scores(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch templates"]:
        """Texture score times orientation score, a soft AND (Eqs. 15 to 17)."""
        features = self.extractor(images)
        texture = features.cls @ self.template_cls.T
        # As in the released code, the cosine is mapped to [0, 1], so that two bad scores do not multiply to a good one.
        texture = (texture + 1) / 2
        if self.config.branches == "texture":
            return texture
        orientation = self._orientation(features)
        if self.config.branches == "orientation":
            return orientation
        return texture * orientation

    def displacement(
        self, features: Features, mask: Float[Tensor, "batch places"]
    ) -> Float[Tensor, "batch templates places"]:
        """Expected horizontal distance, in widths of the object, between each patch and its match in a template.

        Matches are soft nearest neighbours (Eq. 16 as in the released code; as printed, a good match would get a
        small weight).
        """
        places = horizontal_map(mask)
        # For unit vectors |a - b|² = 2 - 2 a·b. The floor keeps the root's gradient finite at a perfect match.
        product = torch.einsum("buf,ivf->biuv", features.patches, self.template_patches)
        distance = (2 - 2 * product).clamp_min(1e-6).sqrt()
        logits = -distance / self.config.patch_temperature
        logits = logits.masked_fill(self.template_mask[None, :, None] == 0, -torch.inf)
        apart = (places[:, None, :, None] - self.template_places[None, :, None]).abs()
        return (logits.softmax(-1) * apart).sum(-1)

    def _orientation(self, features: Features) -> Float[Tensor, "batch templates"]:
        """1 - displacement, averaged over the patches of the object."""
        mask = self.rule.mask(features.patches)
        displacement = self.displacement(features, mask)
        return 1 - (displacement * mask[:, None]).sum(-1) / mask.sum(-1)[:, None]

    def logits(self, scores: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """Logits of the softmax over classes."""
        return score_logits(scores, self.config, self.score_mean, self.score_margin)

    def _calibrate(self, images: Float[Tensor, "templates 3 s s"]) -> None:
        """Set the mean score of each class over plain and blurred templates, and the margin of the right class."""
        blurred = images
        for _ in range(3):
            blurred = box_blur(blurred)
        scores = self.scores(torch.cat((images, blurred)))
        self.score_mean = scores.mean(0)
        centered = scores - self.score_mean
        right = (self.members > 0).T.repeat(2, 1)
        self.score_margin = (centered[right].mean() - centered[~right].mean()).clamp_min(1e-3)


def class_members(
    templates: list[PoseTemplate], labels: tuple[str, ...]
) -> Float[Tensor, "classes templates"]:
    """Matrix that averages over the templates of each class with their weights.

    >>> templates = [PoseTemplate("front", torch.zeros(3, 1, 1), None, None, weight) for weight in (3.0, 1.0)]
    >>> class_members(templates, ("front",)).tolist()
    [[0.75, 0.25]]
    """
    members = torch.tensor([[t.weight if t.label == label else 0.0 for t in templates] for label in labels])
    return members / members.sum(1, keepdim=True)


def score_logits(
    scores: Float[Tensor, "batch classes"],
    config: ClassifierConfig,
    mean: Float[Tensor, "known"],
    margin: Float[Tensor, ""],
) -> Float[Tensor, "batch classes"]:
    """Logits of the softmax over classes; `mean` and `margin` are the templates' own, for `centered`.

    >>> scores, mean, margin = torch.tensor([[0.6, 0.4]]), torch.tensor([0.4, 0.4]), torch.tensor(0.2)
    >>> for normalization in ("released", "paper", "centered"):
    ...     config = ClassifierConfig(normalization=normalization)
    ...     print([round(logit, 3) for logit in score_logits(scores, config, mean, margin)[0].tolist()])
    [60.0, 40.0]
    [12.0, 8.0]
    [10.0, 0.0]
    """
    temperature = config.temperature or _TEMPERATURES[config.normalization]
    if config.normalization == "centered":
        return (scores - mean) / (margin * temperature)
    if config.normalization == "released":
        return scores / scores.sum(-1, keepdim=True) / temperature
    return scores / temperature
