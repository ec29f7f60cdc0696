"""The true animals: their textured meshes, and what a job's mesh is compared with.

The meshes are no part of this project: `tools/train_prior/animals.py --fetch` writes the file that holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.evaluation.mesh_distance import SurfacePoints, mesh_surface
from recdreamer.evaluation.mesh_views import mesh_views
from recdreamer.mesh.baked_texture import Tiles
from recdreamer.mesh.mesh import Mesh
from recdreamer.rendering.ray_cast import MeshCaster
from recdreamer.shared.protocol import RequestError
from recdreamer.shared.safe_files import printable, reason_of
from recdreamer.shared.worlds import described

SIZE = 1.5
"""Longest side of an animal in scene units."""
SHADE = 0.74
"""Mean brightness of a lit texture in the pictures that the prior has learnt from."""


@dataclass(frozen=True)
class Animal:
    """A mesh in the middle of the scene, Z up, facing -Y, its longest side 1; and its coats."""

    kind: str
    """As captions call it, for example "bear"."""
    mesh: str
    """Name of its mesh in the package."""
    verts: Float[np.ndarray, "verts 3"]
    faces: Int[np.ndarray, "faces 3"]
    """Counter-clockwise seen from outside."""
    uvs: Float[np.ndarray, "faces 3 2"]
    """v upwards, as in Blender."""
    size: float
    """Longest side in the game's units, which are about metres."""
    coats: dict[str, UInt8[np.ndarray, "height width 4"]]
    """Words of a coat, for example "brown" -> its texture; alpha 0 where nothing is to be seen."""


def load_animals(path: Path) -> list[Animal]:
    """What `tools/train_prior/animals.py` wrote. Raises RequestError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            count = len({name.split(".")[0] for name in arrays.files})
            return [_animal(arrays, k) for k in range(count)]
    except Exception as error:  # Any damage is one thing.
        raise RequestError(
            f"{printable(str(path))} holds no animals ({reason_of(error)}).",
            "Write it with tools/train_prior/animals.py --fetch.",
        ) from error


def _animal(arrays: np.lib.npyio.NpzFile, number: int) -> Animal:
    kind, mesh = map(str, arrays[f"{number}.name"])
    verts, faces, uvs = (arrays[f"{number}.{name}"] for name in ("verts", "faces", "uvs"))
    coats = {
        name.split(".", 2)[2]: arrays[name] for name in arrays.files if name.startswith(f"{number}.coat.")
    }
    return Animal(kind, mesh, verts, faces, uvs, float(arrays[f"{number}.size"]), coats)


class AnimalTruth:
    """An animal with one coat, in scene units."""

    def __init__(self, animal: Animal, coat: str) -> None:
        # A texture repeats; each face is looked up in the tile in which its middle lies.
        uvs = animal.uvs - np.floor(animal.uvs.mean(1, keepdims=True))
        verts = (animal.verts * SIZE).astype(np.float32)
        self.mesh = Mesh(verts, animal.faces, uvs.clip(0, 1 - 1e-6).astype(np.float32))
        texture = animal.coats[coat]
        self.tiles: Tiles = {1001: texture[..., :3]}
        self._alpha = np.repeat(texture[..., 3:], 3, axis=2)
        self._caster = MeshCaster(verts, animal.faces, "cpu")

    def bounds(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """Lowest and highest corner of the box around it."""
        used = self.mesh.verts[self.mesh.faces].reshape(-1, 3).astype(np.float64)
        return used.min(0), used.max(0)

    def surface(self, count: int, seed: int = 0) -> SurfacePoints:
        """Points of what can be seen from outside, with normals to the outside also on sheets without a thickness."""
        drawn, kept = 2 * count, 0
        while True:
            found = mesh_surface(self.mesh, self.tiles, drawn, seed)
            shown = mesh_surface(self.mesh, {1001: self._alpha}, drawn, seed).colors[:, 0] > 0.5
            is_seen, normals = self._outside(found)
            rows = np.flatnonzero(shown & is_seen)[:count]
            if len(rows) == count or len(rows) <= kept:
                break
            drawn, kept = 2 * drawn, len(rows)
        return SurfacePoints(found.points[rows], normals[rows], SHADE * found.colors[rows])

    def _outside(
        self, found: SurfacePoints
    ) -> tuple[Bool[np.ndarray, "points"], Float[np.ndarray, "points 3"]]:
        """Which points see the sky, and normals towards the side that sees more of it."""
        ways = np.delete(np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), -1).reshape(-1, 3), 13, axis=0)
        ways = ways / np.linalg.norm(ways, axis=1, keepdims=True)
        sky = np.zeros((2, len(found.points)))
        for way in ways:
            facing = found.normals @ way
            side = np.where(facing >= 0, 1.0, -1.0)[:, None]
            start = found.points + 2e-3 * side * found.normals
            rays_o = torch.from_numpy(start.astype(np.float32))
            rays_d = torch.from_numpy(np.tile(way, (len(start), 1)).astype(np.float32))
            is_free = (self._caster.cast(rays_o, rays_d)[0] < 0).numpy()
            for index, is_side in enumerate((facing >= 0, facing < 0)):
                sky[index] += np.abs(facing) * (is_side & is_free)
        return sky.max(0) > 0, np.where((sky[0] >= sky[1])[:, None], found.normals, -found.normals)

    def views(self, cameras: Cameras, size_px: int) -> Float[Tensor, "views 3 size_px size_px"]:
        """Pictures in the style of `mesh_views`."""
        tiles = {1001: (SHADE * self.tiles[1001].astype(np.float32)).round().astype(np.uint8)}
        return mesh_views(self.mesh, tiles, cameras, size_px).textured


def animal_or_none(prompt: str, animals: list[Animal]) -> AnimalTruth | None:
    """The animal that a prompt names, like "a brown bear"; None for other prompts."""
    words = " ".join(prompt.lower().split())
    for animal in animals:
        for coat in animal.coats:
            name = described(animal.kind, coat)
            if words in (name, name.partition(" ")[2]):
                return AnimalTruth(animal, coat)
    return None
