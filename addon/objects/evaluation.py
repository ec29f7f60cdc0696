"""What viewports show of objects, with modifiers and instances: the one evaluation for their mesh, size and pictures.

Renders may have other modifiers, and more of them, than viewports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import bpy
import numpy as np

from ...backend.recdreamer.shared.protocol import RequestError

MESHABLE = {"MESH", "CURVE", "SURFACE", "FONT", "META"}
"""Object types that have faces."""
MAX_INSTANCES = 10_000


@contextmanager
def evaluated(
    objects: Iterable[bpy.types.Object], context: bpy.types.Context
) -> Iterator[bpy.types.Depsgraph]:
    """Evaluate the objects in a temporary scene, because hidden objects are not evaluated in their own."""
    scene = bpy.data.scenes.new("RecDreamer")
    try:
        for obj in dict.fromkeys(objects):
            scene.collection.objects.link(obj)
        scene.frame_set(context.scene.frame_current)
        scene.view_layers[0].update()
        yield scene.view_layers[0].depsgraph
    finally:
        bpy.data.scenes.remove(scene)


def has_faces(obj: bpy.types.Object) -> bool:
    """True if the object may show faces of its own, besides instances."""
    return obj.type in MESHABLE and (obj.show_instancer_for_viewport or not obj.is_instancer)


def instances(depsgraph: bpy.types.Depsgraph) -> Iterator[tuple[bpy.types.Object, np.ndarray]]:
    """Everything with faces that the objects show without having it, and its place in the world, `4 4`.

    Each object is valid until the next one. Of a mesh its `data` is what is shown: `to_mesh` would give that of the
    object with the Geometry Nodes. Raises RequestError if there are too many.
    """
    count = 0
    for instance in depsgraph.object_instances:
        if instance.is_instance and instance.object.type in MESHABLE:
            count += 1
            if count > MAX_INSTANCES:
                raise RequestError(
                    f"The object shows more than {MAX_INSTANCES:,} instances.", "Show fewer, or pick another."
                )
            yield instance.object, np.array(instance.matrix_world)


def frozen(
    objects: Iterable[bpy.types.Object], context: bpy.types.Context, made: list[bpy.types.ID]
) -> list[bpy.types.Object]:
    """Plain meshes that look in every evaluation like the objects in viewports; those without faces as they are.

    The caller removes what is added to `made`.
    """
    objects = list(dict.fromkeys(objects))
    result = [obj for obj in objects if obj.type not in MESHABLE | {"EMPTY"} or _has_strands(obj)]
    with evaluated((obj for obj in objects if obj not in result), context) as depsgraph:
        for obj in objects:
            if obj not in result and has_faces(obj):
                source = obj.evaluated_get(depsgraph)
                mesh = bpy.data.meshes.new_from_object(
                    source, preserve_all_data_layers=True, depsgraph=depsgraph
                )
                copy = _plain(source, mesh, np.array(source.matrix_world), made)
                for slot, of_source in zip(copy.material_slots, source.material_slots, strict=False):
                    slot.link, slot.material = "OBJECT", of_source.material and of_source.material.original
                result.append(copy)
        meshes: dict[int, bpy.types.Mesh] = {}
        for source, matrix in instances(depsgraph):
            key = source.data.as_pointer()
            if key not in meshes:
                meshes[key] = (
                    source.data.copy()
                    if source.type == "MESH"
                    else bpy.data.meshes.new_from_object(source, depsgraph=depsgraph)
                )
            result.append(_plain(source, meshes[key], matrix, made))
    return result


def _has_strands(obj: bpy.types.Object) -> bool:
    """True for particle hair, which no mesh shows."""
    return any(system.settings.render_type == "PATH" for system in obj.particle_systems)


def _plain(
    source: bpy.types.Object, mesh: bpy.types.Mesh, matrix: np.ndarray, made: list[bpy.types.ID]
) -> bpy.types.Object:
    copy = bpy.data.objects.new("RecDreamer", mesh)
    made += [copy] if mesh in made else [mesh, copy]
    copy.matrix_world = matrix.T.tolist()
    copy.color, copy.pass_index = source.color, source.pass_index
    return copy
