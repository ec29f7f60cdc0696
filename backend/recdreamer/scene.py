"""What is optimized: radiance fields with their occupancy grid and optimizer, and how a gradient moves them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import Cameras, camera_rays
from recdreamer.config import GenerateConfig
from recdreamer.field import OccupancyGrid, RadianceField
from recdreamer.rendering import (
    Background,
    BackgroundConfig,
    Rendering,
    opaque_loss,
    random_backgrounds,
    render,
    smoothness_loss,
    sparsity_loss,
    weight_entropy_loss,
    z_variance_loss,
)
from recdreamer.state import load_optimizer, optimizer_tensors


class Scene:
    """One particle θ."""

    def __init__(self, config: GenerateConfig, device: torch.device, index: int = 0) -> None:
        self.config, self.device = config, device
        seed = config.seed + 7919 * index
        self.field = RadianceField(config.field, seed).to(device)
        self.occupancy = OccupancyGrid(config.occupancy).to(device)
        self.surrounding = None
        if config.optimize.background == "learned":
            self.surrounding = Background(BackgroundConfig(), seed).to(device)
        grid = [p for name, p in self.field.named_parameters() if "grid" in name]
        network = [p for name, p in self.field.named_parameters() if "grid" not in name]
        network += self.surrounding.parameters() if self.surrounding is not None else []
        self.optimizer = torch.optim.Adam(
            [
                {"params": grid, "lr": config.optimize.grid_learning_rate},
                {"params": network, "lr": config.optimize.network_learning_rate},
            ],
            betas=(0.9, 0.99),
            eps=1e-15,
        )
        self.first_bad_step = torch.full((), torch.inf, device=device)
        """The first step whose loss was not finite; stays on the device so that no step waits for it."""

    def render(self, cameras: Cameras, step: int, generator: torch.Generator) -> Rendering:
        """Training pictures: jittered samples, coarse levels first, a ground behind each view."""
        self.field.set_progress(step)
        self.occupancy.update(self.field, step, generator)
        settings, size = self.config.optimize, self.config.optimize.render_px
        background = random_backgrounds(
            len(cameras), generator, self.device, settings.ground, settings.ground_tint
        )
        if self.surrounding is not None:
            is_plain = torch.rand(len(cameras), 1, 1, 1, generator=generator, device=generator.device) < 0.5
            learned = self.surrounding(camera_rays(cameras, size, size)[1])
            background = torch.where(is_plain.to(self.device), background[:, :, None, None], learned)
        return render(
            self.field, self.occupancy, cameras, size, size, background, self.config.render, generator
        )

    def descend(
        self,
        rendering: Rendering,
        latents: Float[Tensor, "views c h w"],
        grad: Float[Tensor, "views c h w"],
        step: int,
        generator: torch.Generator,
    ) -> None:
        """One optimizer step along `grad` on the latents and along the regularisers.

        The distillation loss is written so that its gradient is grad / views exactly, under any loss scale.
        """
        target = (latents - grad).detach()
        loss = 0.5 * (latents - target).square().sum() / len(latents)
        loss = loss + self._regularization(rendering, step, generator)
        self.first_bad_step = torch.where(
            torch.isfinite(loss.detach()), self.first_bad_step, self.first_bad_step.clamp_max(step)
        )
        settings = self.config.optimize
        left = 0.5 + 0.5 * math.cos(math.pi * step / settings.num_steps)
        left = settings.final_learning_rate + (1 - settings.final_learning_rate) * left
        for group, rate in zip(
            self.optimizer.param_groups,
            (settings.grid_learning_rate, settings.network_learning_rate),
            strict=True,
        ):
            group["lr"] = left * rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def _regularization(
        self, rendering: Rendering, step: int, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        weights, progress = self.config.regularizers, step / self.config.optimize.num_steps
        smooth, smooth_color = smoothness_loss(self.field, rendering, 0.04, 4096, generator)
        # Unlike the others mostly off, and with the samples of all rays to go through.
        z_variance = weights.z_variance * z_variance_loss(rendering) if weights.z_variance else 0.0
        return (
            weights.sparsity * sparsity_loss(rendering.opacity)
            + weights.opaque * progress * opaque_loss(rendering.opacity)
            + weights.entropy * progress * weight_entropy_loss(rendering.weights)
            + weights.smoothness * smooth
            + weights.color_smoothness * smooth_color
            + z_variance
        )

    @torch.no_grad()
    def picture(
        self, cameras: Cameras, size_px: int, ground: float = 0.8
    ) -> Float[Tensor, "views 3 size_px size_px"]:
        """Clean pictures for looking at and for measuring."""
        background = torch.full((len(cameras), 3), ground, device=self.device)
        rendering = render(
            self.field, self.occupancy, cameras, size_px, size_px, background, self.config.render
        )
        return rendering.rgb.clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""
        named = {f"field.{k}": v for k, v in self.field.state_dict().items()}
        named |= {f"occupancy.{k}": v for k, v in self.occupancy.state_dict().items()}
        if self.surrounding is not None:
            named |= {f"surrounding.{k}": v for k, v in self.surrounding.state_dict().items()}
        return named | optimizer_tensors("optimizer", self.optimizer)

    def load(self, tensors: dict[str, Tensor]) -> None:
        modules = {"field": self.field, "occupancy": self.occupancy, "surrounding": self.surrounding}
        for name, module in modules.items():
            if module is None:
                continue
            module.load_state_dict(
                {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            )
        load_optimizer("optimizer", self.optimizer, tensors)


class Particles:
    """The particles θ¹ … θⁿ, a field each (paper, Sec. 3.3); they share the branch and the pose marginal."""

    def __init__(self, config: GenerateConfig, device: torch.device) -> None:
        self.scenes = [Scene(config, device, index) for index in range(config.optimize.num_particles)]

    def at(self, step: int) -> Scene:
        """The particle that a step moves: in turn, so that all see timesteps alike (released code: a random one)."""
        return self.scenes[step % len(self.scenes)]

    @property
    def first_bad_step(self) -> float:
        """The first step whose loss was not finite, else infinity. Waits for the device."""
        return min(scene.first_bad_step.item() for scene in self.scenes)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""
        return {
            f"particle.{index}.{name}": tensor
            for index, scene in enumerate(self.scenes)
            for name, tensor in scene.tensors().items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        for index, scene in enumerate(self.scenes):
            prefix = f"particle.{index}."
            scene.load({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
