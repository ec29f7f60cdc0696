"""The material of a result. Its images, with one or more UV tiles each, are packed into the .blend file."""

from __future__ import annotations

import re
from pathlib import Path

import bpy

from ...backend.recdreamer.shared.protocol import RESULT_ROUGHNESS, JobFolder, RequestError
from ...backend.recdreamer.shared.safe_files import confined
from .. import compat
from ..pictures.files import check_picture

ALBEDO, NORMAL = "albedo", "normal"
"""Stems of the image files: albedo.png, or with tile numbers albedo.1001.png, albedo.1002.png …"""
TEXTURE_KEY = "recdreamer_texture"
"""On an image of a result: its stem."""


def build_material(name: str, job: JobFolder, result: str = "result", uv_map: str = "") -> bpy.types.Material:
    """A Principled BSDF with the albedo and, if there is one, the normal map, of a result of a job.

    `uv_map` names the UV map of the images. Empty: the active one. Raises RequestError.
    """
    folder = confined(job.root, result)
    albedo = _load_picture(folder, ALBEDO)
    normal = _load_picture(folder, NORMAL) if _tiles(folder, NORMAL) else None
    material = compat.new_node_material(name)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    principled = compat.principled_of(material)
    principled.inputs["Roughness"].default_value = RESULT_ROUGHNESS
    # The color space for pictures is the one that a loaded PNG has, whatever the configuration calls it.
    albedo_node = _add_texture(material, principled, albedo, name, ALBEDO, uv_map)
    links.new(albedo_node.outputs["Color"], principled.inputs["Base Color"])
    if normal is not None:
        normal.colorspace_settings.is_data = True
        normal_node = _add_texture(material, principled, normal, name, NORMAL, uv_map)
        add_normal_map(material, principled, normal_node, uv_map)
    nodes.active = albedo_node
    return material


def add_normal_map(
    material: bpy.types.Material, principled: bpy.types.Node, texture: bpy.types.Node, uv_map: str
) -> None:
    """Shade with the normals of a texture, in the tangent space of a UV map; empty: of the active one."""
    turn = material.node_tree.nodes.new("ShaderNodeNormalMap")
    turn.space, turn.uv_map = "TANGENT", uv_map
    turn.location = (principled.location.x - 200, texture.location.y)
    material.node_tree.links.new(texture.outputs["Color"], turn.inputs["Color"])
    material.node_tree.links.new(turn.outputs["Normal"], principled.inputs["Normal"])


def renewed(old: bpy.types.Material, new: bpy.types.Material, own_users: int) -> bpy.types.Material:
    """A material with the images of the new one, and all else as the artist has it in the old one.

    It is the old one; a copy if that has more than `own_users` users; the new one if the textures of the old one are not
    those of a result any more. The one that is not needed is removed, unless it has users.
    """
    images = {node.image[TEXTURE_KEY]: node.image for node in _textures(new)}
    if not images or {node.image[TEXTURE_KEY] for node in _textures(old)} != images.keys():
        return new
    kept = old if old.users - old.use_fake_user <= own_users else old.copy()
    for node in _textures(kept):
        before, node.image = node.image, images[node.image[TEXTURE_KEY]]
        if before != node.image and before.users == 0:
            name = before.name
            bpy.data.images.remove(before)
            node.image.name = name
    remove_material(new)
    return kept


def _textures(material: bpy.types.Material) -> list[bpy.types.Node]:
    """The nodes with images of a result."""
    nodes = material.node_tree.nodes if material.node_tree is not None else ()
    return [node for node in nodes if node.type == "TEX_IMAGE" and node.image and TEXTURE_KEY in node.image]


def remove_material(material: bpy.types.Material) -> None:
    """Remove a material and its images, unless they have other users."""
    if material.users == 0:
        nodes = material.node_tree.nodes if material.node_tree is not None else ()
        images = [node.image for node in nodes if node.type == "TEX_IMAGE" and node.image]
        bpy.data.materials.remove(material)
        for image in images:
            if image.users == 0:
                bpy.data.images.remove(image)


def _add_texture(
    material: bpy.types.Material,
    principled: bpy.types.Node,
    image: bpy.types.Image,
    name: str,
    stem: str,
    uv_map: str,
) -> bpy.types.Node:
    image.name, image[TEXTURE_KEY] = f"{name} {stem}", stem
    image.pack()
    nodes, links = material.node_tree.nodes, material.node_tree.links
    texture = nodes.new("ShaderNodeTexImage")
    texture.image = image
    texture.location = (principled.location.x - 520, principled.location.y - 320 * (stem == NORMAL))
    if uv_map:
        coordinates = nodes.new("ShaderNodeUVMap")
        coordinates.uv_map = uv_map
        coordinates.location = (texture.location.x - 220, texture.location.y)
        links.new(coordinates.outputs["UV"], texture.inputs["Vector"])
    return texture


def _tiles(folder: Path, stem: str) -> dict[int, Path]:
    """Image files of a stem by UDIM tile; key 0 is the image of a result without tiles."""
    found = {}
    for path in sorted(folder.glob(f"{stem}*.png")):
        match = re.fullmatch(rf"{stem}(?:\.(1\d{{3}}))?\.png", path.name)
        if match:
            found[int(match[1] or 0)] = path
    # If there is an image without a tile, the tiles are left over from an earlier run.
    return {0: found[0]} if 0 in found else found


def _load_picture(folder: Path, stem: str) -> bpy.types.Image:
    """One image with all its tiles. Raises RequestError if one of them cannot be read."""
    tiles = _tiles(folder, stem) or {0: folder / f"{stem}.png"}
    image, *others = [_load_image(path) for path in tiles.values()]
    bpy.data.batch_remove(others)
    if 0 not in tiles:
        numbers = list(tiles)
        image.source = "TILED"
        image.filepath = str(folder / f"{stem}.<UDIM>.png")
        image.tiles[0].number = numbers[0]
        for number in numbers[1:]:
            image.tiles.new(tile_number=number)
    return image


def _load_image(path: Path) -> bpy.types.Image:
    problem = RequestError("The texture of this job cannot be read.", "Resume the job to write it again.")
    try:
        check_picture(path)
        image = bpy.data.images.load(str(path))
    except (RuntimeError, RequestError):
        raise problem from None
    # Blender loads lazily, so only the size shows whether the file is a valid image.
    if not (image.size[0] and image.size[1]):
        raise problem
    return image
