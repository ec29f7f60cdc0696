"""Vertex colors of a mesh from its materials, as far as they have a plain base color or image."""

from __future__ import annotations

import bpy
import numpy as np

from .. import compat
from ..objects.pixels import read_srgb, scene_linear_to_srgb

NO_MATERIAL = 0.8
"""sRGB gray of faces without a material."""


def material_colors(
    obj: bpy.types.Object,
    loop_verts: np.ndarray,
    loop_materials: np.ndarray,
    uvs: np.ndarray | None,
    num_verts: int,
) -> np.ndarray | None:
    """sRGB colors `verts 3`, averaged over the corners of each vertex; None without materials."""
    materials = [slot.material for slot in obj.material_slots]
    if not any(materials):
        return None
    rgb = np.full((len(loop_verts), 3), NO_MATERIAL)
    for index, material in enumerate(materials):
        # Faces with an index beyond the last slot show the last one.
        here = loop_materials.clip(0, len(materials) - 1) == index
        if material is not None and here.any():
            rgb[here] = _colors_of(material, None if uvs is None else uvs[here])
    return mean_of_corners(rgb, loop_verts, num_verts)


def mean_of_corners(values: np.ndarray, loop_verts: np.ndarray, num_verts: int) -> np.ndarray:
    """Mean over the corners of each vertex: `verts channels` from `loops channels`."""
    count = np.bincount(loop_verts, minlength=num_verts).clip(1)
    sums = [np.bincount(loop_verts, channel, num_verts) for channel in values.T]
    return np.stack(sums, axis=1) / count[:, None]


def _colors_of(material: bpy.types.Material, uvs: np.ndarray | None) -> np.ndarray:
    """`corners 3` from the image at Base Color, else one color for all."""
    principled = compat.principled_of(material)
    if principled is None:
        return scene_linear_to_srgb(np.array(material.diffuse_color[:3]))
    socket = principled.inputs["Base Color"]
    source = socket.links[0].from_node if socket.is_linked else None
    image = getattr(source, "image", None)
    if image is not None and uvs is not None and image.source != "TILED" and image.size[0] and image.size[1]:
        return _sample(image, uvs)
    color = material.diffuse_color if socket.is_linked else socket.default_value
    return scene_linear_to_srgb(np.array(color[:3]))


def _sample(image: bpy.types.Image, uvs: np.ndarray) -> np.ndarray:
    """sRGB pixel at each UV."""
    pixels = read_srgb(image)
    height, width, channels = pixels.shape
    columns = np.floor(uvs[:, 0] % 1 * width).astype(int).clip(0, width - 1)
    rows = np.floor(uvs[:, 1] % 1 * height).astype(int).clip(0, height - 1)
    found = pixels[rows, columns]
    return found[:, :3] if channels >= 3 else np.repeat(found[:, :1], 3, axis=1)
