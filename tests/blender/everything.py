"""All that an artist has on an object, as plain values that can be compared bit by bit."""

from __future__ import annotations

import warnings
from typing import Any

import bpy
import numpy as np

OURS = ("recdreamer_", ".recdreamer_")
"""What the add-on writes for itself begins like this: custom properties and attributes."""
VALUES = {
    "FLOAT": ("value", np.float32, 1),
    "INT": ("value", np.int32, 1),
    "INT8": ("value", np.int8, 1),
    "BOOLEAN": ("value", bool, 1),
    "FLOAT_VECTOR": ("vector", np.float32, 3),
    "FLOAT2": ("vector", np.float32, 2),
    "FLOAT_COLOR": ("color", np.float32, 4),
    "BYTE_COLOR": ("color", np.float32, 4),
    "INT32_2D": ("value", np.int32, 2),
    "INT16_2D": ("value", np.int32, 2),
    "QUATERNION": ("value", np.float32, 4),
    "FLOAT4X4": ("value", np.float32, 16),
}
"""Type of an attribute -> its property, the numbers in it, and how many of them."""
POINTERS = ("bl_rna", "rna_type", "original", "id_data")


def of_object(obj: bpy.types.Object) -> dict[str, Any]:
    """Everything of an object, its mesh, shape keys and materials, by a name that says where it is."""
    found = {f"object {name}": value for name, value in of_properties(obj).items()}
    found |= {f"object {name}": value for name, value in of_extras(obj).items()}
    for stack in ("modifiers", "constraints", "particle_systems"):
        for item in getattr(obj, stack):
            found[f"{stack} {item.name}"] = of_properties(item) | of_custom(item)
    found["collections"] = sorted(collection.name for collection in obj.users_collection)
    found["slots"] = [(s.link, s.material and s.material.name) for s in obj.material_slots]
    if obj.type == "MESH":
        found |= of_mesh(obj.data) | of_weights(obj)
    for slot in obj.material_slots:
        if slot.material is not None:
            found[f"material {slot.material.name}"] = of_material(slot.material)
    return found


def of_mesh(mesh: bpy.types.Mesh) -> dict[str, Any]:
    """Everything of a mesh, each attribute by its bytes."""
    found = {f"mesh {name}": value for name, value in of_properties(mesh).items()}
    found |= {f"mesh {name}": value for name, value in of_extras(mesh).items()}
    found["face starts"] = _bytes(mesh.polygons, "loop_start", np.int32)
    found["corner verts"] = _bytes(mesh.loops, "vertex_index", np.int32)
    found["edges"] = _bytes(mesh.edges, "vertices", np.int32, 2)
    found["corner normals"] = _bytes(mesh.corner_normals, "vector", np.float32, 3)
    for attribute in mesh.attributes:
        if attribute.data_type in VALUES:
            name, kind, width = VALUES[attribute.data_type]
            values = _bytes(attribute.data, name, kind, width)
        else:
            assert attribute.data_type == "STRING", attribute.data_type
            values = [item.value for item in attribute.data]
        found[f"attribute {attribute.name}"] = (attribute.domain, attribute.data_type, values)
    for name in ("active", "active_color"):
        found[f"attributes {name}"] = _plain(getattr(mesh.attributes, name))
    colors = mesh.color_attributes
    found["colors"] = (colors.active_color_index, colors.render_color_index)
    for layer in mesh.uv_layers:
        found[f"UV map {layer.name}"] = (layer.active, layer.active_render, layer.active_clone)
    found["UV maps"] = [layer.name for layer in mesh.uv_layers]
    if mesh.shape_keys is not None:
        found["shape keys"] = of_properties(mesh.shape_keys) | of_extras(mesh.shape_keys)
        for key in mesh.shape_keys.key_blocks:
            places = _bytes(key.data, "co", np.float32, 3)
            found[f"shape key {key.name}"] = of_properties(key) | {"places": places}
    return found


def of_weights(obj: bpy.types.Object) -> dict[str, Any]:
    """The vertex groups with the weights of each vertex."""
    groups = [(group.name, group.index, group.lock_weight) for group in obj.vertex_groups]
    weights = [[(g.group, g.weight) for g in vertex.groups] for vertex in obj.data.vertices]
    return {"groups": (groups, obj.vertex_groups.active_index), "weights": weights}


def of_material(material: bpy.types.Material) -> dict[str, Any]:
    """A material with its nodes and links; of the images only that there are some, because a result has its own."""
    found = of_properties(material) | of_extras(material)
    tree = material.node_tree
    if tree is not None:
        found["drivers of nodes"] = of_extras(tree)["drivers"]
        for node in tree.nodes:
            inputs = [(s.identifier, _plain(getattr(s, "default_value", None))) for s in node.inputs]
            found[f"node {node.name}"] = (node.bl_idname, tuple(node.location), inputs, node.label)
        found["links"] = sorted(
            (a.from_node.name, a.from_socket.identifier, a.to_node.name, a.to_socket.identifier)
            for a in tree.links
        )
    return found


def of_properties(data: bpy.types.bpy_struct) -> dict[str, Any]:
    """The values of all properties that can be set, and of those that name another datablock."""
    with warnings.catch_warnings():
        # Blender 5.2 leaves the error pending when a deprecated property is read and warnings are errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _of_properties(data)


def _of_properties(data: bpy.types.bpy_struct) -> dict[str, Any]:
    found = {}
    for name in data.bl_rna.properties.keys():  # noqa: SIM118
        if name in POINTERS:
            continue
        try:
            prop = data.bl_rna.properties[name]
        except MemoryError:
            continue  # Left over from an add-on that was disabled, such as Cycles.
        if prop.type == "COLLECTION" or prop.is_readonly:
            continue
        found[prop.identifier] = _plain(getattr(data, prop.identifier))
    return found


def of_extras(data: bpy.types.ID) -> dict[str, Any]:
    """Custom properties, drivers and the action."""
    animation = data.animation_data
    drivers = [
        (curve.data_path, curve.array_index, curve.driver.type, curve.driver.expression, _variables(curve))
        for curve in (animation.drivers if animation else ())
    ]
    action = animation.action.name if animation and animation.action else None
    return {"drivers": drivers, "action": action} | of_custom(data)


def _variables(curve: bpy.types.FCurve) -> list[tuple]:
    return [(v.name, [(_plain(t.id), t.data_path) for t in v.targets]) for v in curve.driver.variables]


def of_custom(data: bpy.types.bpy_struct) -> dict[str, Any]:
    if not hasattr(data, "id_properties_ensure"):
        return {}
    try:
        names = list(data.keys())
    except TypeError:
        return {}
    names = [name for name in names if not name.startswith(OURS)]
    return {f"custom {name}": _plain(data[name]) for name in names}


def _bytes(items: Any, name: str, kind: type, width: int = 1) -> bytes:
    values = np.empty(len(items) * width, kind)
    items.foreach_get(name, values)
    return values.tobytes()


def _plain(value: Any) -> Any:
    """A value that stays as it is when Blender's data changes."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, bpy.types.ID):
        return (value.bl_rna.identifier, value.name, value.session_uid)
    if hasattr(value, "to_dict"):
        return {key: _plain(part) for key, part in value.to_dict().items()}
    if hasattr(value, "to_list"):
        return _plain(value.to_list())
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if hasattr(value, "name") and isinstance(value, bpy.types.bpy_struct):
        return value.name
    if isinstance(value, bpy.types.bpy_struct):
        return value.bl_rna.identifier
    return [_plain(part) for part in value]
