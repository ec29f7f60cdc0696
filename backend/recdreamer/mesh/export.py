"""The result files: mesh.npz and textures for Blender, model.glb for other programs."""

from __future__ import annotations

import io
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from recdreamer.images import png_bytes
from recdreamer.mesh.baked_texture import Tiles
from recdreamer.mesh.gltf import glb_bytes
from recdreamer.mesh.mesh import Mesh
from recdreamer.report import JobError
from recdreamer.shared.protocol import write_atomically
from recdreamer.shared.uv_map import FIRST_TILE


def write_mesh(folder: Path, mesh: Mesh, albedo: Tiles, normal_map: Tiles | None = None) -> list[str]:
    """Write a mesh with UVs and its textures into `folder`; returns the names of the files.

    Writes mesh.npz, albedo.png, normal.png if given, and model.glb. Textures of several UV tiles, or of a single tile
    other than the first, have UDIM names: albedo.1001.png, albedo.1002.png, ... The mesh is written unchanged; use
    `stand_on_origin` to place it. Raises JobError, and writes nothing, if a number of the mesh is not finite.
    """
    _refuse_non_finite(mesh)
    tiles = sorted(albedo)
    if normal_map is not None and sorted(normal_map) != tiles:
        raise ValueError(
            f"The normal map has the tiles {sorted(normal_map)}, but the base color has {tiles}. Use the same for both."
        )
    with ThreadPoolExecutor() as pool:  # In parallel, because Pillow releases Python's lock.
        waiting = [
            {} if images is None else {tile: pool.submit(png_bytes, images[tile]) for tile in tiles}
            for images in (albedo, normal_map)
        ]
    albedo_pngs, normal_pngs = ({tile: job.result() for tile, job in jobs.items()} for jobs in waiting)
    files = {"mesh.npz": npz_bytes(mesh)}
    for kind, pngs in (("albedo", albedo_pngs), ("normal", normal_pngs)):
        files |= {texture_name(kind, tile, tiles): png for tile, png in pngs.items()}
    files["model.glb"] = glb_bytes(mesh, albedo_pngs, normal_pngs or None)
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        write_atomically(folder / name, data)
    return list(files)


def _refuse_non_finite(mesh: Mesh) -> None:
    """A file with such numbers is no mesh for any program."""
    for what, values in (("vertices", mesh.verts), ("UVs", mesh.uvs_or_error())):
        with np.errstate(over="ignore", invalid="ignore"):
            bad = int((~np.isfinite(values.astype(np.float32))).any(-1).sum())
        if bad:
            raise JobError(
                "non_finite",
                f"The finished mesh has {bad:,} {what} that are no finite numbers, so it was not written.",
                "Try another seed, or another height; the newest checkpoint is kept.",
            )


def texture_name(kind: str, tile: int, tiles: Collection[int]) -> str:
    """File name of a UV tile's texture; it contains the tile's number unless the first tile is the only one.

    >>> texture_name("albedo", 1001, [1001]), texture_name("albedo", 1002, [1001, 1002])
    ('albedo.png', 'albedo.1002.png')
    """
    return f"{kind}.png" if list(tiles) == [FIRST_TILE] else f"{kind}.{tile}.png"


def stand_on_origin(mesh: Mesh, height_m: float) -> Mesh:
    """Mesh in metres, `height_m` high, with the centre of its base at the origin.

    >>> mesh = Mesh(np.array([[1, 1, 1], [3, 1, 1], [1, 1, 5]], np.float32), np.array([[0, 1, 2]], np.int32))
    >>> stand_on_origin(mesh, 2.0).verts.tolist()
    [[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [-0.5, 0.0, 2.0]]
    """
    if not height_m > 0:
        raise ValueError(f"height_m is {height_m}. Give a height above 0 meters.")
    lo, hi = mesh.verts.min(0), mesh.verts.max(0)
    base = np.array([(lo[0] + hi[0]) / 2, (lo[1] + hi[1]) / 2, lo[2]], np.float32)
    scale = np.float32(height_m / (hi[2] - lo[2]))
    return replace(mesh, verts=(mesh.verts - base) * scale)


def npz_bytes(mesh: Mesh) -> bytes:
    """`verts`, `faces`, per-corner `uvs` and the material slots as plain arrays, which any numpy reads without pickle."""
    stream = io.BytesIO()
    np.savez(
        stream,
        allow_pickle=False,
        verts=mesh.verts.astype(np.float32),
        faces=mesh.faces.astype(np.int32),
        uvs=mesh.uvs_or_error().astype(np.float32),
        **({} if mesh.slots is None else mesh.slots.as_arrays()),
    )
    return stream.getvalue()
