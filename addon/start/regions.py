"""The region of a mesh that may change: a vertex group, color attribute, sculpt mask or selection."""

from __future__ import annotations

from typing import NamedTuple

import bpy
import numpy as np

from ...backend.recdreamer.shared.protocol import RequestError
from ..objects.mesh_data import read_loop_starts, read_loop_verts, read_property
from .material_colors import mean_of_corners

SCULPT_MASK, SELECTION = ".sculpt_mask", ".select_vert"
"""Blender's attribute names of the sculpt mask and of the selection in Edit Mode and the paint modes."""
STEP = 1 / 255
"""Resolution of a painted byte."""


class Words(NamedTuple):
    """What is said of a kind of region; of all but the hints, `name` and `object` are put in."""

    empty: str
    full: str
    lost: str
    mark: str
    unmark: str


WORDS = {
    "group": Words(
        "The vertex group {name} of {object} is empty, so nothing may change.",
        "The vertex group {name} of {object} contains every vertex, so everything may change.",
        "The vertex group {name} of {object} is lost in its modifiers.",
        "Assign what may change, or choose Everything.",
        "Remove from it what must stay, or choose Everything.",
    ),
    "paint": Words(
        "The color attribute {name} of {object} is black all over, so nothing may change.",
        "The color attribute {name} of {object} is white all over, so everything may change.",
        "The color attribute {name} of {object} is lost in its modifiers.",
        "Paint white what may change, or choose Everything.",
        "Paint black what must stay, or choose Everything.",
    ),
    SCULPT_MASK: Words(
        "The sculpt mask of {object} covers all, so nothing may change.",
        "The sculpt mask of {object} covers nothing, so everything may change.",
        "The sculpt mask of {object} is lost in its modifiers.",
        "Unmask what may change, or choose Everything.",
        "Mask what must stay, or choose Everything.",
    ),
    SELECTION: Words(
        "The selection of {object} is empty, so nothing may change.",
        "The selection of {object} contains every vertex, so everything may change.",
        "The selection of {object} is lost in its modifiers.",
        "Select what may change, or choose Everything.",
        "Deselect what must stay, or choose Everything.",
    ),
}


def choices(obj: bpy.types.Object) -> list[tuple[str, str, str, str]]:
    """Possible regions of a mesh object: name, label, description, icon."""
    attributes, groups = obj.data.attributes, obj.vertex_groups
    found = [
        (group.name, group.name, "Vertex group: its vertices may change", "GROUP_VERTEX") for group in groups
    ]
    found += [
        (
            paint.name,
            paint.name,
            "Color attribute: white areas may change, black areas stay",
            "GROUP_VCOL",
        )
        for paint in obj.data.color_attributes
        if paint.name not in groups
    ]
    if SCULPT_MASK in attributes:
        found.append((SCULPT_MASK, "Sculpt Mask", "Areas masked in Sculpt Mode stay", "MOD_MASK"))
    if SELECTION in attributes:
        found.append(
            (SELECTION, "Selection", "The vertices selected in Edit Mode may change", "RESTRICT_SELECT_OFF")
        )
    return found


def region_weights(obj: bpy.types.Object, mesh: bpy.types.Mesh, name: str) -> np.ndarray:
    """How much each vertex may change, `verts` in [0, 1]; 0 if the mesh has no such region."""
    if name in obj.vertex_groups:
        return _group_weights(mesh, obj.vertex_groups[name].index)
    attributes = mesh.attributes if name in (SCULPT_MASK, SELECTION) else mesh.color_attributes
    attribute = attributes.get(name)
    if attribute is None or not len(attribute.data):
        # A mesh without a sculpt mask is fully unmasked.
        return np.full(len(mesh.vertices), float(name == SCULPT_MASK), np.float32)
    if name in (SCULPT_MASK, SELECTION):
        values = read_property(attribute.data, "value", np.float32 if name == SCULPT_MASK else bool)
        return 1 - values if name == SCULPT_MASK else values.astype(np.float32)
    values = _painted(attribute)
    if attribute.domain == "CORNER":
        values = mean_of_corners(values[:, None], read_loop_verts(mesh), len(mesh.vertices))[:, 0]
    return values.clip(0, 1).astype(np.float32)


def faces_in(obj: bpy.types.Object, name: str) -> np.ndarray:
    """True for faces that the region touches, `faces`."""
    mesh = obj.data
    if not len(mesh.polygons):
        return np.zeros(0, bool)
    corners = region_weights(obj, mesh, name)[read_loop_verts(mesh)]
    return np.logical_or.reduceat(corners >= STEP, read_loop_starts(mesh))


def check_region(obj: bpy.types.Object, name: str, weights: np.ndarray) -> None:
    """Raise RequestError if the region contains nothing or everything."""
    kind = name if name in WORDS else "group" if name in obj.vertex_groups else "paint"
    words, of = WORDS[kind], {"name": repr(name), "object": repr(obj.name)}
    if weights.max() < STEP / 2:
        if obj.type == "MESH" and obj.modifiers and region_weights(obj, obj.data, name).max() >= STEP / 2:
            raise RequestError(words.lost.format(**of), "Apply or disable them, and mark the region again.")
        raise RequestError(words.empty.format(**of), words.mark)
    if weights.min() > 1 - STEP / 2:
        raise RequestError(words.full.format(**of), words.unmark)


def _group_weights(mesh: bpy.types.Mesh, index: int) -> np.ndarray:
    weights = np.zeros(len(mesh.vertices), np.float32)
    # Blender has no bulk access to vertex weights.
    for number, vertex in enumerate(mesh.vertices):
        for element in vertex.groups:
            if element.group == index:
                weights[number] = element.weight
    return weights


def _painted(attribute: bpy.types.Attribute) -> np.ndarray:
    """Values of a painted mask: HSV Value, so that masks of any color count fully; alpha if all Values are equal."""
    rgba = read_property(attribute.data, "color_srgb", width=4)
    brightness, alpha = rgba[:, :3].max(1), rgba[:, 3]
    return alpha if np.ptp(brightness) < STEP and np.ptp(alpha) >= STEP else brightness
