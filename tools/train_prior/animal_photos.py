"""Photographs of the animals: lamps and shadows, plain and graded backgrounds, and a known bias towards the front."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from recdreamer.cameras import Cameras, camera_rays, orbit_cameras
from recdreamer.evaluation.animal_meshes import SIZE, Animal
from recdreamer.evaluation.animals import POSE_SHARES
from recdreamer.evaluation.figurines import sample_azimuths
from recdreamer.mesh.mesh import Mesh, vertex_normals
from recdreamer.rendering.ray_cast import MeshCaster

FOV_Y_DEG = 30.0
DISTANCE = 3.5
ELEVATION_DEG = (0.0, 25.0)
MAX_LAYERS = 4
"""Transparent surfaces, such as the edge of a mane, that a ray passes."""


@dataclass(frozen=True)
class AnimalPhotos:
    """Pictures with their ground truth."""

    images: UInt8[Tensor, "pictures 3 height width"]
    azimuth_deg: Float[Tensor, "pictures"]
    look: Int[Tensor, "pictures"]
    """Index into `Menagerie.looks`."""


@dataclass(frozen=True)
class Lights:
    """One lamp, the sky, and a light beside the camera for each picture."""

    direction: Float[Tensor, "pictures 3"]
    """Towards the lamp."""
    lamp: Float[Tensor, "pictures"]
    sky: Float[Tensor, "pictures"]
    camera: Float[Tensor, "pictures"]
    has_shadows: Tensor


class Standing:
    """One animal on a device, ready to be seen: its mesh with smooth normals, and the texture of one coat."""

    def __init__(self, animal: Animal, device: torch.device | str) -> None:
        self.animal, self.device = animal, torch.device(device)
        self.verts = (animal.verts * SIZE).astype(np.float32)

    @cached_property
    def caster(self) -> MeshCaster:
        return MeshCaster(self.verts, self.animal.faces, self.device)

    @cached_property
    def corners(self) -> tuple[Tensor, Tensor]:
        """UVs and normals of each face's corners."""
        normals = vertex_normals(_welded(self.verts, self.animal.faces))[self.animal.faces.ravel()]
        return (
            torch.from_numpy(np.ascontiguousarray(self.animal.uvs, np.float32)).to(self.device),
            torch.from_numpy(normals.reshape(-1, 3, 3).astype(np.float32)).to(self.device),
        )

    @cached_property
    def textures(self) -> dict[str, Tensor]:
        return {
            coat: torch.from_numpy(texture.astype(np.float32) / 255).permute(2, 0, 1)[None].to(self.device)
            for coat, texture in self.animal.coats.items()
        }

    def see(
        self, coat: str, rays_o: Float[Tensor, "rays 3"], rays_d: Float[Tensor, "rays 3"]
    ) -> tuple[Tensor, Float[Tensor, "rays 3"], Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]]:
        """Which rays hit, and where: colours, normals towards the viewer, points."""
        uvs, normals = self.corners
        count = len(rays_o)
        color, normal = torch.zeros(count, 3, device=self.device), torch.zeros(count, 3, device=self.device)
        point, is_hit = torch.zeros_like(color), torch.zeros(count, dtype=torch.bool, device=self.device)
        left, origin = torch.arange(count, device=self.device), rays_o
        for _ in range(MAX_LAYERS):
            face, weights, distance = self.caster.cast(origin, rays_d[left])
            hits = face >= 0
            left, origin, face, weights = left[hits], origin[hits], face[hits].long(), weights[hits]
            if not len(left):
                break
            at = origin + distance[hits, None] * rays_d[left]
            seen = _looked_up(self.textures[coat], torch.einsum("rc,rcd->rd", weights, uvs[face]))
            shown = seen[:, 3] >= 0.5
            rows = left[shown]
            is_hit[rows], color[rows], point[rows] = True, seen[shown, :3], at[shown]
            towards = torch.einsum("rc,rcd->rd", weights, normals[face])[shown]
            towards = F.normalize(towards, dim=-1)
            # Thin parts such as ears are single sheets, seen from both sides.
            facing = (towards * rays_d[rows]).sum(-1, keepdim=True)
            normal[rows] = torch.where(facing > 0.2, -towards, towards)
            left, origin = left[~shown], at[~shown] + 1e-4 * rays_d[left[~shown]]
        return is_hit, color, normal, point

    def is_lit(self, point: Float[Tensor, "rays 3"], towards: Float[Tensor, "rays 3"]) -> Tensor:
        """Whether nothing stands between a point and a lamp."""
        return self.caster.cast(point + 0.01 * towards, towards)[0] < 0


def _welded(verts: np.ndarray, faces: np.ndarray) -> Mesh:
    """The mesh for its normals: vertices that lie in one place are one, whatever their UVs."""
    _, first, inverse = np.unique(np.round(verts, 5), axis=0, return_index=True, return_inverse=True)
    return Mesh(verts, first[inverse.reshape(-1)][faces].astype(np.int32), None)


def _looked_up(
    texture: Float[Tensor, "1 4 height width"], uvs: Float[Tensor, "rays 2"]
) -> Float[Tensor, "rays 4"]:
    """Bilinear; UVs repeat, and v points up."""
    uvs = uvs % 1
    places = torch.stack((2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]), -1)
    return F.grid_sample(texture, places[None, None], padding_mode="border", align_corners=False)[0, :, 0].T


class Menagerie:
    """All animals on a device. A look is a kind with a coat."""

    def __init__(self, animals: list[Animal], device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.standing = [Standing(animal, device) for animal in animals]
        self.places = [(k, coat) for k, animal in enumerate(animals) for coat in animal.coats]
        self.looks = [(animals[k].kind, coat) for k, coat in self.places]

    def photograph(
        self,
        looks: Int[Tensor, "pictures"],
        generator: torch.Generator,
        size_px: int = 128,
        shares: dict[str, float] | None = None,
        oversampling: int = 2,
    ) -> AnimalPhotos:
        """One picture of each look. `shares` of the poses default to the bias. The generator is of the CPU."""
        return self._photograph(looks, generator, size_px, shares, oversampling, None)[0]

    def photograph_pairs(
        self, looks: Int[Tensor, "pictures"], generator: torch.Generator, size_px: int = 128
    ) -> tuple[UInt8[Tensor, "pictures 3 height width"], UInt8[Tensor, "pictures 3 height width"]]:
        """Pictures from all sides alike, and the same views of the animals as models of clay or in other paint.

        Lights and background differ within a pair, the camera does not.
        """
        draw = torch.rand(len(looks), 5, generator=generator)
        gray = 0.3 + 0.6 * draw[:, :1].expand(-1, 3)
        paint = torch.where(draw[:, 4:] < 0.6, gray, 0.1 + 0.85 * draw[:, 1:4])
        alike = dict.fromkeys(POSE_SHARES, 1 / len(POSE_SHARES))
        photos, models = self._photograph(looks, generator, size_px, alike, 2, paint)
        return photos.images, models.images

    def _photograph(
        self, looks: Int[Tensor, "pictures"], generator: torch.Generator, size_px: int,
        shares: dict[str, float] | None, oversampling: int, paint: Float[Tensor, "pictures 3"] | None,
    ) -> list[AnimalPhotos]:  # fmt: skip
        """The photographs, and with `paint` as a second element the same views in that colour and in other light."""
        count = len(looks)
        azimuth_deg = sample_azimuths(count, generator, "cpu", shares or POSE_SHARES)
        uniform = lambda low, high: low + (high - low) * torch.rand(count, generator=generator)  # noqa: E731
        elevation_deg, zoom = uniform(*ELEVATION_DEG), uniform(0.0, 1.0)
        paints = [None] if paint is None else [None, paint]
        scenes = [
            (self._lights(count, generator), _grounds(count, generator, size_px * oversampling), one)
            for one in paints
        ]
        results = [
            torch.empty(count, 3, size_px, size_px, dtype=torch.uint8, device=self.device) for _ in scenes
        ]
        for look in looks.unique().tolist():
            rows = (looks == look).nonzero()[:, 0]
            index, coat = self.places[look]
            one = self.standing[index]
            for part in rows.split(at_once(size_px)):
                views = azimuth_deg[part], elevation_deg[part]
                distance = _framed(one.verts, *views, zoom[part])
                cameras = orbit_cameras(*(x.to(self.device) for x in (*views, distance)), FOV_Y_DEG)
                for images, (lights, ground, color) in zip(results, scenes, strict=True):
                    chosen = Lights(*(value[part].to(self.device) for value in vars(lights).values()))
                    painted = None if color is None else color[part].to(self.device)
                    picture = _picture(one, coat, cameras, chosen, ground[part].to(self.device), painted)
                    small = F.avg_pool2d(picture, oversampling)
                    images[part.to(self.device)] = (small * 255).round().byte()
        return [AnimalPhotos(images, azimuth_deg, looks) for images in results]

    def _lights(self, count: int, generator: torch.Generator) -> Lights:
        draw = torch.rand(count, 6, generator=generator)
        around, up = 2 * torch.pi * draw[:, 0], 0.35 + 0.6 * draw[:, 1]
        flat = (1 - up**2).sqrt()
        direction = torch.stack((flat * around.cos(), flat * around.sin(), up), -1)
        return Lights(
            direction, 0.15 + 0.35 * draw[:, 2], 0.5 + 0.15 * draw[:, 3], 0.15 * draw[:, 4], draw[:, 5] < 0.4
        )


def at_once(size_px: int) -> int:
    """Pictures of one look that are rendered together: what fits into memory.

    >>> at_once(128), at_once(512)
    (64, 4)
    """
    return max(1, 64 * 128**2 // size_px**2)


def _framed(verts: np.ndarray, azimuth_deg: Tensor, elevation_deg: Tensor, zoom: Tensor) -> Tensor:
    """Distance of cameras that look at the animal: DISTANCE at zoom 0; where it fills the picture at zoom 1."""
    near = orbit_cameras(azimuth_deg, elevation_deg, DISTANCE, FOV_Y_DEG)
    local = torch.einsum(
        "pvi,pij->pvj", torch.from_numpy(verts) - near.c2w[:, None, :3, 3], near.c2w[:, :3, :3]
    )
    reach = (local[..., :2].abs() / -local[..., 2:]).amax((1, 2)) / np.tan(np.radians(FOV_Y_DEG / 2))
    fitted = DISTANCE * reach / 0.85
    return torch.lerp(torch.full_like(fitted, DISTANCE), fitted, zoom)


def _grounds(count: int, generator: torch.Generator, size_px: int) -> Float[Tensor, "pictures 3 rows 1"]:
    """Backgrounds: half are plain, half are graded from top to bottom; greys with a tint."""
    draw = torch.rand(count, 9, generator=generator)
    gray = 0.35 + 0.6 * draw[:, :1]
    top = (gray + 0.12 * (draw[:, 1:4] - 0.5)).clamp(0, 1)
    bottom = (gray + 0.3 * (draw[:, 4:5] - 0.5) + 0.12 * (draw[:, 5:8] - 0.5)).clamp(0, 1)
    bottom = torch.where(draw[:, 8:9] < 0.5, top, bottom)
    rows = torch.linspace(0, 1, size_px)
    return torch.lerp(top[:, :, None], bottom[:, :, None], rows)[..., None]


def _picture(
    one: Standing, coat: str, cameras: Cameras, lights: Lights, ground: Float[Tensor, "pictures 3 rows 1"],
    paint: Float[Tensor, "pictures 3"] | None = None,
) -> Float[Tensor, "pictures 3 rows rows"]:  # fmt: skip
    pictures, size_px = len(cameras), ground.shape[2]
    rays_o, rays_d = (rays.reshape(-1, 3).contiguous() for rays in camera_rays(cameras, size_px, size_px))
    is_hit, color, normal, point = one.see(coat, rays_o, rays_d)
    per_ray = lambda values: values.repeat_interleave(size_px**2, 0)[is_hit]  # noqa: E731
    if paint is not None:
        color[is_hit] = per_ray(paint)
    towards, normal, seen = per_ray(lights.direction), normal[is_hit], rays_d[is_hit]
    lamp = per_ray(lights.lamp) * (normal * towards).sum(-1).clamp_min(0)
    hidden = per_ray(lights.has_shadows) & ~one.is_lit(point[is_hit], towards)
    sky = per_ray(lights.sky) * (0.8 + 0.2 * normal[:, 2])
    camera = per_ray(lights.camera) * -(normal * seen).sum(-1).clamp_max(0)
    image = ground.expand(-1, -1, -1, size_px).permute(0, 2, 3, 1).reshape(-1, 3).clone()
    image[is_hit] = (color[is_hit] * (sky + camera + torch.where(hidden, 0.0, lamp))[:, None] * 1.15).clamp(
        0, 1
    )
    return image.view(pictures, size_px, size_px, 3).permute(0, 3, 1, 2)
