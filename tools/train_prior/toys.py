"""Random toys, each pictured twice from one camera: as a photo of the embedded world, and as a block-out of the toy.

They teach the extractor that a thing and a rough model of it are the same thing: without colours, in clay, in a
matcap, in Blender's studio light or a scene's, with outlines, with features missing, added or out of proportion. The
toys are assembled at random and do not belong to the embedded world's kinds. No label gives the direction of view; all
that is known is that both pictures are seen from the same place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recdreamer.cameras import Cameras, camera_rays, orbit_cameras
from recdreamer.evaluation.figurines import Figurines, nearest_hit, render_figurines, sample_grounds
from recdreamer.presets import EMBEDDED_CAMERAS

_SLOTS: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float], bool, float], ...] = (
    # name, centre, radii, whether it comes in pairs, share of toys that have it.
    ("body", (0, 0.02, -0.30), (0.33, 0.30, 0.37), False, 1.0),
    ("head", (0, -0.02, 0.33), (0.28, 0.26, 0.25), False, 1.0),
    ("feet", (0.17, -0.09, -0.68), (0.13, 0.19, 0.11), True, 0.9),
    ("arms", (0.38, -0.02, -0.20), (0.10, 0.14, 0.25), True, 0.7),
    ("ears", (0.20, 0.02, 0.62), (0.09, 0.06, 0.17), True, 0.6),
    ("crest", (0, 0.00, 0.68), (0.05, 0.10, 0.10), False, 0.4),
    ("muzzle", (0, -0.30, 0.27), (0.14, 0.15, 0.10), False, 0.7),
    ("nose", (0, -0.40, 0.34), (0.06, 0.06, 0.05), False, 0.5),
    ("eyes", (0.12, -0.25, 0.43), (0.06, 0.05, 0.07), True, 0.9),
    ("belly", (0, -0.15, -0.28), (0.25, 0.23, 0.29), False, 0.6),
    ("mark", (0, -0.29, -0.15), (0.10, 0.06, 0.10), False, 0.3),
    ("pack", (0, 0.37, -0.20), (0.22, 0.13, 0.24), False, 0.5),
    ("tail", (0, 0.46, -0.38), (0.12, 0.22, 0.11), False, 0.5),
)
"""The parts of a toy and their places. In a block-out only the first four are certain to be kept."""
_KEPT_SLOTS = 4
_LIGHTS = 3
_BRIGHT = torch.tensor(
    [[0.84, 0.12, 0.11], [0.12, 0.58, 0.17], [0.13, 0.26, 0.84], [0.95, 0.80, 0.12], [0.54, 0.17, 0.70],
     [0.08, 0.62, 0.62], [0.98, 0.55, 0.06], [0.36, 0.20, 0.09], [0.98, 0.55, 0.62], [0.42, 0.45, 0.50],
     [0.95, 0.95, 0.92], [0.05, 0.05, 0.06]]
)  # fmt: skip


class _Dice:
    """Random numbers on one device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.generator.device)

    def happens(self, *shape: int, share: float) -> Tensor:
        return self.uniform(*shape) < share

    def colors(self, *shape: int) -> Tensor:
        device = self.generator.device
        rows = torch.randint(len(_BRIGHT), shape, generator=self.generator, device=device)
        return (_BRIGHT.to(device)[rows] * (1 + self.uniform(*shape, 3, low=-0.15, high=0.15))).clamp(0, 1)


def picture_pairs(
    count: int, generator: torch.Generator, size_px: int = 64, chunk: int = 128
) -> tuple[Tensor, Tensor]:
    """(photos, block-outs), uint8 pictures (count, 3, size_px, size_px): each pair shows one toy from one camera."""
    photos, blockouts = [], []
    for first in range(0, count, chunk):
        pair = _pairs(min(chunk, count - first), _Dice(generator), size_px)
        for pictures, into in zip(pair, (photos, blockouts), strict=True):
            into.append((pictures * 255).round().byte())
    return torch.cat(photos), torch.cat(blockouts)


def _pairs(count: int, dice: _Dice, size_px: int) -> tuple[Tensor, Tensor]:
    device = dice.generator.device
    toys, slots = random_toys(count, dice)
    low, high = EMBEDDED_CAMERAS.elevation_deg
    cameras = orbit_cameras(
        dice.uniform(count, high=360), dice.uniform(count, low=low, high=high + 8),
        EMBEDDED_CAMERAS.distance[0], EMBEDDED_CAMERAS.fov_y_deg[0],
    )  # fmt: skip
    photos = render_figurines(toys, cameras, size_px, sample_grounds(count, dice.generator, device))
    return photos, render_blockouts(as_blockouts(toys, slots, dice), cameras, size_px, dice)


def random_toys(count: int, dice: _Dice) -> tuple[Figurines, Tensor]:
    """Toys, and the slot of each of their parts."""
    device = dice.generator.device
    centers, radii, boxes, colors, slots = [], [], [], [], []
    own = dice.colors(count)
    is_boxy = dice.happens(count, share=0.3)
    for slot, (_, center, size, is_pair, share) in enumerate(_SLOTS):
        is_there = dice.happens(count, share=share)
        place = torch.tensor(center, device=device) + dice.uniform(count, 3, low=-0.05, high=0.05)
        place[:, 0] = place[:, 0].abs() if is_pair else 0.0
        scale = torch.tensor(size, device=device) * dice.uniform(count, 3, low=0.7, high=1.35)
        scale = scale * is_there[:, None]
        is_box = torch.where(is_boxy, dice.happens(count, share=0.8), dice.happens(count, share=0.1))
        # Structural parts mostly have the toy's own colour, features mostly another one.
        is_own = dice.happens(count, share=0.85 if slot < _KEPT_SLOTS + 1 else 0.25)
        color = torch.where(is_own[:, None], own, dice.colors(count))
        for side in (1.0, -1.0) if is_pair else (1.0,):
            centers.append(place * torch.tensor([side, 1.0, 1.0], device=device))
            radii.append(scale)
            boxes.append(is_box.float())
            colors.append(color)
            slots.append(slot)
    stack = lambda values: torch.stack(values, 1)  # noqa: E731
    pitch_rad = torch.zeros(count, len(slots), device=device)
    toys = Figurines(stack(centers), stack(radii), pitch_rad, stack(boxes), stack(colors))
    return toys, torch.tensor(slots, device=device)


def as_blockouts(toys: Figurines, slots: Tensor, dice: _Dice) -> Figurines:
    """Toys as an artist would rough them out: fewer features, other proportions, few colours."""
    count, parts = toys.radii.shape[:2]
    # Some toys keep all features, some none, the others a share; a pair is kept or dropped as a whole.
    keep = dice.uniform(count, 1) * 1.6 - 0.3
    is_feature = slots >= _KEPT_SLOTS
    is_kept = (dice.uniform(count, len(_SLOTS))[:, slots] < keep) | ~is_feature
    scale = dice.uniform(count, len(_SLOTS), 3, low=0.87, high=1.15)[:, slots]
    shift = dice.uniform(count, len(_SLOTS), 3, low=-0.03, high=0.03)[:, slots]
    shift[..., 0] = 0
    grey = dice.uniform(count, 1, 1, low=0.45, high=0.85).expand(-1, parts, 3)
    paint = dice.uniform(count, 1, 1)
    body = toys.colors[:, :1].expand(-1, parts, -1)
    features = torch.where(is_feature[None, :, None], toys.colors, body)
    colors = torch.where(
        paint < 0.4, grey, torch.where(paint < 0.6, body, torch.where(paint < 0.8, features, toys.colors))
    )
    # Dark eyes on grey clay: the first thing that an artist adds.
    is_dark = dice.happens(count, share=0.5)[:, None] & is_feature[None] & (paint[..., 0] < 0.4)
    colors = torch.where(is_dark[..., None], 0.1, colors)
    return Figurines(
        toys.centers + shift, toys.radii * scale * is_kept[..., None], toys.pitch_rad, toys.is_box, colors
    )


def render_blockouts(
    figures: Figurines, cameras: Cameras, size_px: int, dice: _Dice, oversampling: int = 2
) -> Tensor:
    """Pictures (batch, 3, size_px, size_px) as a viewport shows them; each has its own light and background."""
    count, fine_px = len(cameras), size_px * oversampling
    rays_o, rays_d = (rays.flatten(1, 2) for rays in camera_rays(cameras, fine_px, fine_px))
    depth, normals, colors = nearest_hit(figures, rays_o, rays_d)
    is_hit = depth.isfinite()[..., None]
    facing = -(normals * rays_d).sum(-1, keepdim=True).clamp_max(0)
    seen = torch.einsum("bji,bnj->bni", cameras.c2w[:, :3, :3], normals)
    style = dice.uniform(count, 1, 1)
    lit = torch.where(
        style < 0.35, _lamps(seen, dice),  # Studio lights go with the camera,
        torch.where(style < 0.60, _lamps(normals, dice),  # those of a scene stay,
        torch.where(style < 0.80, 0.45 + 0.55 * facing, torch.ones_like(facing))),  # clay, and flat colours.
    )  # fmt: skip
    image = (colors * lit).clamp(0, 1)
    # A matcap is a picture of a ball: the colour depends on the direction of the surface as the camera sees it.
    tint, other = dice.colors(count)[:, None], dice.colors(count)[:, None]
    matcap = torch.lerp(tint, other, (0.5 + 0.5 * seen[..., 1:2])) * (0.4 + 0.6 * facing)
    image = torch.where(dice.happens(count, 1, 1, share=0.12), matcap, image)
    ground = dice.uniform(count, 1, 1, low=0.15, high=1.0) + dice.uniform(count, 1, 3, low=-0.06, high=0.06)
    ground = torch.where(dice.happens(count, 1, 1, share=0.5), torch.full_like(ground, 0.8), ground)
    image = (
        torch.where(is_hit, image, ground.clamp(0, 1)).unflatten(1, (fine_px, fine_px)).permute(0, 3, 1, 2)
    )
    sights = torch.cat((is_hit.float(), 0.6 * normals * is_hit, depth.nan_to_num(posinf=0.0)[..., None]), -1)
    lines = _edges(sights.unflatten(1, (fine_px, fine_px)).permute(0, 3, 1, 2))
    lines = lines * dice.happens(count, 1, 1, 1, share=0.2)
    image = torch.lerp(image, torch.full_like(image, 0.08), lines)
    return F.avg_pool2d(image, oversampling)


def _lamps(normals: Tensor, dice: _Dice) -> Tensor:
    """Light of a few lamps on surfaces, plus ambient light."""
    count = len(normals)
    ways = F.normalize(
        torch.randn(count, _LIGHTS, 3, generator=dice.generator, device=normals.device), dim=-1
    )
    # Up is Y in the camera's frame and Z in the world; either way few lamps shine from below.
    ways[..., 1:] = ways[..., 1:].abs() * torch.where(dice.happens(count, _LIGHTS, 1, share=0.8), 1.0, -1.0)
    power = dice.uniform(count, _LIGHTS, low=0.1, high=0.8)
    diffuse = torch.einsum("bnc,blc->bnl", normals, F.normalize(ways, dim=-1)).clamp_min(0)
    return dice.uniform(count, 1, 1, low=0.15, high=0.6) + (diffuse * power[:, None]).sum(-1, keepdim=True)


def _edges(sights: Tensor) -> Tensor:
    """1 where the surface, its direction or its depth changes abruptly."""
    down = (sights[:, :, 1:, :-1] - sights[:, :, :-1, :-1]).abs().amax(1, keepdim=True)
    right = (sights[:, :, :-1, 1:] - sights[:, :, :-1, :-1]).abs().amax(1, keepdim=True)
    return F.max_pool2d(
        F.pad((torch.maximum(down, right) > 0.3).float(), (0, 1, 0, 1)), 3, stride=1, padding=1
    )
