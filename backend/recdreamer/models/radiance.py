"""θ of the first stage: radiance fields, each with an occupancy grid and an optimizer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import Cameras, camera_rays
from recdreamer.config import GenerateConfig
from recdreamer.field import Field, OccupancyGrid
from recdreamer.field.region_field import RegionField, empty_like
from recdreamer.models.model import Descent, distillation_loss, field_optimizer
from recdreamer.models.noisy_field import NoisyField
from recdreamer.models.stay_near_start import GentleField, hold_loss
from recdreamer.named_tensors import load_optimizer, optimizer_tensors, part
from recdreamer.parallel.view_shares import drawn, share_of
from recdreamer.rendering import (
    Background,
    Rendering,
    opaque_loss,
    random_backgrounds,
    render,
    smoothness_loss,
    sparsity_loss,
    weight_entropy_loss,
    z_variance_loss,
)
from recdreamer.rendering.sample_capacity import SampleCapacity
from recdreamer.report import Warn, no_warn
from recdreamer.start.starting_point import FROM_PROMPT, StartingPoint

NUM_LOOKS = 4
"""Updates of the occupancy grid from a start, before the first step."""


class Scene:
    """One particle θ."""

    def __init__(
        self,
        config: GenerateConfig,
        device: torch.device,
        index: int = 0,
        start: StartingPoint = FROM_PROMPT,
        warn: Warn = no_warn,
    ) -> None:
        self.config, self.device = config, device
        seed = config.seed + 7919 * index
        self.occupancy = OccupancyGrid(config.occupancy).to(device)
        self.surrounding = None
        if config.optimize.background == "learned":
            self.surrounding = Background(seed).to(device)
        self.field, self.frozen = start.make_fields(config.field, seed)
        """The field, and a frozen copy of its start; None where it starts from the prompt."""
        self.field.to(device)
        self.strength = torch.full((), start.strength, device=device)
        """How far the shape may leave the start; see `hold_loss`."""
        if self.frozen is not None:
            self.frozen.to(device)
            self._look_at_start(start, seed)
        settings = config.optimize
        around = () if self.surrounding is None else self.surrounding.named_parameters()
        optimizer = field_optimizer(
            (*self._trained(), *around), settings.grid_learning_rate, settings.network_learning_rate
        )
        self.descent = Descent(optimizer, settings.num_steps, settings.final_learning_rate, device)
        self.rising = torch.zeros(2, device=device)
        """Weights of the opaque and of the entropy loss at the present step."""
        self.capacity = None
        if device.type == "cuda" or config.render.haze_steps > 1:
            num_rays = settings.num_views * settings.render_px**2
            self.capacity = SampleCapacity(num_rays, device, warn, config.render.samples_per_ray)
        """Of the samples of a step; None: as many as there are, which the host has to wait for."""

    def _look_at_start(self, start: StartingPoint, seed: int) -> None:
        """Take over an earlier job's occupancy and surrounding where they fit, or find out where the start is."""
        is_known = _load_fitting("occupancy", self.occupancy, start.scene)
        if self.surrounding is not None:
            _load_fitting("surrounding", self.surrounding, start.scene)
        # One random point per cell would miss thin parts.
        generator = torch.Generator(device=self.device).manual_seed(seed)
        for _ in range(0 if is_known else NUM_LOOKS):
            self.occupancy.update(self.field, 0, generator)

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        field = self.field.field if isinstance(self.field, RegionField) else self.field
        return field.named_parameters()

    def render(self, cameras: Cameras, step: int, generator: torch.Generator) -> Rendering:
        """Training pictures: jittered samples, coarse levels first, a background behind each view."""
        self.begin(step, generator)
        rendering = self.view(cameras, generator)
        if self.capacity is not None:
            self.capacity.send()
        return rendering

    def begin(self, step: int, generator: torch.Generator) -> None:
        """What changes with time and cannot be recorded; before `view`, or before a recording of it is replayed."""
        self.field.set_progress(step)
        self.occupancy.update(self.field, step, generator)
        if self.capacity is not None and step % self.config.occupancy.interval == 0:
            self.capacity.choose()

    def view(self, cameras: Cameras, generator: torch.Generator) -> Rendering:
        """The pictures alone; on a GPU nothing waits, and a CUDA graph may record this."""
        settings, size = self.config.optimize, self.config.optimize.render_px
        background = random_backgrounds(
            len(cameras), generator, self.device, settings.background_brightness, settings.background_tint
        )
        if self.surrounding is not None:
            is_plain = drawn(torch.rand, (len(cameras), 1, 1, 1), generator) < 0.5
            learned = self.surrounding(camera_rays(cameras, size, size)[1])
            background = torch.where(is_plain.to(self.device), background[:, :, None, None], learned)
        share = share_of(generator)
        capacity = None if self.capacity is None else self.capacity.of(share)
        rendering = render(
            self._in_training(),
            self.occupancy,
            cameras,
            size,
            size,
            background,
            self.config.render,
            generator,
            capacity,
        )
        if self.capacity is not None and rendering.wanted is not None:
            self.capacity.note(rendering.wanted, share)
        return rendering

    def _pushed(self) -> Field:
        """The field whose gradient the prior and the regularizers see."""
        return self.field if self.frozen is None else GentleField(self.field, self.strength)

    def _in_training(self) -> Field:
        """The field as training pictures show it."""
        noise = self.config.optimize.density_noise
        return NoisyField(self._pushed(), noise) if noise else self._pushed()

    def descend(
        self,
        rendering: Rendering,
        latents: Float[Tensor, "views c h w"],
        grad: Float[Tensor, "views c h w"],
        step: int,
        generator: torch.Generator,
    ) -> None:
        """One optimizer step along `grad` on the latents and along the regularizers."""
        self.begin_descent(step)
        self.move(rendering, latents, grad, generator)

    def begin_descent(self, step: int) -> None:
        """What changes with time; before `move`, or before a recording of it is replayed."""
        progress, weights = step / self.config.optimize.num_steps, self.config.regularizers
        rises = (weights.opaque_rise, weights.entropy_rise)
        for weight, final, rise in zip(self.rising, (weights.opaque, weights.entropy), rises, strict=True):
            weight.fill_(final * risen(progress, rise))
        self.descent.begin(step)

    def move(
        self,
        rendering: Rendering,
        latents: Float[Tensor, "views c h w"],
        grad: Float[Tensor, "views c h w"],
        generator: torch.Generator,
    ) -> None:
        """The optimizer step alone; on a GPU nothing waits, and a CUDA graph may record this."""
        loss = distillation_loss(latents, grad) + self._regularization(rendering, generator)
        if self.frozen is not None:
            weight = (1 - self.strength) * self.config.start.hold
            loss = loss + weight * hold_loss(self.field, self.frozen, rendering, generator)
        # A small region may lie out of sight.
        self.descent.move(loss, share_of(generator))

    def _regularization(self, rendering: Rendering, generator: torch.Generator) -> Float[Tensor, ""]:
        weights, (opaque, entropy), share = self.config.regularizers, self.rising, share_of(generator)
        smooth, smooth_color = smoothness_loss(self._pushed(), rendering, 0.04, 4096, generator)
        in_all = weights.entropy_samples_per_ray * rendering.opacity.numel()
        # Off by default, and costly: it goes through the samples of all rays.
        z_variance = weights.z_variance * z_variance_loss(rendering, share) if weights.z_variance else 0.0
        return (
            weights.sparsity * sparsity_loss(rendering.opacity)
            + opaque * opaque_loss(rendering.opacity)
            + entropy * weight_entropy_loss(rendering.weights, rendering.count, share, in_all)
            + weights.smoothness * smooth
            + weights.color_smoothness * smooth_color
            + z_variance
        )

    @torch.no_grad()
    def picture(
        self, cameras: Cameras, size_px: int, brightness: float = 0.8
    ) -> Float[Tensor, "views 3 size_px size_px"]:
        """Clean pictures, for previews and measurements."""
        background = torch.full((len(cameras), 3), brightness, device=self.device)
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
        if self.frozen is not None:
            named["strength"] = self.strength
            if not self._region_has_frozen():
                named |= {f"frozen.{k}": v for k, v in self.frozen.state_dict().items()}
        if self.capacity is not None:
            named["capacity"] = self.capacity.tensor()
        return named | optimizer_tensors("optimizer", self.descent.optimizer)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; the start is part of them, so that no file is needed."""
        if "strength" in tensors:
            self.strength.copy_(tensors["strength"])
            self._make_frozen(tensors)
        modules = {"field": self.field, "occupancy": self.occupancy, "surrounding": self.surrounding}
        if not self._region_has_frozen():
            modules["frozen"] = self.frozen
        for name, module in modules.items():
            if module is not None:
                module.load_state_dict(part(name, tensors))
        if self.capacity is not None and "capacity" in tensors:
            self.capacity.load(tensors["capacity"])
        load_optimizer("optimizer", self.descent.optimizer, tensors)

    def _make_frozen(self, tensors: dict[str, Tensor]) -> None:
        """Make fields of the kinds in a checkpoint; the optimizer keeps its parameters."""
        changing = self.field.field if isinstance(self.field, RegionField) else self.field
        beside = None
        if any(name.startswith("frozen.") for name in tensors):
            beside = empty_like(tensors, "frozen.", self.config.field).requires_grad_(False)
        self.field, self.frozen = changing, beside
        if "field.region" in tensors:
            within = empty_like(tensors, "field.frozen.", self.config.field)
            self.field, self.frozen = RegionField(within, changing), beside or within
        for module in (self.field, self.frozen):
            if module is not None:
                module.to(self.device)

    def _region_has_frozen(self) -> bool:
        return isinstance(self.field, RegionField) and self.field.frozen is self.frozen


def risen(progress: float, rise: tuple[float, float]) -> float:
    """The share of its weight that a loss has at a share of the steps.

    >>> [risen(progress, (0.25, 0.75)) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [0.0, 0.0, 0.5, 1.0, 1.0]
    >>> [risen(progress, (0.4, 0.4)) for progress in (0.39, 0.4)]
    [0.0, 1.0]
    """
    first, last = rise
    if progress >= last:
        return 1.0
    return max(0.0, (progress - first) / (last - first)) if last > first else 0.0


def _load_fitting(name: str, module: torch.nn.Module, tensors: dict[str, Tensor]) -> bool:
    """Load a part of another job's scene if it has one of the same size. Returns whether it had."""
    state, own = part(name, tensors), module.state_dict()
    fits = {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in own.items()}
    if fits:
        module.load_state_dict(state)
    return fits


class Particles:
    """The particles θ¹ … θⁿ, one field each (paper, Sec. 3.3); they share the branch and the pose marginal."""

    def __init__(
        self,
        config: GenerateConfig,
        device: torch.device,
        start: StartingPoint = FROM_PROMPT,
        warn: Warn = no_warn,
    ) -> None:
        count = config.optimize.num_particles
        self.scenes = [Scene(config, device, index, start, warn) for index in range(count)]

    def at(self, step: int) -> Scene:
        """The particle of a step: they take turns, so that all see the same timesteps (released code: a random one)."""
        return self.scenes[step % len(self.scenes)]

    def cameras(self, step: int) -> Cameras | None:
        """None: the views of a step are random."""

    def shown(self) -> list[Scene]:
        """One row of the preview for each."""
        return self.scenes

    @property
    def first_bad_step(self) -> float:
        """The first step whose loss was not finite, else infinity. Waits for the device."""
        return min(scene.descent.first_bad_step.item() for scene in self.scenes)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""
        return {
            f"particle.{index}.{name}": tensor
            for index, scene in enumerate(self.scenes)
            for name, tensor in scene.tensors().items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        for index, scene in enumerate(self.scenes):
            scene.load(part(f"particle.{index}", tensors))
