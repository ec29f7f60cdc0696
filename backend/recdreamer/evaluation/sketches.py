"""Line drawings of figurines, clean or hand-drawn: queries and templates of another modality (paper, C.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import Cameras, camera_rays
from recdreamer.evaluation.figurines import Figurines, nearest_hit

PAPER, INK = 0.96, 0.12


def draw_sketches(
    figures: Figurines,
    cameras: Cameras,
    size_px: int,
    generator: torch.Generator | None = None,
    oversampling: int = 4,
) -> Float[Tensor, "batch 3 size_px size_px"]:
    """Lines at discontinuities of surface, normal or colour; with a generator, drawn by an unsteady hand.

    The hand moves lines by up to 3 % of the picture and leaves some pieces out.
    """
    fine_px = size_px * oversampling
    rays_o, rays_d = (rays.flatten(1, 2) for rays in camera_rays(cameras, fine_px, fine_px))
    depth, normals, colors = nearest_hit(figures, rays_o, rays_d)
    is_hit = depth.isfinite()[..., None]
    distance = depth.nan_to_num(posinf=0.0)[..., None]
    sights = torch.cat((is_hit.float(), 0.6 * normals * is_hit, colors * is_hit, distance), -1)
    sights = sights.unflatten(1, (fine_px, fine_px)).permute(0, 3, 1, 2)
    down = (sights[:, :, 1:, :-1] - sights[:, :, :-1, :-1]).abs().amax(1, keepdim=True)
    right = (sights[:, :, :-1, 1:] - sights[:, :, :-1, :-1]).abs().amax(1, keepdim=True)
    lines = F.pad((torch.maximum(down, right) > 0.25).float(), (0, 1, 0, 1))
    if generator is not None:
        lines = _by_hand(lines, generator)
    # The width of a pen: slightly more than one pixel of the result.
    lines = F.max_pool2d(lines, oversampling + 1, stride=1, padding=oversampling // 2)
    lines = F.avg_pool2d(lines, oversampling)
    return (PAPER + (INK - PAPER) * lines).expand(-1, 3, -1, -1)


def _by_hand(lines: Float[Tensor, "batch 1 h w"], generator: torch.Generator) -> Float[Tensor, "batch 1 h w"]:
    batch, _, height, width = lines.shape
    draw = lambda channels, cells: F.interpolate(  # noqa: E731
        torch.randn(batch, channels, cells, cells, generator=generator, device=generator.device).to(lines),
        (height, width),
        mode="bicubic",
        align_corners=True,
    )
    identity = torch.eye(2, 3, device=lines.device).expand(batch, 2, 3)
    grid = F.affine_grid(identity, [batch, 1, height, width], align_corners=False)
    moved = F.grid_sample(lines, grid + 0.025 * draw(2, 7).permute(0, 2, 3, 1), align_corners=False)
    return (moved > 0.3).float() * (draw(1, 12) > -1.4)
