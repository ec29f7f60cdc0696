"""Bake color and normals of a result onto a mesh with fewer faces with Blender's Selected to Active bake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import bpy
import numpy as np
from bpy.props import IntProperty

from ...backend.recdreamer.shared.protocol import RESULT_ROUGHNESS, RequestError
from .. import compat
from ..objects.hiding import local_view
from ..result.material import ALBEDO, NORMAL, add_normal_map, remove_material
from ..start.unwrap import smart_uvs
from ..trouble import reason_of_blender
from .guarded import GuardedOperator, why_not
from .jobs import NOT_OBJECT_MODE
from .quads import ORIGINAL_KEY

REACH = 0.03
"""Largest distance between both surfaces, relative to the size of the object."""
BAKES = {
    ALBEDO: {"type": "DIFFUSE", "pass_filter": {"COLOR"}},
    NORMAL: {
        "type": "NORMAL",
        "normal_space": "TANGENT",
        "normal_r": "POS_X",
        "normal_g": "POS_Y",
        "normal_b": "POS_Z",
    },
}
"""Texture -> how it is baked. Normals are those that the original shows, with its own normal map."""


class RECDREAMER_OT_bake_quads(GuardedOperator, bpy.types.Operator):
    """Unwrap the quads and bake color and normals of the original onto them with Cycles. Blender freezes meanwhile"""

    bl_idname = "recdreamer.bake_quads"
    bl_label = "Bake from Original"
    bl_options = {"REGISTER", "UNDO"}

    size_px: IntProperty(
        name="Size", description="Width and height of the texture in pixels", default=1024, min=64, max=8192
    )

    @classmethod
    def poll(cls, context):
        if context.mode != "OBJECT":
            return why_not(cls, NOT_OBJECT_MODE)
        if context.object is None or ORIGINAL_KEY not in context.object:
            return why_not(cls, "Make quads of a result the active object first.")
        is_there = original_of(context.object, context) is not None
        return why_not(cls, "" if is_there else "The original of these quads is not in this view layer.")

    def run(self, context):
        quads = context.object
        bake_textures(original_of(quads, context), quads, self.size_px, context)


def original_of(quads: bpy.types.Object, context: bpy.types.Context) -> bpy.types.Object | None:
    original = quads.get(ORIGINAL_KEY)
    return original if original and context.view_layer.objects.get(original.name) == original else None


def bake_textures(
    original: bpy.types.Object, low: bpy.types.Object, size_px: int, context: bpy.types.Context
) -> None:
    """Give a mesh with fewer faces a UV map and a material with the original's color and normals.

    The normals are in tangent space, so that the mesh shades like the original also where it is deformed. `low` is
    visible, and then the active object. Raises RequestError, and the mesh is as before but for its UV map.
    """
    uvs = smart_uvs(low, context)
    if uvs is None:
        raise RequestError(f"{low.name!r} cannot be unwrapped.", "Switch to Object Mode first.")
    material, textures = _new_material(low.name, size_px)
    old_materials = list(low.data.materials)
    low.data.materials.clear()
    low.data.materials.append(material)
    layer = low.data.uv_layers.active or low.data.uv_layers.new(name="UVMap", do_init=False)
    layer.uv.foreach_set("vector", np.ascontiguousarray(uvs).ravel())
    reach, is_done = REACH * max(low.dimensions), False
    try:
        with _prepared(original, low, context):
            for stem, options in BAKES.items():
                # Blender bakes into the active texture node.
                material.node_tree.nodes.active = textures[stem]
                bpy.ops.object.bake(
                    **options,
                    use_selected_to_active=True,
                    cage_extrusion=reach,
                    max_ray_distance=2 * reach,
                    margin=max(4, size_px // 128),
                    # Pass every option: omitted ones come from the scene, where the artist may have set them.
                    margin_type="ADJACENT_FACES",
                    target="IMAGE_TEXTURES",
                    save_mode="INTERNAL",
                    use_clear=True,
                    use_cage=False,
                    cage_object="",
                )
        is_done = True
    except (RuntimeError, TypeError) as error:
        raise RequestError(
            f"Cycles cannot bake the texture ({reason_of_blender(error)}).",
            "Enable the Cycles add-on, or paint the mesh.",
        ) from error
    finally:
        if not is_done:
            low.data.materials.clear()
            for old in old_materials:
                low.data.materials.append(old)
            remove_material(material)
    # Only now, because a material must not use the image that is being baked.
    for texture in textures.values():
        texture.image.pack()
    principled = compat.principled_of(material)
    material.node_tree.links.new(textures[ALBEDO].outputs["Color"], principled.inputs["Base Color"])
    add_normal_map(material, principled, textures[NORMAL], layer.name)
    material.node_tree.nodes.active = textures[ALBEDO]


@contextmanager
def _prepared(
    original: bpy.types.Object, low: bpy.types.Object, context: bpy.types.Context
) -> Iterator[None]:
    """Set Cycles, show and select the original, make the other one active; restore everything afterwards."""
    scene, engine, space = context.scene, context.scene.render.engine, local_view(context)
    was_hidden, hidden_in_render = original.hide_get(), original.hide_render
    was_local = space is not None and original.local_view_get(space)
    samples = None
    try:
        scene.render.engine = "CYCLES"
        samples, scene.cycles.samples = scene.cycles.samples, 1
        original.hide_set(False)
        original.hide_render = False
        if space is not None:
            original.local_view_set(space, True)
        for obj in context.selected_objects:
            obj.select_set(False)
        original.select_set(True)
        low.select_set(True)
        context.view_layer.objects.active = low
        yield
    finally:
        if samples is not None:
            scene.cycles.samples = samples
        scene.render.engine = engine
        original.select_set(False)
        if space is not None:
            original.local_view_set(space, was_local)
        original.hide_set(was_hidden)
        original.hide_render = hidden_in_render


def _new_material(name: str, size_px: int) -> tuple[bpy.types.Material, dict[str, bpy.types.Node]]:
    """A material with unconnected textures to bake into."""
    material, textures = compat.new_node_material(name), {}
    principled = compat.principled_of(material)
    principled.inputs["Roughness"].default_value = RESULT_ROUGHNESS
    for row, stem in enumerate(BAKES):
        image = bpy.data.images.new(f"{name} {stem}", size_px, size_px, is_data=stem == NORMAL)
        textures[stem] = texture = material.node_tree.nodes.new("ShaderNodeTexImage")
        texture.image = image
        texture.location = (principled.location.x - 520, principled.location.y - 320 * row)
    return material, textures


CLASSES = (RECDREAMER_OT_bake_quads,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
