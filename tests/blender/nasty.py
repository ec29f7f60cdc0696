"""Twenty objects with what an add-on easily damages. Each function gives a mesh object one kind of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import bmesh
import bpy
import numpy as np

NASTY: dict[str, Callable[[bpy.types.Object], None]] = {}


def nasty(function: Callable[[bpy.types.Object], None]) -> Callable[[bpy.types.Object], None]:
    NASTY[function.__name__] = function
    return function


def drive(data: bpy.types.bpy_struct, path: str, target: bpy.types.ID, index: int = -1) -> None:
    curve = data.driver_add(path, index) if index >= 0 else data.driver_add(path)
    variable = curve.driver.variables.new()
    variable.targets[0].id, variable.targets[0].data_path = target, "location.x"
    curve.driver.expression = f"{variable.name} * 0.25"


def empty(name: str, location=(1.0, 2.0, 3.0)) -> bpy.types.Object:
    other = bpy.data.objects.new(name, None)
    other.location = location
    bpy.context.scene.collection.objects.link(other)
    return other


@nasty
def shape_keys(obj):
    obj.shape_key_add(name="Basis")
    smile, frown = (obj.shape_key_add(name=name, from_mix=False) for name in ("smile", "frown"))
    for index, point in enumerate(smile.data):
        point.co.x += 0.01 * index
    for point in frown.data:
        point.co.z *= 1.5
    smile.value, frown.relative_key, frown.mute = 0.375, smile, True
    frown.slider_min, obj.active_shape_key_index, obj.show_only_shape_key = -1.0, 1, True
    drive(smile, "value", empty("muscle"))


@nasty
def weights(obj):
    for name in ("Bone.L", "Bone.R", "unused"):
        obj.vertex_groups.new(name=name)
    for vertex in obj.data.vertices:
        obj.vertex_groups["Bone.L"].add([vertex.index], 1 / (vertex.index + 1), "REPLACE")
        obj.vertex_groups["Bone.R"].add([vertex.index], 0.0, "REPLACE")
    obj.vertex_groups["Bone.R"].lock_weight = True
    obj.vertex_groups.active_index = 1
    armature = bpy.data.objects.new("rig", bpy.data.armatures.new("rig"))
    bpy.context.scene.collection.objects.link(armature)
    obj.parent, obj.parent_type = armature, "ARMATURE"
    obj.modifiers.new("Armature", "ARMATURE").object = armature


@nasty
def custom_normals(obj):
    obj.data.polygons.foreach_set("use_smooth", np.ones(len(obj.data.polygons), bool))
    obj.data.normals_split_custom_set([(math.sin(i), math.cos(i), 0.5) for i in range(len(obj.data.loops))])


@nasty
def marked_edges(obj):
    for name, domain in (("crease_edge", "EDGE"), ("bevel_weight_edge", "EDGE"), ("crease_vert", "POINT")):
        made = obj.data.attributes.new(name, "FLOAT", domain)
        made.data.foreach_set("value", np.linspace(0, 1, len(made.data), dtype=np.float32))
    for index, edge in enumerate(obj.data.edges):
        edge.use_seam, edge.use_edge_sharp = index % 2 == 0, index % 3 == 0
    obj.data.polygons[0].use_smooth = not obj.data.polygons[0].use_smooth


@nasty
def eight_uv_maps(obj):
    layers = obj.data.uv_layers
    while len(layers) < 8:
        layer = layers.new(name=f"map {len(layers)}")
        values = np.linspace(-1, 3, 2 * len(obj.data.loops), dtype=np.float32)
        layer.uv.foreach_set("vector", np.roll(values, len(layers)))
    layers[2].active_render = layers[3].active_clone = True
    layers.active_index = 0
    obj.data.attributes.new(".pn.map 2", "BOOLEAN", "CORNER").data[0].value = True


@nasty
def no_uv_map(obj):
    for layer in list(obj.data.uv_layers):
        obj.data.uv_layers.remove(layer)


@nasty
def colors(obj):
    for name, kind, domain in (("paint", "BYTE_COLOR", "CORNER"), ("dirt", "FLOAT_COLOR", "POINT")):
        layer = obj.data.color_attributes.new(name, kind, domain)
        values = np.linspace(0, 1, 4 * len(layer.data), dtype=np.float32)
        layer.data.foreach_set("color", values)
    obj.data.color_attributes.active_color_index = 1
    obj.data.color_attributes.render_color_index = 0


@nasty
def attributes_of_all_kinds(obj):
    for domain in ("POINT", "EDGE", "FACE", "CORNER"):
        for kind in ("FLOAT", "INT", "INT8", "BOOLEAN", "FLOAT_VECTOR", "FLOAT2", "FLOAT_COLOR", "INT32_2D"):
            name, number, width = {
                "FLOAT_VECTOR": ("vector", np.float32, 3),
                "FLOAT2": ("vector", np.float32, 2),
                "FLOAT_COLOR": ("color", np.float32, 4),
                "INT32_2D": ("value", np.int32, 2),
                "FLOAT": ("value", np.float32, 1),
                "BOOLEAN": ("value", bool, 1),
                "INT8": ("value", np.int8, 1),
            }.get(kind, ("value", np.int32, 1))
            made = obj.data.attributes.new(f"{domain} {kind}", kind, domain)
            made.data.foreach_set(name, (np.arange(len(made.data) * width) % 7).astype(number))


@nasty
def slots_of_the_object(obj):
    obj.data.materials.append(None)
    slot = obj.material_slots[-1]
    slot.link = "OBJECT"
    slot.material = bpy.data.materials.new("of the object")
    obj.data.polygons[0].material_index = len(obj.material_slots) - 1
    obj.active_material_index = 0


@nasty
def slots_twice_and_empty(obj):
    twice = bpy.data.materials.new("twice")
    twice["note"], twice.use_fake_user = "mine", True
    twice.diffuse_color, twice.roughness = (0.1, 0.2, 0.3, 1), 0.125
    for material in (twice, None, twice, None):
        obj.data.materials.append(material)
    for polygon in obj.data.polygons:
        polygon.material_index = polygon.index % len(obj.data.materials)


@nasty
def slots_that_are_not_there(obj):
    obj.data.polygons[1].material_index = 30


@nasty
def odd_topology(obj):
    """Loose parts, a face of many corners, doubled vertices and a face without area."""
    mesh = bmesh.new()
    mesh.from_mesh(obj.data)
    ring = [mesh.verts.new((3 + math.cos(i), math.sin(i) * (1 + i % 2), 0)) for i in range(7)]
    mesh.faces.new(ring)
    flat = [mesh.verts.new((5 + i, 0, 0)) for i in range(3)]
    mesh.faces.new(flat)
    mesh.edges.new([mesh.verts.new((6, 0, 0)), mesh.verts.new((6, 0, 1))])
    mesh.verts.new((6, 0, 1))
    mesh.to_mesh(obj.data)
    mesh.free()


@nasty
def hidden_and_selected(obj):
    mesh = obj.data
    for index, polygon in enumerate(mesh.polygons):
        polygon.hide, polygon.select = index == 0, index % 2 == 1
    mesh.vertices[0].hide = mesh.edges[1].hide = mesh.edges[2].select = mesh.vertices[3].select = True
    mesh.polygons.active = 3
    mesh.use_paint_mask = True


@nasty
def sculpted(obj):
    mask = obj.data.attributes.new(".sculpt_mask", "FLOAT", "POINT")
    mask.data.foreach_set("value", np.linspace(0, 1, len(mask.data), dtype=np.float32))
    sets = obj.data.attributes.new(".sculpt_face_set", "INT", "FACE")
    sets.data.foreach_set("value", np.arange(len(sets.data), dtype=np.int32) + 5)
    obj.data.use_mirror_x, obj.data.remesh_voxel_size = True, 0.0375


@nasty
def turned_inside_out(obj):
    obj.scale, obj.rotation_mode = (-1, 2, 0.5), "QUATERNION"
    obj.rotation_quaternion = (0.5, 0.5, 0.5, -0.5)
    obj.delta_location, obj.delta_scale = (0.1, 0.2, 0.3), (1, 1, -2)
    obj.lock_location, obj.track_axis = (True, False, True), "NEG_Y"


@nasty
def parented_and_bound(obj):
    parent, target = empty("parent", (0, 1, 0)), empty("target")
    obj.parent = parent
    obj.matrix_parent_inverse = ((1, 0, 0, 2), (0, 1, 0, 0), (0, 0, 1, 1), (0, 0, 0, 1))
    constraint = obj.constraints.new("TRACK_TO")
    constraint.target, constraint.influence = target, 0.25
    child = empty("child")
    child.parent, child.parent_type, child.parent_vertices = obj, "VERTEX", (2, 0, 0)


@nasty
def modifiers(obj):
    for name, kind in (("Mirror", "MIRROR"), ("Subdivision", "SUBSURF"), ("Bevel", "BEVEL")):
        obj.modifiers.new(name, kind).show_viewport = False
    obj.modifiers["Bevel"].width, obj.modifiers["Bevel"].limit_method = 0.0125, "VGROUP"
    group = bpy.data.node_groups.new("nodes", "GeometryNodeTree")
    group.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    given, wanted = group.nodes.new("NodeGroupInput"), group.nodes.new("NodeGroupOutput")
    group.links.new(given.outputs[0], wanted.inputs[0])
    obj.modifiers.new("Nodes", "NODES").node_group = group
    drive(obj.modifiers["Bevel"], "width", empty("knob"))


@nasty
def animated(obj):
    obj.location = (1, 0, 0)
    obj.keyframe_insert("location", frame=1)
    obj.location = (2, 0, 0)
    obj.keyframe_insert("location", frame=20)
    drive(obj, "scale", empty("driver"), index=1)
    obj.data.animation_data_create()
    obj.data["speed"] = 2.0
    drive(obj.data, '["speed"]', empty("pedal"))


@nasty
def custom_properties(obj):
    for data in (obj, obj.data):
        data["text"], data["number"], data["list"] = "ä“€", 7, [1.5, 2.5, 3.5]
        data["nested"] = {"inner": {"flag": True, "deep": [1, 2]}, "empty": {}}
        data["friend"] = empty(f"friend of {data.name}")
    obj.id_properties_ui("number").update(min=0, max=10, description="mine")
    obj.data.use_fake_user = True
    obj.pass_index, obj.color, obj.show_name = 3, (1, 0, 0, 0.5), True


@nasty
def odd_names(obj):
    obj.name = 'Bär "1" \\ ' + "x" * 40
    obj.data.name = "mesh 'of mine'"
    group = bpy.data.collections.new("Sammlung ß")
    bpy.context.scene.collection.children.link(group)
    group.objects.link(obj)
    obj.hide_render, obj.display_type = True, "WIRE"
    obj.data.attributes.new("naïve “name”", "FLOAT", "POINT")


@nasty
def particles_and_physics(obj):
    obj.vertex_groups.new(name="hair").add([0, 1], 0.5, "REPLACE")
    obj.modifiers.new("Hair", "PARTICLE_SYSTEM")
    obj.particle_systems[0].vertex_group_density = "hair"
    obj.particle_systems[0].seed = 11
    obj.modifiers.new("Collision", "COLLISION").settings.thickness_outer = 0.125


@nasty
def shared_material(obj):
    """The material is that of another object, too, and animated."""
    material = bpy.data.materials.new("shared")
    material.diffuse_color = (0.25, 0.5, 0.75, 1)
    drive(material, "roughness", empty("slider"))
    other = bpy.data.objects.new("other", bpy.data.meshes.new("other"))
    other.data.materials.append(material)
    bpy.context.scene.collection.objects.link(other)
    obj.data.materials.append(material)
    obj.data.polygons[2].material_index = len(obj.data.materials) - 1
