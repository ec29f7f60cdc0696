"""Models, figures and templates that all measurements of the classifier share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cache import cache_folder
from recdreamer.cameras import Cameras, orbit_cameras
from recdreamer.evaluation.figurines import (
    COLORS,
    KINDS,
    POSES,
    Figurines,
    render_figurines,
    sample_grounds,
)
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
from recdreamer.pose.draw import draw_templates
from recdreamer.pose.features import PATCHES, FeatureExtractor
from recdreamer.pose.rectifier import Classifier
from recdreamer.pose.templates import PoseTemplate, load_templates
from recdreamer.presets import EMBEDDED_CAMERAS, EMBEDDED_DRAWING
from recdreamer.prior.attention import attention_to_prompt
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.shared.protocol import JobFolder


@dataclass(frozen=True)
class Subject:
    """One figure of the embedded world with its templates."""

    kind: int
    color: int
    templates: list[PoseTemplate]
    attention: Tensor
    text: Float[Tensor, "1 tokens width"]

    @property
    def prompt(self) -> str:
        return f"a {list(COLORS)[self.color]} {KINDS[self.kind]}"


class ClassifierBench:
    """Models, random generator and subjects of all measurements."""

    def __init__(self, folder: Path, device: torch.device, extractor: str, seed: int) -> None:
        self.folder, self.device, self.seed = folder, device, seed
        self.prior = DiffusionPrior.load("builtin", device, torch.float32)
        self.extractor = FeatureExtractor(extractor).to(device)
        self.oracle = load_oracle(device)
        self.generator = torch.Generator(device=device).manual_seed(seed + 909)

    def subject(self, kind: int, color: int) -> Subject:
        prompt = f"a {list(COLORS)[color]} {KINDS[kind]}"
        folder = self.folder / "templates" / prompt.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        drawn = draw_templates(folder, self.prior, self.extractor, prompt, self.seed, EMBEDDED_DRAWING)
        templates = load_templates(JobFolder(folder), drawn, self.prior.image_px)
        images = torch.stack([template.image for template in templates]).to(self.device)
        attention = attention_to_prompt(self.prior, images, prompt, PATCHES, self.generator)
        return Subject(kind, color, templates, attention, self.prior.encode_text([prompt]))

    def classifier(self, subject: Subject, **settings: Any) -> PoseClassifier:
        return PoseClassifier(
            self.extractor, subject.templates, ClassifierConfig(**settings), self.seed, subject.attention,
            cache_folder("features"),
        )  # fmt: skip

    def probs(
        self, classifier: Classifier, images: Float[Tensor, "batch 3 s s"], chunk: int = 25
    ) -> Float[Tensor, "batch poses"]:
        """Probabilities in the order of POSES."""
        with torch.no_grad():
            found = torch.cat([classifier(part).exp() for part in images.split(chunk)])
        return found[:, [classifier.labels.index(pose) for pose in POSES]]

    def views(
        self, subject: Subject, azimuth_deg: Float[Tensor, "batch"]
    ) -> tuple[Figurines, Cameras, Float[Tensor, "batch 3"]]:
        """Slightly varied figures, cameras at random elevations that the prior has seen, and plain backgrounds."""
        count = len(azimuth_deg)
        same = torch.full((count,), 0, device=self.device)
        figures = Figurines.of(same + subject.kind, same + subject.color).varied(self.generator)
        low, high = EMBEDDED_CAMERAS.elevation_deg
        elevation = low + (high - low) * torch.rand(count, generator=self.generator, device=self.device)
        cameras = orbit_cameras(
            azimuth_deg, elevation, EMBEDDED_CAMERAS.distance[0], EMBEDDED_CAMERAS.fov_y_deg[0]
        )
        return figures, cameras, sample_grounds(count, self.generator, self.device)

    def photos(self, subject: Subject, azimuth_deg: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3 s s"]:
        figures, cameras, ground = self.views(subject, azimuth_deg)
        return render_figurines(figures, cameras, self.prior.image_px, ground)

    def estimates(
        self, subject: Subject, latents: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch 3 s s"]:
        """The prior's one-step estimates of noised latents, decoded, differentiable throughout."""
        x0_hat = self.clean_latents(subject, latents, t, keep_jacobian=True)
        return self.prior.decode(x0_hat)

    def clean_latents(
        self, subject: Subject, latents: Tensor, t: Tensor, keep_jacobian: bool
    ) -> Float[Tensor, "batch c h w"]:
        schedule = self.prior.schedule
        eps = torch.randn(latents.shape, generator=self.generator, device=self.device)
        latents_t = schedule.add_noise(latents, eps, t)
        with torch.set_grad_enabled(keep_jacobian and torch.is_grad_enabled()):
            seen = self.prior.eps(latents_t, t, subject.text.expand(len(t), -1, -1))
        return schedule.x0_hat(latents_t, seen, t)
