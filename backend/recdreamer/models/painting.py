"""θ of the third stage: the colours of a finished mesh."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cameras import Cameras, camera_rays, sample_cameras
from recdreamer.config import GenerateConfig
from recdreamer.device import step_generator
from recdreamer.field import RadianceField
from recdreamer.field.region_field import RegionField
from recdreamer.mesh import Mesh
from recdreamer.models.model import Descent, distillation_loss, field_optimizer
from recdreamer.named_tensors import load_optimizer, optimizer_tensors, part
from recdreamer.parallel.view_shares import share_of
from recdreamer.rendering import random_backgrounds
from recdreamer.rendering.picked import picked
from recdreamer.rendering.ray_cast import MeshCaster

SHOW_ALL = 1 << 30
"""Step at which all levels of a field are shown."""


@dataclass(frozen=True)
class Sight:
    """The visible points of a mesh for one camera; cast once, as the mesh does not move."""

    xyz: Float[Tensor, "hits 3"]
    pixels: Int[Tensor, "hits"]
    """Index of each hit's pixel, row by row; a pixel has several rays."""
    coverage: Float[Tensor, "1 height width"]
    """Share of a pixel's rays that hit."""
    rays_per_pixel: int


@dataclass(frozen=True)
class PaintedViews:
    """Pictures of the mesh, and the surface points that they show."""

    rgb: Float[Tensor, "views 3 height width"]
    xyz: Float[Tensor, "points 3"]


class Painting:
    """A colour field on a frozen mesh, seen by cameras whose rays are cast once and cached.

    The views of a step are one of a fixed number of batches, each spread over the circle as in the other stages.
    """

    def __init__(
        self, config: GenerateConfig, mesh: Mesh, field: RadianceField | RegionField, device: torch.device
    ) -> None:
        """`field` has the initial colours; it is copied."""
        self.config, self.device, self.mesh = config, device, mesh
        settings = config.texture
        self.caster = MeshCaster(mesh.verts, mesh.faces, device)
        self.field = deepcopy(field).to(device)
        self.field.set_progress(SHOW_ALL)
        learned = ((name, p) for name, p in self.field.named_parameters() if p.requires_grad)
        optimizer = field_optimizer(learned, settings.grid_learning_rate, settings.network_learning_rate)
        self.descent = Descent(optimizer, settings.num_steps, settings.final_learning_rate, device)
        self._sights: dict[int, list[Sight]] = {}

    def cameras(self, step: int) -> Cameras:
        """The batch of views of a step."""
        generator = step_generator(self.config.seed, self._batch(step), torch.device("cpu"))
        return sample_cameras(self.config.cameras, self.config.texture.num_views, generator, self.device)

    def _batch(self, step: int) -> int:
        settings = self.config.texture
        return step % max(1, settings.cached_views // settings.num_views)

    def render(self, cameras: Cameras, step: int, generator: torch.Generator) -> PaintedViews:
        """The step's own views before random backgrounds; `cameras` are those of `cameras(step)`."""
        batch, size_px, behind = self._batch(step), self.config.texture.render_px, self.config.optimize
        if batch not in self._sights:
            self._sights[batch] = self.look(cameras, size_px)
        backgrounds = random_backgrounds(
            len(cameras), generator, self.device, behind.background_brightness, behind.background_tint
        )
        return paint(self.field, self._sights[batch], backgrounds)

    def forget_views(self) -> None:
        """Free the cached ray casts, once the stage is done."""
        self._sights.clear()

    def look(self, cameras: Cameras, size_px: int) -> list[Sight]:
        """Cast `supersampling`² rays for each pixel of square pictures."""
        fine = size_px * self.config.texture.supersampling
        rays_o, rays_d = camera_rays(cameras, fine, fine)
        sights = []
        for o, d in zip(rays_o.flatten(1, 2), rays_d.flatten(1, 2), strict=True):
            faces, _, distances = self.caster.cast(o, d)
            hit = faces >= 0
            index = hit.nonzero()[:, 0]
            rows, columns = index // fine, index % fine
            factor = self.config.texture.supersampling
            pixels = ((rows // factor) * size_px + columns // factor).int()
            coverage = torch.zeros(size_px * size_px, device=self.device)
            coverage.index_add_(0, pixels, torch.ones_like(pixels, dtype=torch.float32))
            sights.append(
                Sight(
                    o[hit] + distances[hit, None] * d[hit], pixels,
                    (coverage / factor**2).view(1, size_px, size_px), factor**2,
                )
            )  # fmt: skip
        return sights

    def seen_points(
        self, cameras: Cameras, generator: torch.Generator, size_px: int = 64
    ) -> Float[Tensor, "views 3"]:
        """A random visible point of the mesh in each view, uniform over its pixels; the origin if there is none."""
        rays_o, rays_d = (rays.flatten(1, 2) for rays in camera_rays(cameras, size_px, size_px))
        faces, _, distances = self.caster.cast(rays_o.flatten(0, 1), rays_d.flatten(0, 1))
        hits = (faces >= 0).view(len(cameras), -1)
        draws = torch.rand(hits.shape, generator=generator, device=generator.device).to(self.device)
        chosen = draws.masked_fill(~hits, -1).argmax(dim=1)
        views = torch.arange(len(cameras), device=self.device)
        points = rays_o[views, chosen] + distances.view_as(hits)[views, chosen, None] * rays_d[views, chosen]
        return torch.where(hits.any(dim=1, keepdim=True), points, 0)

    def descend(
        self,
        rendering: PaintedViews,
        latents: Float[Tensor, "views c h w"],
        grad: Float[Tensor, "views c h w"],
        step: int,
        generator: torch.Generator,
    ) -> None:
        """One optimizer step along `grad`, smoothing near points."""
        settings = self.config.texture
        loss, share = distillation_loss(latents, grad), share_of(generator)
        if len(rendering.xyz) or share.is_split:
            uneven = unevenness(self.field, rendering.xyz, settings.smoothing_radius, generator)
            loss = loss + settings.smoothness * uneven
        self.descent.step(loss, step, share)

    @torch.no_grad()
    def picture(
        self, cameras: Cameras, size_px: int, brightness: float = 0.8
    ) -> Float[Tensor, "views 3 size_px size_px"]:
        """Clean pictures of the painted mesh."""
        backgrounds = torch.full((len(cameras), 3), brightness, device=self.device)
        return paint(self.field, self.look(cameras, size_px), backgrounds).rgb.clamp(0, 1)

    def color(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """sRGB colour at points of the surface."""
        return self.field(xyz)[1]

    def at(self, step: int) -> Painting:
        return self

    def shown(self) -> list[Painting]:
        return [self]

    @property
    def first_bad_step(self) -> float:
        return self.descent.first_bad_step.item()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold; the mesh comes from the previous stage."""
        named = {f"painting.{k}": v for k, v in self.field.state_dict().items()}
        return named | optimizer_tensors("painting_optimizer", self.descent.optimizer)

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.field.load_state_dict(part("painting", tensors))
        load_optimizer("painting_optimizer", self.descent.optimizer, tensors)


def paint(
    field: RadianceField | RegionField, sights: Sequence[Sight], backgrounds: Float[Tensor, "views 3"]
) -> PaintedViews:
    """The views of a mesh in a field's colours, each before its own background."""
    size_px = sights[0].coverage.shape[-1]
    xyz = torch.cat([sight.xyz for sight in sights])
    pixels = torch.cat([sight.pixels + i * size_px**2 for i, sight in enumerate(sights)])
    colors = field(xyz)[1] / sights[0].rays_per_pixel
    summed = colors.new_zeros(len(sights) * size_px**2, 3).index_add(0, pixels, colors)
    rgb = summed.view(len(sights), size_px, size_px, 3).permute(0, 3, 1, 2)
    coverage = torch.stack([sight.coverage for sight in sights])
    return PaintedViews(rgb + (1 - coverage) * backgrounds[:, :, None, None], xyz)


def unevenness(
    field: RadianceField | RegionField,
    xyz: Float[Tensor, "points 3"],
    radius: float,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Mean squared difference of a field's colours at some of the points and at normal offsets of scale `radius`."""
    draws, share = torch.rand(4096, generator=generator, device=generator.device).to(xyz), share_of(generator)
    found = picked(draws, xyz, share)
    points = found.xyz
    offsets = torch.randn(points.shape, generator=generator, device=generator.device).to(points)
    near = (points + radius * offsets).clamp(-1, 1)
    rgb, rgb_near = field(torch.cat([points, near]))[1].chunk(2)
    return found.mean((rgb - rgb_near).square().mean(1), share)
