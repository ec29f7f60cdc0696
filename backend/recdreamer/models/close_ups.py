"""θ of the close-ups that end the third stage: the colours of a painting, seen through a narrow field of view."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from recdreamer.cameras import Cameras, close_ups, sample_cameras
from recdreamer.config import GenerateConfig
from recdreamer.device import step_generator
from recdreamer.models.model import Descent, distillation_loss, field_optimizer
from recdreamer.models.painting import PaintedViews, Painting, paint, unevenness
from recdreamer.named_tensors import load_optimizer, optimizer_tensors, part
from recdreamer.parallel.view_shares import share_of
from recdreamer.rendering import random_backgrounds


@dataclass(frozen=True)
class CloseViews:
    """Close-ups now, and before the first step."""

    now: PaintedViews
    before: Float[Tensor, "views 3 height width"]

    @property
    def rgb(self) -> Float[Tensor, "views 3 height width"]:
        return self.now.rgb


class CloseUps:
    """A painting's field, of which each step shows a few random places enlarged `detail_zoom` times.

    All close-ups share one field on one mesh, so that they agree with each other. Only the field's grid learns: its
    network is shared by all places, and would change colours out of view.
    """

    def __init__(self, config: GenerateConfig, painting: Painting) -> None:
        """Sharpens the painting's own field, in place."""
        self.config, self.painting, self.device = config, painting, painting.device
        self.before = deepcopy(painting.field).requires_grad_(False)
        settings = config.texture
        for name, parameter in painting.field.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "grid" in name)
        learned = ((name, p) for name, p in painting.field.named_parameters() if p.requires_grad)
        optimizer = field_optimizer(learned, settings.grid_learning_rate, settings.network_learning_rate)
        self.descent = Descent(optimizer, settings.detail_steps, settings.final_learning_rate, self.device)

    def cameras(self, step: int) -> Cameras:
        """Cameras drawn like those of other views, each turned towards a random visible place."""
        settings = self.config.texture
        # Another seed than the step's, whose numbers are its noise.
        generator = step_generator(self.config.seed + 1, step, torch.device("cpu"))
        wide = sample_cameras(self.config.cameras, settings.num_views, generator, self.device)
        return close_ups(wide, self.painting.seen_points(wide, generator), settings.detail_zoom)

    def render(self, cameras: Cameras, step: int, generator: torch.Generator) -> CloseViews:
        """Close-ups before random backgrounds."""
        behind = self.config.optimize
        sights = self.painting.look(cameras, self.config.texture.render_px)
        backgrounds = random_backgrounds(
            len(cameras), generator, self.device, behind.background_brightness, behind.background_tint
        )
        with torch.no_grad():
            before = paint(self.before, sights, backgrounds).rgb
        return CloseViews(paint(self.painting.field, sights, backgrounds), before)

    def descend(
        self,
        rendering: CloseViews,
        latents: Float[Tensor, "views c h w"],
        grad: Float[Tensor, "views c h w"],
        step: int,
        generator: torch.Generator,
    ) -> None:
        """One optimizer step along `grad`, smoothing near points and holding coarse colours."""
        settings = self.config.texture
        loss, share = distillation_loss(latents, grad), share_of(generator)
        if len(rendering.now.xyz) or share.is_split:
            radius = settings.smoothing_radius / settings.detail_zoom
            uneven = unevenness(self.painting.field, rendering.now.xyz, radius, generator)
            size = max(1, round(settings.render_px / settings.detail_zoom))
            changed = interpolate(rendering.rgb - rendering.before, (size, size), mode="area")
            loss = loss + settings.smoothness * uneven + settings.detail_hold * changed.square().mean()
        self.descent.step(loss, step, share)

    def at(self, step: int) -> CloseUps:
        return self

    def shown(self) -> list[Painting]:
        return [self.painting]

    @property
    def first_bad_step(self) -> float:
        return self.descent.first_bad_step.item()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold; the earlier colours come from the texture's checkpoint."""
        named = {f"painting.{k}": v for k, v in self.painting.field.state_dict().items()}
        return named | optimizer_tensors("detail_optimizer", self.descent.optimizer)

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.painting.field.load_state_dict(part("painting", tensors))
        load_optimizer("detail_optimizer", self.descent.optimizer, tensors)
