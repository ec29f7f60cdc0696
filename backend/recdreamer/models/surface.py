"""θ of the second stage: a surface that starts from the first stage's field and is optimized by its normals."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.config import GenerateConfig
from recdreamer.field import OccupancyGrid
from recdreamer.models.model import Descent, distillation_loss
from recdreamer.named_tensors import load_optimizer, optimizer_tensors, part
from recdreamer.parallel.view_shares import share_of
from recdreamer.rendering import Rendering, random_backgrounds
from recdreamer.rendering.render_sdf import render_surface
from recdreamer.sdf.distance_grid import (
    DistanceGrid,
    albedo_variation,
    anchor_loss,
    eikonal_loss,
    hessian_loss,
)

WEIGHED_AT = 96
"""Vertices along the cube at which the weights of the settings hold."""


class Surface:
    """Signed distances, and the albedo if it is shown, with their optimizer."""

    def __init__(
        self,
        config: GenerateConfig,
        grid: DistanceGrid,
        device: torch.device,
        freedom: Float[Tensor, "x y z"] | None = None,
    ) -> None:
        """`freedom` in [0, 1] is the share of each step that a vertex takes; None: all of it."""
        self.config, self.device, self.grid = config, device, grid.to(device)
        self.occupancy = OccupancyGrid(config.occupancy).to(device)
        self.freedom = freedom
        settings = config.geometry
        self.held = (len(grid.distances) / WEIGHED_AT) ** 2
        """Factor on the weights of all means over vertices, in proportion to their number: a vertex of a finer grid is
        then held as firmly."""
        groups = [{"params": [self.grid.distances], "lr": settings.learning_rate * grid.cell}]
        if settings.picture == "shaded":
            # With a fixed albedo, a wrong colour would be explained by a wrong shape.
            self.grid.albedo.requires_grad_()
            groups.append({"params": [self.grid.albedo], "lr": settings.albedo_learning_rate})
        self._learned: list[torch.Tensor] = [tensor for group in groups for tensor in group["params"]]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
        self.descent = Descent(optimizer, settings.num_steps, settings.final_learning_rate, device)

    def render(self, cameras: Cameras, step: int, generator: torch.Generator) -> Rendering:
        """Training pictures, jittered, before random backgrounds."""
        self.occupancy.update(self.grid, step, generator)
        settings, size = self.config.optimize, self.config.geometry.render_px
        background = random_backgrounds(
            len(cameras), generator, self.device, settings.background_brightness, settings.background_tint
        )
        return self._picture(cameras, size, background, generator)

    def descend(
        self,
        rendering: Rendering,
        latents: Float[Tensor, "views c h w"],
        grad: Float[Tensor, "views c h w"],
        step: int,
        generator: torch.Generator,
    ) -> None:
        """One optimizer step along `grad`, keeping the surface smooth and near its start."""
        settings, grid, share = self.config.geometry, self.grid, share_of(generator)
        everywhere = grid.near_surface()
        near = everywhere[share.part_of(len(everywhere))]
        loss = distillation_loss(latents, grad)
        if len(near):
            holding = (
                settings.eikonal * eikonal_loss(grid, near)
                + self._hessian_weight(step) * hessian_loss(grid, near)
                + settings.anchor * anchor_loss(grid, near)
            )
            if grid.albedo.requires_grad:
                holding = holding + settings.albedo_variation * albedo_variation(grid, near)
            loss = loss + self.held * holding * len(near) / len(everywhere) / share.weight
        before = None if self.freedom is None else [tensor.detach().clone() for tensor in self._learned]
        self.descent.step(loss, step, share)
        if before is not None and self.freedom is not None:
            # Scale the step and not the gradient: Adam normalizes gradients.
            with torch.no_grad():
                for tensor, was in zip(self._learned, before, strict=True):
                    tensor.copy_(was + self.freedom * (tensor - was))
        if step + 1 == settings.num_steps:
            grid.mend()

    def _hessian_weight(self, step: int) -> float:
        """Low at the start, so that the shape can move; highest at the end, so that it settles."""
        settings = self.config.geometry
        progress = step / settings.num_steps
        return settings.hessian ** (1 - progress) * settings.final_hessian**progress

    @torch.no_grad()
    def picture(
        self, cameras: Cameras, size_px: int, brightness: float = 0.8
    ) -> Float[Tensor, "views 3 size_px size_px"]:
        """Clean pictures of the surface, as the prior sees them."""
        background = torch.full((len(cameras), 3), brightness, device=self.device)
        return self._picture(cameras, size_px, background, None).rgb.clamp(0, 1)

    def _picture(
        self, cameras: Cameras, size_px: int, background: Tensor, generator: torch.Generator | None
    ) -> Rendering:
        settings = self.config.geometry
        return render_surface(
            self.grid, self.occupancy, cameras, size_px, background,
            settings.picture, settings.softness, settings.step_size, generator,
        )  # fmt: skip

    def at(self, step: int) -> Surface:
        return self

    def cameras(self, step: int) -> None:
        """None: the views of a step are random."""

    def shown(self) -> list[Surface]:
        return [self]

    @property
    def first_bad_step(self) -> float:
        return self.descent.first_bad_step.item()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold; the start comes from the previous stage."""
        named = {"surface.distances": self.grid.distances.detach()}
        if self.grid.albedo.requires_grad:
            named["surface.albedo"] = self.grid.albedo.detach()
        named |= {f"surface_occupancy.{k}": v for k, v in self.occupancy.state_dict().items()}
        return named | optimizer_tensors("surface_optimizer", self.descent.optimizer)

    def load(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.grid.distances.copy_(tensors["surface.distances"])
            if "surface.albedo" in tensors:
                self.grid.albedo.copy_(tensors["surface.albedo"])
        self.occupancy.load_state_dict(part("surface_occupancy", tensors))
        load_optimizer("surface_optimizer", self.descent.optimizer, tensors)
