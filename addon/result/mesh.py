"""The mesh of a result: read it from a job, build it, and update it in an object imported earlier."""

from __future__ import annotations

import bmesh
import bpy
import numpy as np
from mathutils import Matrix
from mathutils.kdtree import KDTree

from ...backend.recdreamer.shared.material_slots import MaterialSlots, slots_in
from ...backend.recdreamer.shared.protocol import JobFolder, RequestError
from ...backend.recdreamer.shared.safe_files import confined, read_npz, reason_of
from ..objects.mesh_data import read_loop_verts, read_material_indices, read_property, read_verts
from ..objects.object_keys import JOB_KEY, SLOT_KEY
from ..objects.rest_positions import frame_of, is_moved_by_hand, is_rest, write_rest
from ..start.mesh_capture import volume_times_six
from ..start.regions import SCULPT_MASK
from .material import remove_material, renewed

RESULT_UV_MAP = "UVMap"
MAX_RESULT_BYTES = 1 << 28
"""Of the arrays, which are read inside of Blender; the largest results have about half of it."""
SlotMaterials = list[tuple[str, bpy.types.Material]]
"""The materials of a result by slot, each with its name, which Blender may have changed to keep it unique."""
_WITHOUT_A_WORD = {"material_index", "sharp_face", "sharp_edge", "custom_normal", "uv_seam"}
"""Attributes that are named otherwise, or whose loss needs no word."""
LARGEST = 1e18
"""Of a coordinate: its square is still a number of 32 bits."""


def read_arrays(job: JobFolder, folder: str = "result") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`verts` (verts 3), `faces` (faces 3) and `uvs` (faces 3 2, v up) of a result, checked. Raises RequestError."""
    try:
        path = confined(job.root, f"{folder}/mesh.npz")
        arrays = read_npz(path, ("verts", "faces", "uvs"), MAX_RESULT_BYTES)
        verts, faces, uvs = (arrays[name] for name in ("verts", "faces", "uvs"))
        shapes_fit = verts.shape[1:] == (3,) and faces.shape[1:] == (3,) and uvs.shape == (len(faces), 3, 2)
        # Before they are converted: a number that is too large would become another one.
        kinds_fit = faces.dtype.kind in "iu" and verts.dtype.kind == uvs.dtype.kind == "f"
        if not (shapes_fit and kinds_fit and len(faces) and faces.min() >= 0 and faces.max() < len(verts)):
            raise ValueError("the faces do not fit the vertices")
        for values in (verts, uvs):
            if not np.abs(values).max() <= LARGEST:
                raise ValueError("a coordinate is not finite")
    except (KeyError, ValueError) as error:
        raise RequestError(
            f"The mesh of this job cannot be read ({reason_of(error)}).",
            "Wait until the job is done, or resume it.",
        ) from error
    return (
        np.ascontiguousarray(verts, np.float32),
        np.ascontiguousarray(faces, np.int32),
        np.ascontiguousarray(uvs, np.float32),
    )


def read_slots(job: JobFolder, folder: str, num_faces: int) -> MaterialSlots | None:
    """The material slots of a result that keeps those of its start, else None. Raises RequestError."""
    path = confined(job.root, f"{folder}/mesh.npz")
    return slots_in(read_npz(path, ("slots", "slot_names"), MAX_RESULT_BYTES), num_faces)


def slot_materials(material: bpy.types.Material, name: str, slots: MaterialSlots | None) -> SlotMaterials:
    """The material, and for further slots copies that share its images, each with the name that its slot has."""
    names = [name] if slots is None else [of_slot or name for of_slot in slots.names]
    found = list(zip(names, [material, *(material.copy() for _ in names[1:])], strict=True))
    for number, (of_slot, one) in enumerate(found):
        one.name, one[SLOT_KEY] = of_slot, number
    return found


def build_mesh(
    name: str,
    verts: np.ndarray,
    faces: np.ndarray,
    uvs: np.ndarray,
    materials: SlotMaterials,
    slots: MaterialSlots | None = None,
) -> bpy.types.Mesh:
    """Build a welded, smooth mesh. UVs are per corner, so seams need no split vertices."""
    mesh = bpy.data.meshes.new(name)
    _fill(mesh, verts, faces, uvs)
    mesh.shade_smooth()
    for _, material in materials:
        mesh.materials.append(material)
    if slots is not None:
        mesh.polygons.foreach_set("material_index", slots.of_face)
    write_rest(mesh, verts)
    return mesh


def _fill(mesh: bpy.types.Mesh, verts: np.ndarray, faces: np.ndarray, uvs: np.ndarray) -> None:
    """Add vertices, triangles and their UV map to a mesh that has none."""
    mesh.vertices.add(len(verts))
    mesh.vertices.foreach_set("co", verts.ravel())
    mesh.loops.add(faces.size)
    mesh.loops.foreach_set("vertex_index", faces.ravel())
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, faces.size, 3, dtype=np.int32))
    mesh.uv_layers.new(name=RESULT_UV_MAP).uv.foreach_set("vector", uvs.ravel())
    mesh.update(calc_edges=True)
    mesh.validate()


def renew_mesh(
    obj: bpy.types.Object,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    materials: SlotMaterials,
    place_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> str:
    """Renew the mesh of an object from its job, or from a later one. Returns a remark for the artist, or an empty string.

    If the faces are the same, all other mesh data is kept; if the vertices are the same, edits by hand are kept, too.
    Otherwise vertex groups and materials are transferred to the nearest vertices and faces. Other objects with the mesh
    keep it. `place_m` is the origin of the new mesh in the space of the job that made the object.
    """
    verts, faces, uvs = arrays
    if obj.data.users - obj.data.use_fake_user > 1:
        obj.data = obj.data.copy()
    mesh, frame = obj.data, Matrix(frame_of(obj.data).tolist()) @ Matrix.Translation(place_m)
    if frame.determinant() < 0 and _is_wound_outward(mesh):
        # Blender 5.2 flips the faces when a mirroring transform is applied; each keeps its first corner.
        faces, uvs = (np.ascontiguousarray(array[:, [0, 2, 1]]) for array in (faces, uvs))
    if len(mesh.polygons) != len(faces) or not np.array_equal(read_loop_verts(mesh), faces.ravel()):
        return _replace_geometry(obj, (verts, faces, uvs), materials, frame)
    remarks = []
    if any(place_m) or not is_rest(mesh, verts):
        if is_moved_by_hand(mesh):
            remarks.append(f"{obj.name!r} has a new shape; vertices moved by hand were reset.")
        _move_verts(mesh, verts, frame)
    layer = (
        mesh.uv_layers.get(RESULT_UV_MAP) or mesh.uv_layers.active or mesh.uv_layers.new(name=RESULT_UV_MAP)
    )
    layer.uv.foreach_set("vector", uvs.ravel())
    if not _put_materials(obj, materials):
        remarks.append(f"{obj.name!r} keeps its own material; the new one is in its last slot.")
    mesh.update()
    return " ".join(remarks)


def _move_verts(mesh: bpy.types.Mesh, verts: np.ndarray, frame: Matrix) -> None:
    """Move the vertices to new places in the job's space; shape keys keep what they add to them."""
    keys = mesh.shape_keys.key_blocks if mesh.shape_keys is not None else ()
    before = [read_property(key.data, "co", width=3) for key in keys]
    places = (np.column_stack((verts, np.ones(len(verts)))) @ np.array(frame).T)[:, :3].astype(np.float32)
    mesh.vertices.foreach_set("co", places.ravel())
    for key, values in zip(keys, before, strict=True):
        key.data.foreach_set("co", (values - before[0] + places).ravel())
    write_rest(mesh, verts)


def _replace_geometry(
    obj: bpy.types.Object,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    materials: SlotMaterials,
    frame: Matrix,
) -> str:
    """Give the mesh other vertices and faces. Returns a remark on transferred and lost data, or an empty string."""
    mesh = obj.data
    gone, groups = _lost(mesh), _read_groups(obj)
    old_verts, old_centers, slots = read_verts(mesh), _centers(mesh), read_material_indices(mesh)
    is_flat = not read_property(mesh.polygons, "use_smooth", bool).any()
    has_parts = len(set(slots.tolist())) > 1
    if mesh.shape_keys is not None:
        obj.shape_key_clear()
    _put_geometry(mesh, arrays, frame)
    if not is_flat:
        mesh.shade_smooth()
    if has_parts:
        slots = slots[_nearest(_centers(mesh), old_centers)]
    else:
        slots = np.full(len(mesh.polygons), slots.max(initial=0), np.int32)
    mesh.polygons.foreach_set("material_index", slots)
    keeps_own = not _put_materials(obj, materials)
    if groups:
        nearest = _nearest(read_verts(mesh), old_verts)
    for group, weights in groups.items():
        for vertex in np.flatnonzero(weights[nearest] >= 0).tolist():
            obj.vertex_groups[group].add([vertex], float(weights[nearest[vertex]]), "REPLACE")
    mesh.update()
    parts = ["its vertex groups were transferred to the nearest vertices"] if groups else []
    parts += ["its materials were transferred to the nearest faces"] if has_parts else []
    parts += ["it keeps its own material, with the new one in the last slot"] if keeps_own else []
    parts += [f"it lost the {listed(gone)} of the old mesh"] if gone else []
    return f"{obj.name!r} has a new mesh: {', and '.join(parts)}." if parts else ""


def _put_geometry(
    mesh: bpy.types.Mesh, arrays: tuple[np.ndarray, np.ndarray, np.ndarray], frame: Matrix
) -> None:
    """Exchange the geometry by way of a BMesh: Mesh.clear_geometry would delete vertex groups and drivers, too."""
    new, shape = bpy.data.meshes.new("RecDreamer"), bmesh.new()
    try:
        _fill(new, *arrays)
        write_rest(new, arrays[0])
        new.transform(frame)
        shape.from_mesh(new)
        shape.to_mesh(mesh)
    finally:
        shape.free()
        bpy.data.meshes.remove(new)


def _lost(mesh: bpy.types.Mesh) -> list[str]:
    """What the artist has put on single vertices, edges, faces and corners, by its name."""
    gone = ["paint"] if len(mesh.color_attributes) or SCULPT_MASK in mesh.attributes else []
    gone += ["shape keys"] if mesh.shape_keys is not None else []
    gone += [f"UV map {layer.name!r}" for layer in mesh.uv_layers if layer.name != RESULT_UV_MAP]
    gone += ["manual edits"] if is_moved_by_hand(mesh) else []
    gone += ["face sets"] if ".sculpt_face_set" in mesh.attributes else []
    gone += ["seams"] if read_property(mesh.edges, "use_seam", bool).any() else []
    gone += ["custom normals"] if mesh.has_custom_normals else []
    known = {*_WITHOUT_A_WORD, *(layer.name for layer in (*mesh.uv_layers, *mesh.color_attributes))}
    return gone + [f"attribute {one.name!r}" for one in mesh.attributes if _is_of_artist(one, known)]


def _is_of_artist(attribute: bpy.types.Attribute, known: set[str]) -> bool:
    return not (attribute.is_required or attribute.name.startswith(".") or attribute.name in known)


def listed(names: list[str], most: int = 5) -> str:
    """Names as a part of a sentence, of many only the first ones.

    >>> listed(["paint", "shape keys", "custom normals"])
    'paint, shape keys and custom normals'
    """
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} others"]
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _put_materials(obj: bpy.types.Object, materials: SlotMaterials) -> bool:
    """Put each material into the slot that it had at the earlier import. Returns False if the first had to be added.

    The first may also go into an empty slot; of the others those whose slot the artist has given to something else are
    not needed.
    """
    (name, material), *others = materials
    is_kept = _put_material(obj, name, material, is_needed=True)
    for name, material in others:
        if not _put_material(obj, name, material, is_needed=False):
            remove_material(material)
    return is_kept


def _put_material(obj: bpy.types.Object, name: str, material: bpy.types.Material, *, is_needed: bool) -> bool:
    """Put a material into its slot; one that is needed also into an empty one, else into a new one, for False."""
    mesh, olds = obj.data, list(obj.data.materials)
    # Of the job that made the object, and of the later one that renews it.
    job, slot = material[JOB_KEY], material[SLOT_KEY]
    slots = [
        i
        for i, old in enumerate(olds)
        if old is not None and old.get(JOB_KEY) in (job, obj[JOB_KEY]) and old.get(SLOT_KEY, 0) == slot
    ]
    slots += [i for i, old in enumerate(olds) if old is None and is_needed]
    if slots:
        old = olds[slots[0]]
        put = material if old is None else renewed(old, material, olds.count(old))
        put[JOB_KEY] = job
        if put == old:
            return True
        mesh.materials[slots[0]] = material = put
        if old is not None:
            remove_material(old)
    elif is_needed:
        mesh.materials.append(material)
    material.name = name
    return bool(slots) or not olds


def _is_wound_outward(mesh: bpy.types.Mesh) -> bool:
    mesh.calc_loop_triangles()
    triangles = read_property(mesh.loop_triangles, "vertices", np.int32, 3)
    verts = read_verts(mesh).astype(np.float64)
    return volume_times_six(verts - verts.mean(0), triangles) > 0


def _centers(mesh: bpy.types.Mesh) -> np.ndarray:
    """Centers of the faces, `faces 3`."""
    return read_property(mesh.polygons, "center", width=3)


def _read_groups(obj: bpy.types.Object) -> dict[str, np.ndarray]:
    """Weights (verts) of each vertex group; -1 if the vertex is not in it."""
    mesh = obj.data
    weights = np.full((len(obj.vertex_groups), len(mesh.vertices)), -1.0)
    for vertex in mesh.vertices if len(weights) else ():
        for element in vertex.groups:
            if element.group < len(weights):
                weights[element.group, vertex.index] = element.weight
    return {group.name: weights[group.index] for group in obj.vertex_groups}


def _nearest(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Index (places) of the nearest of `others` (others 3) for each of `places` (places 3)."""
    tree = KDTree(len(others))
    for index, other in enumerate(others.tolist()):
        tree.insert(other, index)
    tree.balance()
    found = [tree.find(place)[1] for place in places.tolist()]
    return np.array([0 if index is None else index for index in found], np.int64)
