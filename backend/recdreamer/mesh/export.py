"""The result files: mesh.npz and textures for Blender, model.glb for everyone else."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from recdreamer.mesh.gltf import glb_bytes
from recdreamer.mesh.mesh import Mesh
from recdreamer.mesh.raster import FIRST_TILE
from recdreamer.mesh.texture import Tiles
from recdreamer.protocol import write_atomically

PNG_LEVEL = 3
"""Of zlib: files grow by a twentieth against its default, 6, and are written in a third of the time."""


def write_mesh(folder: Path, mesh: Mesh, albedo: Tiles, normal_map: Tiles | None = None) -> list[str]:
    """Write a mesh with UVs and its textures into `folder`; returns the names of the files.

    mesh.npz, albedo.png, normal.png if given, and model.glb. Textures of several UV tiles, or of another tile than the
    first, are named as UDIM wants: albedo.1001.png, albedo.1002.png, ... The mesh is written as it is; `stand_on_origin`
    places one that has no place yet.
    """
    albedo_pngs = {tile: png_bytes(albedo[tile]) for tile in sorted(albedo)}
    normal_pngs = (
        None if normal_map is None else {tile: png_bytes(normal_map[tile]) for tile in sorted(normal_map)}
    )
    if normal_pngs is not None and list(normal_pngs) != list(albedo_pngs):
        raise ValueError(
            f"The normal map has the tiles {list(normal_pngs)}, the base colour {list(albedo_pngs)}; "
            "both must have the same."
        )
    files = {"mesh.npz": npz_bytes(mesh)}
    for kind, pngs in (("albedo", albedo_pngs), ("normal", normal_pngs or {})):
        for tile, png in pngs.items():
            files[texture_name(kind, tile, pngs)] = png
    files["model.glb"] = glb_bytes(mesh, albedo_pngs, normal_pngs)
    for name, data in files.items():
        write_atomically(folder / name, data)
    return list(files)


def texture_name(kind: str, tile: int, tiles: Collection[int]) -> str:
    """File of the texture of one of the UV tiles: its number is in the name unless there is the first one alone."""
    return f"{kind}.png" if list(tiles) == [FIRST_TILE] else f"{kind}.{tile}.png"


def stand_on_origin(mesh: Mesh, height_m: float) -> Mesh:
    """Mesh in metres, `height_m` high, the centre of its base at the origin."""
    if not height_m > 0:
        raise ValueError(f"height_m is {height_m}; the object needs a height above 0 metres.")
    lo, hi = mesh.verts.min(0), mesh.verts.max(0)
    base = np.array([(lo[0] + hi[0]) / 2, (lo[1] + hi[1]) / 2, lo[2]], np.float32)
    scale = np.float32(height_m / (hi[2] - lo[2]))
    return Mesh((mesh.verts - base) * scale, mesh.faces, mesh.uvs)


def npz_bytes(mesh: Mesh) -> bytes:
    """`verts`, `faces` and per-corner `uvs` as plain arrays; any numpy reads them without pickle."""
    stream = io.BytesIO()
    np.savez(
        stream,
        verts=mesh.verts.astype(np.float32),
        faces=mesh.faces.astype(np.int32),
        uvs=mesh.uvs_or_error().astype(np.float32),
    )
    return stream.getvalue()


def png_bytes(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()
