"""The embedded world: procedural figurines made of ellipsoids and boxes, ray-cast with known pose.

The embedded prior was trained on these pictures only, and results are measured against these figures. They stand in
[-1, 1]^3, Z up, and face -Y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cameras import Cameras, camera_rays, orbit_cameras
from recdreamer.presets import EMBEDDED_CAMERAS

KINDS = ("bear", "bird", "robot", "rabbit")
COLORS = {
    "red": (0.84, 0.12, 0.11),
    "green": (0.12, 0.58, 0.17),
    "blue": (0.13, 0.26, 0.84),
    "yellow": (0.95, 0.80, 0.12),
    "purple": (0.54, 0.17, 0.70),
    "teal": (0.08, 0.62, 0.62),
}
POSES = ("front", "right", "back", "left")
"""Pose classes in the order of their azimuth: 0, 90, 180, 270 degrees; see protocol.py for left and right."""

POSE_SHARES = {"front": 0.65, "right": 0.10, "back": 0.15, "left": 0.10}
"""A deliberate bias: the share of each pose class in the training pictures."""
PARTY_HAT_SHARE = 0.8
"""A second bias: the share of figures "at a party" that wear a hat. Elsewhere they wear none."""

_BLACK, _WHITE, _GREY = (0.05, 0.05, 0.06), (0.95, 0.95, 0.92), (0.42, 0.45, 0.50)
_ORANGE, _BROWN, _PINK = (0.98, 0.55, 0.06), (0.36, 0.20, 0.09), (0.98, 0.55, 0.62)
_RED, _CYAN, _GOLD = (0.92, 0.10, 0.10), (0.20, 0.92, 0.98), (0.96, 0.74, 0.16)

_Part = tuple[str, tuple, tuple, int, tuple | None]
# (shape, centre, radii or half sides, pitch in degrees about X, colour; None = the figure's own colour).
# A part with its centre at x > 0 also has a mirror image.
_PARTS: dict[str, list[_Part]] = {
    "bear": [
        ("ball", (0, 0.02, -0.30), (0.37, 0.32, 0.40), 0, None),
        ("ball", (0, -0.14, -0.30), (0.27, 0.24, 0.30), 0, _WHITE),
        ("ball", (0, 0, 0.36), (0.34, 0.30, 0.30), 0, None),
        ("ball", (0, -0.20, 0.29), (0.22, 0.19, 0.18), 0, _WHITE),
        ("ball", (0, -0.39, 0.34), (0.075, 0.06, 0.055), 0, _BLACK),
        ("ball", (0.14, -0.25, 0.46), (0.065, 0.06, 0.075), 0, _BLACK),
        ("ball", (0.27, 0.02, 0.63), (0.13, 0.08, 0.13), 0, None),
        ("ball", (0.27, -0.05, 0.63), (0.07, 0.04, 0.07), 0, _WHITE),
        ("ball", (0.42, -0.06, -0.18), (0.12, 0.14, 0.25), 0, None),
        ("ball", (0.19, -0.08, -0.68), (0.16, 0.21, 0.13), 0, None),
        ("box", (0, 0.40, -0.20), (0.24, 0.13, 0.27), 0, _BROWN),
        ("box", (0, 0.53, -0.28), (0.14, 0.05, 0.10), 0, _GOLD),
    ],
    "bird": [
        ("ball", (0, 0.02, -0.24), (0.34, 0.36, 0.44), 0, None),
        ("ball", (0, -0.15, -0.26), (0.26, 0.25, 0.34), 0, _WHITE),
        ("ball", (0, -0.02, 0.40), (0.27, 0.27, 0.26), 0, None),
        ("ball", (0, -0.14, 0.39), (0.22, 0.18, 0.19), 0, _WHITE),
        ("ball", (0, -0.38, 0.34), (0.10, 0.21, 0.065), 0, _ORANGE),
        ("ball", (0.12, -0.28, 0.47), (0.06, 0.055, 0.07), 0, _BLACK),
        ("ball", (0, 0.02, 0.68), (0.04, 0.13, 0.11), 0, _RED),
        ("ball", (0.35, 0.08, -0.20), (0.07, 0.24, 0.31), 0, _BLACK),
        ("ball", (0, 0.52, -0.30), (0.15, 0.32, 0.06), 25, _BLACK),
        ("ball", (0.14, -0.10, -0.70), (0.11, 0.18, 0.06), 0, _ORANGE),
    ],
    "robot": [
        ("box", (0, 0, -0.24), (0.34, 0.23, 0.33), 0, None),
        ("box", (0, 0, 0.34), (0.27, 0.22, 0.22), 0, None),
        ("box", (0, -0.21, 0.37), (0.22, 0.05, 0.12), 0, _BLACK),
        ("ball", (0.10, -0.255, 0.37), (0.06, 0.04, 0.06), 0, _CYAN),
        ("box", (0, -0.23, -0.20), (0.20, 0.03, 0.17), 0, _WHITE),
        ("ball", (0, -0.26, -0.20), (0.09, 0.05, 0.09), 0, _RED),
        ("ball", (0.43, 0, -0.24), (0.09, 0.11, 0.27), 0, _GREY),
        ("box", (0.17, 0, -0.68), (0.11, 0.16, 0.12), 0, _GREY),
        ("box", (0, 0, 0.63), (0.025, 0.025, 0.09), 0, _GREY),
        ("ball", (0, 0, 0.74), (0.07, 0.07, 0.07), 0, _RED),
        ("box", (0, 0.33, -0.16), (0.23, 0.12, 0.24), 0, _GREY),
        ("ball", (0.12, 0.34, -0.48), (0.07, 0.07, 0.12), 0, _ORANGE),
    ],
    "rabbit": [
        ("ball", (0, 0.04, -0.36), (0.32, 0.31, 0.36), 0, None),
        ("ball", (0, -0.12, -0.36), (0.23, 0.23, 0.27), 0, _WHITE),
        ("ball", (0, -0.02, 0.14), (0.28, 0.26, 0.25), 0, None),
        ("ball", (0, -0.20, 0.06), (0.19, 0.15, 0.13), 0, _WHITE),
        ("ball", (0, -0.34, 0.11), (0.06, 0.05, 0.045), 0, _PINK),
        ("ball", (0.13, -0.23, 0.23), (0.06, 0.055, 0.075), 0, _BLACK),
        ("box", (0, -0.30, -0.05), (0.055, 0.03, 0.06), 0, _WHITE),
        ("ball", (0.13, 0.04, 0.54), (0.085, 0.06, 0.27), 0, None),
        ("ball", (0.13, -0.01, 0.54), (0.05, 0.035, 0.20), 0, _PINK),
        ("ball", (0.31, -0.12, -0.26), (0.09, 0.13, 0.19), 0, None),
        ("ball", (0.17, -0.14, -0.67), (0.12, 0.25, 0.09), 0, None),
        ("ball", (0, 0.40, -0.44), (0.17, 0.17, 0.17), 0, _WHITE),
    ],
}

_ON_HEAD = {"bear": (6, 7), "bird": (6,), "robot": (8, 9), "rabbit": (7, 8)}
"""Which of its parts are a kind's ears, crest or antenna."""

# Position of a hat's brim on the head of each kind.
_BRIM = {"bear": (0, 0, 0.64), "bird": (0, -0.02, 0.64), "robot": (0, 0, 0.57), "rabbit": (0, -0.05, 0.37)}
_HAT: list[_Part] = [
    ("box", (0, 0, 0), (0.27, 0.27, 0.03), 0, _BLACK),
    ("box", (0, 0, 0.07), (0.19, 0.19, 0.05), 0, _GOLD),
    ("box", (0, 0, 0.20), (0.18, 0.18, 0.09), 0, _BLACK),
]


@dataclass(frozen=True)
class Figurines:
    """A batch of figures as padded lists of parts; absent parts have radius zero."""

    centers: Float[Tensor, "batch parts 3"]
    radii: Float[Tensor, "batch parts 3"]
    pitch_rad: Float[Tensor, "batch parts"]
    is_box: Float[Tensor, "batch parts"]
    colors: Float[Tensor, "batch parts 3"]

    @staticmethod
    def of(
        kind: Int[Tensor, "batch"], color: Int[Tensor, "batch"], hat: Int[Tensor, "batch"] | None = None
    ) -> Figurines:
        """The standard figures of these kinds (index into KINDS), colours (index into COLORS) and hats (0 or 1)."""
        lists = [
            _mirrored_parts(_PARTS[kind] + (_hat_of(kind) if has_hat else []), own_color)
            for has_hat in (False, True)
            for kind in KINDS
            for own_color in COLORS.values()
        ]
        longest = max(map(len, lists))
        empty = (0.0,) * 11
        table = torch.tensor(
            [parts + [empty] * (longest - len(parts)) for parts in lists], device=kind.device
        )
        bare = kind * len(COLORS) + color
        table = table[bare if hat is None else bare + len(KINDS) * len(COLORS) * hat]
        return Figurines(table[..., 0:3], table[..., 3:6], table[..., 6], table[..., 7], table[..., 8:11])

    def varied(self, generator: torch.Generator) -> Figurines:
        """The same figures with slightly different proportions, colours and positions."""
        device, batch = self.centers.device, len(self.centers)
        scale = 1 + 0.05 * _uniform(generator, (batch, 1, 3), device)
        shift = 0.03 * _uniform(generator, (batch, 1, 3), device)
        tint = 1 + 0.06 * _uniform(generator, (batch, 1, 3), device)
        return Figurines(
            self.centers * scale + shift,
            self.radii * scale,
            self.pitch_rad,
            self.is_box,
            (self.colors * tint).clamp(0, 1),
        )


def _mirrored_parts(parts: list[_Part], own_color: tuple[float, float, float]) -> list[tuple[float, ...]]:
    rows = []
    for shape, center, radii, pitch_deg, color in parts:
        for side in (1, -1) if center[0] > 0 else (1,):
            place = (side * center[0], center[1], center[2])
            row = (*place, *radii, math.radians(pitch_deg), shape == "box", *(color or own_color))
            rows.append(tuple(map(float, row)))
    return rows


def rows_on_head(kind: str) -> list[int]:
    """Which parts of `Figurines.of` are a kind's ears, crest or antenna.

    >>> len(rows_on_head("bear")), len(rows_on_head("bird"))  # Two ears, each with its inside; one crest.
    (4, 1)
    """
    owners = [k for k, part in enumerate(_PARTS[kind]) for _ in range(1 + (part[1][0] > 0))]
    return [row for row, owner in enumerate(owners) if owner in _ON_HEAD[kind]]


def _hat_of(kind: str) -> list[_Part]:
    x, y, z = _BRIM[kind]
    return [
        (shape, (x + center[0], y + center[1], z + center[2]), radii, pitch_deg, color)
        for shape, center, radii, pitch_deg, color in _HAT
    ]


def _uniform(generator: torch.Generator, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform in [-1, 1], drawn on the generator's device."""
    return (2 * torch.rand(shape, generator=generator, device=generator.device) - 1).to(device)


def render_figurines(
    figures: Figurines,
    cameras: Cameras,
    size_px: int,
    ground: Float[Tensor, "batch 3"],
    oversampling: int = 2,
) -> Float[Tensor, "batch 3 size_px size_px"]:
    """One picture of each figure from its own camera, [0, 1], in front of a plain background.

    Light comes from above and a little from the camera, so only the figure itself reveals its side.
    """
    fine_px = size_px * oversampling
    rays_o, rays_d = (rays.flatten(1, 2) for rays in camera_rays(cameras, fine_px, fine_px))
    depth, normals, colors = nearest_hit(figures, rays_o, rays_d)
    facing = -(normals * rays_d).sum(-1, keepdim=True)
    shade = 0.74 + 0.20 * normals[..., 2:3] + 0.08 * facing
    image = torch.where(depth[..., None].isfinite(), (colors * shade).clamp(0, 1), ground[:, None])
    image = image.unflatten(1, (fine_px, fine_px)).permute(0, 3, 1, 2)
    return torch.nn.functional.avg_pool2d(image, oversampling)


def nearest_hit(
    figures: Figurines, rays_o: Float[Tensor, "batch rays 3"], rays_d: Float[Tensor, "batch rays 3"]
) -> tuple[Float[Tensor, "batch rays"], Float[Tensor, "batch rays 3"], Float[Tensor, "batch rays 3"]]:
    """Distance (inf for a miss), outward normal and colour of the first part that each ray hits."""
    depth = torch.full(rays_o.shape[:2], math.inf, device=rays_o.device)
    nearest = torch.zeros(rays_o.shape[:2], dtype=torch.long, device=rays_o.device)
    for part in range(figures.centers.shape[1]):
        local_o, local_d, _ = _to_part(figures, part, rays_o, rays_d)
        box = figures.is_box[:, part, None] > 0
        t = torch.where(box, _box_distance(local_o, local_d), _ball_distance(local_o, local_d))
        closer = t < depth
        depth = torch.where(closer, t, depth)
        nearest = torch.where(closer, part, nearest)

    rows = torch.arange(len(rays_o), device=rays_o.device)[:, None]
    chosen = Figurines(
        figures.centers[rows, nearest], figures.radii[rows, nearest], figures.pitch_rad[rows, nearest],
        figures.is_box[rows, nearest], figures.colors[rows, nearest],
    )  # fmt: skip
    hit = rays_o + rays_d * depth.nan_to_num(posinf=0.0)[..., None]
    local = _rotate_x(hit - chosen.centers, -chosen.pitch_rad) / chosen.radii.clamp_min(1e-6)
    # A box's normal is the axis of its outermost coordinate; a ball's is the gradient of its quadric.
    flat = torch.nn.functional.one_hot(local.abs().argmax(-1), 3) * local.sign()
    round_ = local / chosen.radii.clamp_min(1e-6)
    normals = torch.where(chosen.is_box[..., None] > 0, flat, round_)
    normals = torch.nn.functional.normalize(_rotate_x(normals, chosen.pitch_rad), dim=-1)
    return depth, normals, chosen.colors


def _to_part(
    figures: Figurines,
    part: int,
    rays_o: Float[Tensor, "batch rays 3"],
    rays_d: Float[Tensor, "batch rays 3"],
) -> tuple[Float[Tensor, "batch rays 3"], Float[Tensor, "batch rays 3"], Float[Tensor, "batch 1"]]:
    """Rays in the frame in which the part is the unit ball or the cube [-1, 1]^3; ray parameters stay the same."""
    angle = -figures.pitch_rad[:, part, None]
    radii = figures.radii[:, part, None].clamp_min(1e-6)
    local_o = _rotate_x(rays_o - figures.centers[:, part, None], angle) / radii
    return local_o, _rotate_x(rays_d, angle) / radii, angle


def _rotate_x(
    vectors: Float[Tensor, "*batch 3"], angle: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch 3"]:
    x, y, z = vectors.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((x, cos * y - sin * z, sin * y + cos * z), dim=-1)


def _ball_distance(local_o: Tensor, local_d: Tensor) -> Tensor:
    a = (local_d * local_d).sum(-1)
    b = (local_o * local_d).sum(-1)
    c = (local_o * local_o).sum(-1) - 1
    discriminant = b * b - a * c
    t = (-b - discriminant.clamp_min(0).sqrt()) / a
    return torch.where((discriminant > 0) & (t > 0), t, math.inf)


def _box_distance(local_o: Tensor, local_d: Tensor) -> Tensor:
    inverse = 1 / torch.where(local_d.abs() < 1e-9, 1e-9, local_d)
    first, second = (-1 - local_o) * inverse, (1 - local_o) * inverse
    near = torch.minimum(first, second).amax(-1)
    far = torch.maximum(first, second).amin(-1)
    return torch.where((near < far) & (near > 0), near, math.inf)


def pose_class(azimuth_deg: Float[Tensor, "batch"]) -> Int[Tensor, "batch"]:
    """Index into POSES of the class with the nearest centre."""
    return (((azimuth_deg + 45) % 360) // 90).long()


def sample_azimuths(
    count: int, generator: torch.Generator, device: torch.device | str, shares: dict[str, float]
) -> Float[Tensor, "count"]:
    """Azimuths in degrees: a class by its share, then 80 % near its centre (sd 15) and 20 % uniform within it."""
    draw = torch.rand(count, generator=generator, device=generator.device)
    bounds = torch.tensor([shares[pose] for pose in POSES], device=generator.device).cumsum(0)
    chosen = torch.searchsorted(bounds / bounds[-1], draw).clamp_max(len(POSES) - 1)
    near = 15 * torch.randn(count, generator=generator, device=generator.device)
    anywhere = 45 * (2 * torch.rand(count, generator=generator, device=generator.device) - 1)
    is_near = torch.rand(count, generator=generator, device=generator.device) < 0.8
    offset = torch.where(is_near, near.clamp(-44.9, 44.9), anywhere)
    return ((90 * chosen + offset) % 360).to(device)


def sample_grounds(
    count: int, generator: torch.Generator, device: torch.device | str
) -> Float[Tensor, "count 3"]:
    """Plain backgrounds as in the training pictures: light greys with a slight tint."""
    grey = 0.80 + 0.12 * (2 * torch.rand((count, 1), generator=generator, device=generator.device) - 1)
    tint = 0.05 * (2 * torch.rand((count, 3), generator=generator, device=generator.device) - 1)
    return (grey + tint).clamp(0, 1).to(device)


@dataclass(frozen=True)
class Photos:
    """Pictures of figurines with their ground truth."""

    images: Float[Tensor, "batch 3 height width"]
    azimuth_deg: Float[Tensor, "batch"]
    kind: Int[Tensor, "batch"]
    """Index into KINDS."""
    color: Int[Tensor, "batch"]
    """Index into COLORS."""
    hat: Int[Tensor, "batch"]
    """1 if the figure wears one."""


def photograph(
    count: int, generator: torch.Generator, device: torch.device | str = "cpu", size_px: int = 64,
    shares: dict[str, float] | None = None, hat_share: float = 0.0,
) -> Photos:  # fmt: skip
    """Random figurines from random cameras; `shares` defaults to the front-biased distribution of poses."""
    pick = lambda n: torch.randint(n, (count,), generator=generator, device=generator.device)  # noqa: E731
    kind, color = pick(len(KINDS)), pick(len(COLORS))
    kind, color = kind.to(device), color.to(device)
    hat = (torch.rand(count, generator=generator, device=generator.device) < hat_share).long().to(device)
    figures = Figurines.of(kind, color, hat)
    azimuth_deg = sample_azimuths(count, generator, device, shares or POSE_SHARES)
    low, high = EMBEDDED_CAMERAS.elevation_deg
    elevation = low + (high - low) * torch.rand(count, generator=generator, device=generator.device)
    cameras = orbit_cameras(
        azimuth_deg, elevation.to(device), EMBEDDED_CAMERAS.distance[0], EMBEDDED_CAMERAS.fov_y_deg[0]
    )
    ground = sample_grounds(count, generator, device)
    images = render_figurines(figures.varied(generator), cameras, size_px, ground)
    return Photos(images, azimuth_deg, kind, color, hat)
