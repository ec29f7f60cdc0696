"""Pictures of a textured mesh from the cameras of the embedded world, for comparison with the true figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from recdreamer.cameras import Cameras, camera_rays, orbit_cameras
from recdreamer.evaluation.figurines import Figurines, render_figurines
from recdreamer.images import write_sheet
from recdreamer.mesh.baked_texture import Tiles
from recdreamer.mesh.mesh import Mesh, vertex_normals
from recdreamer.mesh.raster import tiles_of_faces, uvs_in_tile
from recdreamer.presets import EMBEDDED_CAMERAS
from recdreamer.rendering.ray_cast import MeshCaster

NUM_VIEWS = 12
BACKGROUND = 0.8
"""Grey behind the figure: the middle of the range in the embedded prior's pictures."""
OVERSAMPLING = 2
CLAY = 0.78


@dataclass(frozen=True)
class MeshViews:
    textured: Float[Tensor, "views 3 size_px size_px"]
    """The colours of the texture, unshaded, because they include the light."""
    clay: Float[Tensor, "views 3 size_px size_px"]
    """Plain grey with light from above and from the camera, which shows only the shape."""


def mesh_colors(
    mesh: Mesh,
    tiles: Tiles,
    faces: Int[np.ndarray, "points"],
    weights: Float[np.ndarray, "points 3"],
) -> Float[np.ndarray, "points 3"]:
    """Colours in [0, 1] of a mesh at points of its faces, given by their barycentrics."""
    uvs = mesh.uvs_or_error()
    tile_of_point = tiles_of_faces(uvs)[faces]
    places = np.einsum("nc,ncd->nd", weights, uvs[faces])
    colors = np.empty((len(faces), 3))
    for tile in np.unique(tile_of_point).tolist():
        inside = tile_of_point == tile
        colors[inside] = texture_colors(tiles[tile], uvs_in_tile(places[inside], tile))
    return colors


def texture_colors(
    texture: UInt8[np.ndarray, "height width 3"], uvs: Float[np.ndarray, "points 2"]
) -> Float[np.ndarray, "points 3"]:
    """Bilinear lookup in [0, 1]; (0, 0) is the lower left corner, row 0 of the texture is the top."""
    height, width = texture.shape[:2]
    x, y = uvs[:, 0] * width - 0.5, (1 - uvs[:, 1]) * height - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    colors = np.zeros((len(uvs), 3))
    for down in (0, 1):
        for right in (0, 1):
            share = (x - left if right else left + 1 - x) * (y - top if down else top + 1 - y)
            rows, columns = (top + down).clip(0, height - 1), (left + right).clip(0, width - 1)
            colors += share[:, None] * texture[rows, columns]
    return colors / 255


def sheet_cameras(num_views: int = NUM_VIEWS) -> Cameras:
    """Evenly spaced around the figure, from the front on, at the middle elevation of the embedded world."""
    azimuth_deg = torch.arange(num_views) * (360.0 / num_views)
    elevation_deg = torch.full((num_views,), sum(EMBEDDED_CAMERAS.elevation_deg) / 2)
    return orbit_cameras(
        azimuth_deg, elevation_deg, EMBEDDED_CAMERAS.distance[0], EMBEDDED_CAMERAS.fov_y_deg[0]
    )


def mesh_views(mesh: Mesh, tiles: Tiles, cameras: Cameras, size_px: int) -> MeshViews:
    """Pictures of a mesh in scene units in front of a plain background, smoothed like the true renders."""
    return colored_views(
        mesh, lambda faces, weights: mesh_colors(mesh, tiles, faces, weights), cameras, size_px
    )


ColorAt = Callable[[Int[np.ndarray, "points"], Float[np.ndarray, "points 3"]], Float[np.ndarray, "points 3"]]
"""sRGB in [0, 1] at points of faces, given by their barycentrics."""


def colored_views(
    mesh: Mesh, color_at: ColorAt, cameras: Cameras, size_px: int, is_lit: bool = False
) -> MeshViews:
    """Like `mesh_views`, with any colours. `is_lit`: they get the light of the embedded world, which a texture that was
    distilled has already."""
    fine_px = size_px * OVERSAMPLING
    rays_o, rays_d = (rays.reshape(-1, 3) for rays in camera_rays(cameras, fine_px, fine_px))
    faces, barycentrics, _ = MeshCaster(mesh.verts, mesh.faces, "cpu").cast(rays_o, rays_d)
    is_hit = (faces >= 0).numpy()
    face, weights = faces.numpy()[is_hit], barycentrics.numpy()[is_hit]
    normals = np.einsum("nc,ncd->nd", weights, vertex_normals(mesh)[mesh.faces[face]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    facing = -(normals * rays_d.numpy()[is_hit]).sum(1).clip(-1, 0)
    clay = CLAY * (0.25 + 0.60 * facing + 0.15 * normals[:, 2])

    def picture(colors: np.ndarray) -> Tensor:
        pixels = np.full((len(is_hit), 3), BACKGROUND, np.float32)
        pixels[is_hit] = colors
        pictures = torch.from_numpy(pixels).view(len(cameras), fine_px, fine_px, 3).permute(0, 3, 1, 2)
        return torch.nn.functional.avg_pool2d(pictures, OVERSAMPLING)

    colors = color_at(face, weights)
    if is_lit:
        colors = (colors * (0.74 + 0.20 * normals[:, 2] + 0.08 * facing)[:, None]).clip(0, 1)
    return MeshViews(picture(colors), picture(clay[:, None]))


def true_views(figure: Figurines, cameras: Cameras, size_px: int) -> Float[Tensor, "views 3 size_px size_px"]:
    """Pictures of the figure in the style of `mesh_views`."""
    views = len(cameras)
    figures = Figurines(
        *(
            getattr(figure, name).expand(views, *getattr(figure, name).shape[1:])
            for name in ("centers", "radii", "pitch_rad", "is_box", "colors")
        )
    )
    return render_figurines(figures, cameras, size_px, torch.full((views, 3), BACKGROUND), OVERSAMPLING)


def psnr_db(
    pictures: Float[Tensor, "views 3 height width"], true: Float[Tensor, "views 3 height width"]
) -> float:
    """Peak signal-to-noise ratio of all views together, background included; capped at 100 for equal pictures."""
    return min(100.0, -10 * (pictures - true).square().mean().clamp_min(1e-12).log10().item())


def write_views(views: MeshViews, path: Path) -> None:
    """Write the textured views side by side, with the clay views below."""
    write_sheet(path, torch.cat((views.textured, views.clay)), len(views.textured))
