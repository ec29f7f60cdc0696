"""Cameras that orbit the scene, and the rays through their pixels.

The world is Blender's: Z up, the object faces -Y. Azimuth counts counter-clockwise seen from above,
0 = camera at -Y (front), 90 = at +X (right), 180 = at +Y (back), 270 = at -X (left). `c2w` has OpenGL
axes: the camera looks down its -Z, +Y is up in the image and +X is to the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.parallel.view_shares import Share

Range = tuple[float, float]
Angle = TypeVar("Angle", float, Tensor)


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras with square pixels."""

    c2w: Float[Tensor, "views 4 4"]
    fov_y_rad: Float[Tensor, "views"]
    azimuth_deg: Float[Tensor, "views"]
    elevation_deg: Float[Tensor, "views"]

    def __len__(self) -> int:
        return self.c2w.shape[0]

    @staticmethod
    def joined(parts: Sequence[Cameras]) -> Cameras:
        """All cameras, in order."""
        return Cameras(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Cameras)))

    def singly(self) -> list[Cameras]:
        """Each camera as a batch of its own."""
        return [
            Cameras(*(getattr(self, each.name)[index : index + 1] for each in fields(self)))
            for index in range(len(self))
        ]

    def of(self, share: Share) -> Cameras:
        """The cameras of this process's views, from those of all."""
        return Cameras(*(share.own(getattr(self, each.name)) for each in fields(self)))

    def copied(self) -> Cameras:
        """The same in memory of its own, from which a recording can read."""
        return Cameras(*(getattr(self, each.name).clone() for each in fields(self)))

    def fill(self, others: Cameras) -> None:
        """Take over as many others, in the same memory."""
        for each in fields(self):
            getattr(self, each.name).copy_(getattr(others, each.name))


@dataclass(frozen=True)
class CameraConfig:
    """Ranges from which training cameras are drawn, each uniformly."""

    elevation_deg: Range = (-10.0, 45.0)
    """Above the horizon."""
    distance: Range = (2.2, 2.8)
    """From the centre of the scene, in scene units. ProlificDreamer: 1 to 1.5, inside of the cube, where an object that
    a job starts from (`StartConfig.half_size`) would not fit into the picture. From here it just does, and the initial
    blob covers as much as theirs does; see `FieldConfig.blob_radius`."""
    fov_y_deg: Range = (40.0, 50.0)
    """Full vertical angle of view."""
    azimuth_deg: Range = (0.0, 360.0)
    """Divided into one slice per view, all equally likely."""
    azimuth_jitter: Literal["own", "shared", "antithetic"] = "own"
    """Where a view is in its slice: drawn for each; drawn once for all, which leaves equal distances between them; or
    drawn for each pair of neighbors, mirrored in the second, so that their mean is that of the circle."""
    azimuth_probs: tuple[float, ...] = ()
    """Relative frequency of the bins of `azimuth_deg`; empty is uniform. Four bins are centred on front, right, back
    and left (q-sampling, the ablation of Fig. 9)."""


def angle_difference(a_deg: Angle, b_deg: Angle | float) -> Angle:
    """The turn from `b_deg` to `a_deg` the short way round, in [-180, 180).

    >>> angle_difference(10.0, 350.0), angle_difference(350.0, 10.0)
    (20.0, -20.0)
    """
    return (a_deg - b_deg + 180) % 360 - 180


def orbit_cameras(
    azimuth_deg: Float[Tensor, "views"],
    elevation_deg: Float[Tensor, "views"],
    distance: float | Float[Tensor, "views"],
    fov_y_deg: float | Float[Tensor, "views"],
) -> Cameras:
    """Cameras on a sphere around the origin, looking at it; device and dtype follow `azimuth_deg`.

    Well defined even at the poles: the image's right axis depends on the azimuth alone.

    >>> right = orbit_cameras(torch.tensor([90.0]), torch.tensor([0.0]), 4.0, 30.0)
    >>> right.c2w[0, :3, 3].round().int().tolist()
    [4, 0, 0]
    """
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    distance = torch.as_tensor(distance, device=azimuth.device, dtype=azimuth.dtype).expand_as(azimuth)
    fov_y_deg = torch.as_tensor(fov_y_deg, device=azimuth.device, dtype=azimuth.dtype).expand_as(azimuth)

    zeros = torch.zeros_like(azimuth)
    right = torch.stack([azimuth.cos(), azimuth.sin(), zeros], dim=-1)
    backward = torch.stack(
        [elevation.cos() * azimuth.sin(), -elevation.cos() * azimuth.cos(), elevation.sin()], dim=-1
    )
    up = torch.linalg.cross(backward, right)
    c2w = torch.eye(4, device=azimuth.device, dtype=azimuth.dtype).repeat(azimuth.shape[0], 1, 1)
    c2w[:, :3] = torch.stack([right, up, backward, distance[:, None] * backward], dim=-1)
    return Cameras(c2w, torch.deg2rad(fov_y_deg), azimuth_deg, elevation_deg)


def sample_cameras(
    config: CameraConfig, num_views: int, generator: torch.Generator, device: torch.device | str
) -> Cameras:
    """Random training cameras: view k has a random azimuth in the k-th slice of the circle.

    The slices spread every batch around the object; azimuths are uniform, or follow `azimuth_probs` bin by bin.

    >>> views = sample_cameras(CameraConfig(), 4, torch.Generator().manual_seed(0), "cpu")
    >>> (views.azimuth_deg // 90).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """

    def uniform(low: float, high: float) -> Float[Tensor, "views"]:
        return low + (high - low) * torch.rand(num_views, generator=generator, device=generator.device)

    low, high = config.azimuth_deg
    slices = torch.arange(num_views, device=generator.device)
    slices = slices + _jitter(uniform(0.0, 1.0), config.azimuth_jitter)
    shares = slices / num_views
    if config.azimuth_probs:
        shares = _within_bins(shares, config.azimuth_probs)
    azimuth_deg = low + (high - low) * shares
    elevation_deg = uniform(*config.elevation_deg)
    distance, fov_y_deg = uniform(*config.distance), uniform(*config.fov_y_deg)
    return orbit_cameras(
        azimuth_deg.to(device), elevation_deg.to(device), distance.to(device), fov_y_deg.to(device)
    )


def _jitter(
    draws: Float[Tensor, "views"], kind: Literal["own", "shared", "antithetic"]
) -> Float[Tensor, "views"]:
    """The place of each view in its slice, from a draw in [0, 1) for each.

    >>> draws = torch.tensor([0.25, 0.75, 0.5])
    >>> [_jitter(draws, kind).tolist() for kind in ("shared", "antithetic")]
    [[0.25, 0.25, 0.25], [0.25, 0.75, 0.5]]
    """
    if kind == "shared":
        return draws[:1].expand_as(draws)
    if kind == "antithetic":
        firsts = draws[0::2].repeat_interleave(2)[: len(draws)]
        is_second = torch.arange(len(draws), device=draws.device) % 2 == 1
        return torch.where(is_second, 1 - firsts, firsts)
    return draws


def close_ups(cameras: Cameras, targets: Float[Tensor, "views 3"], zoom: float) -> Cameras:
    """Cameras at the same positions, each turned to a target, which appears `zoom` times as large.

    Half of a 90 degree view is tan⁻¹(1); at zoom 2 it becomes tan⁻¹(1/2) = 26.57 degrees.

    >>> front = orbit_cameras(torch.zeros(1), torch.zeros(1), 4.0, 90.0)
    >>> near = close_ups(front, torch.zeros(1, 3), zoom=2.0)
    >>> round(torch.rad2deg(near.fov_y_rad).item(), 2)
    53.13
    """
    backward = torch.nn.functional.normalize(cameras.c2w[:, :3, 3] - targets, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(cameras.c2w[:, :3, 1], backward), dim=-1)
    c2w = cameras.c2w.clone()
    c2w[:, :3, :3] = torch.stack([right, torch.linalg.cross(backward, right), backward], dim=-1)
    narrowed = 2 * torch.atan(torch.tan(0.5 * cameras.fov_y_rad) / zoom)
    return replace(cameras, c2w=c2w, fov_y_rad=narrowed)


def _within_bins(shares: Float[Tensor, "views"], probs: tuple[float, ...]) -> Float[Tensor, "views"]:
    """Map uniform shares of the circle to shares that hit each bin with its probability.

    The first bin is centred on 0, as in the released code.
    """
    # Filled where they are used: a copy from the host would wait for the device.
    weights = torch.stack([shares.new_full((), prob) for prob in probs])
    ends = (weights / weights.sum()).cumsum(0)
    starts = ends - weights / weights.sum()
    index = torch.searchsorted(ends, shares, right=True).clamp_max(len(probs) - 1)
    inside = (shares - starts[index]) / (ends - starts)[index].clamp_min(1e-12)
    return (index + inside - 0.5) / len(probs) % 1.0


def camera_rays(
    cameras: Cameras, height: int, width: int
) -> tuple[Float[Tensor, "views height width 3"], Float[Tensor, "views height width 3"]]:
    """Origins and unit directions of the rays through the pixel centres; row 0 is the top.

    The upper left of 2 × 2 pixels in a 90 degree view, per unit of depth (+Y):

    >>> front = orbit_cameras(torch.zeros(1), torch.zeros(1), 4.0, 90.0)
    >>> _, rays_d = camera_rays(front, 2, 2)
    >>> [round(x, 3) for x in (rays_d[0, 0, 0] / rays_d[0, 0, 0, 1]).tolist()]
    [-0.5, 1.0, 0.5]
    """
    c2w = cameras.c2w
    half_height = torch.tan(0.5 * cameras.fov_y_rad)[:, None, None]
    rows = torch.arange(height, device=c2w.device, dtype=c2w.dtype)
    columns = torch.arange(width, device=c2w.device, dtype=c2w.dtype)
    y = half_height * (1 - 2 * (rows[:, None] + 0.5) / height)
    x = half_height * (2 * (columns + 0.5) - width) / height
    x, y = torch.broadcast_tensors(x, y)
    rays_d = torch.einsum("vij,vhwj->vhwi", c2w[:, :3, :3], torch.stack([x, y, -torch.ones_like(x)], dim=-1))
    rays_o = c2w[:, None, None, :3, 3].expand_as(rays_d)
    return rays_o, torch.nn.functional.normalize(rays_d, dim=-1)


def orbit(num_views: int, config: CameraConfig, device: torch.device, first_deg: float = 0.0) -> Cameras:
    """Evenly spaced cameras at the midpoints of the configured ranges.

    >>> orbit(4, CameraConfig(), torch.device("cpu"), first_deg=45.0).azimuth_deg.tolist()
    [45.0, 135.0, 225.0, 315.0]
    """
    middle = lambda bounds: sum(bounds) / 2  # noqa: E731
    azimuth_deg = first_deg + torch.arange(num_views, device=device) * (360.0 / num_views)
    elevation_deg = torch.full((num_views,), middle(config.elevation_deg), device=device)
    return orbit_cameras(azimuth_deg, elevation_deg, middle(config.distance), middle(config.fov_y_deg))
