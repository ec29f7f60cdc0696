"""Scene objects as the start mesh of a job: modifiers applied, in metres, front facing -Y."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import bpy
import numpy as np

from ...backend.recdreamer.shared.material_slots import MAX_SLOTS, MaterialSlots, named_slots
from ...backend.recdreamer.shared.protocol import MAX_TRIANGLES, RequestError
from ..objects.evaluation import evaluated, has_faces, instances
from ..objects.mesh_data import read_loop_verts, read_material_indices, read_property, read_verts
from ..objects.pixels import scene_linear_to_srgb
from ..objects.rest_positions import frame_of
from .material_colors import NO_MATERIAL, material_colors, mean_of_corners
from .regions import check_region, region_weights

FLAT = 1e-5
"""An object is flat if its height is at most this share of its length."""


@dataclass(frozen=True)
class CapturedMesh:
    """A mesh moved to the origin, and its original place."""

    arrays: dict[str, np.ndarray]
    """By the names in START_ARRAYS of the protocol."""
    place_m: tuple[float, float, float]
    """Middle of its base in the world."""
    height_m: float
    triangle_loops: np.ndarray | None
    """Loop of the artist's mesh for each corner, `faces 3`; None if modifiers change the topology."""
    has_instances: bool
    """Whether some of it are instances, which are not in the mesh of any of the objects."""


@dataclass(frozen=True)
class _Part:
    """One captured object in world space."""

    verts: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray | None
    region: np.ndarray | None
    rgb: np.ndarray | None
    triangle_loops: np.ndarray | None
    slots: np.ndarray
    """Material slot of each triangle."""
    materials: tuple[str, ...]
    """Names of the materials in the slots; empty for a slot without one."""


def capture_mesh(
    objects: Sequence[bpy.types.Object],
    context: bpy.types.Context,
    *,
    metres_per_unit: float = 1.0,
    front_deg: float = 0.0,
    region: str = "",
    is_local: bool = False,
) -> CapturedMesh:
    """Capture the objects as one triangle mesh. Raises RequestError.

    `front_deg` is the direction of the front: 0 is -Y, 90 is +X. `region` names the part that may change, see
    regions.py. `is_local` captures an imported result, the only object, in the space of its job.
    """
    first = objects[0]

    def capture(with_materials: bool) -> tuple[list[_Part], bool]:
        """The parts, with the colors of their materials where there are no others, and whether some are instances."""
        with evaluated(objects, context) as depsgraph:
            parts = [
                _capture_part(obj, obj.evaluated_get(depsgraph), depsgraph, region, is_local, with_materials)
                for obj in objects
                if has_faces(obj)
            ]
            num_own, count = len(parts), sum(len(part.faces) for part in parts)
            # Each instance is captured where it stands; a region is of the object itself.
            for obj, matrix in () if is_local else instances(depsgraph):
                parts.append(_capture_part(None, obj, depsgraph, region, is_local, with_materials, matrix))
                count += len(parts[-1].faces)
                if count > MAX_TRIANGLES:
                    break
        has_instances = any(len(part.faces) for part in parts[num_own:])
        return [part for part in parts if len(part.faces)], has_instances

    parts, has_instances = capture(with_materials=bool(region))
    if 0 < sum(part.rgb is not None for part in parts) < len(parts):
        parts, has_instances = capture(with_materials=True)
    num_triangles = sum(len(part.faces) for part in parts)
    if not num_triangles:
        raise RequestError(f"{first.name!r} has no faces.", "Add some, or pick another object.")
    if num_triangles > MAX_TRIANGLES:
        raise RequestError(
            f"{first.name!r} has {num_triangles:,} triangles, more than {MAX_TRIANGLES:,}.",
            "Add a Decimate modifier, disable Subdivision, or show fewer instances.",
        )
    arrays = _join(parts)
    if not np.isfinite(arrays["verts"]).all():
        raise RequestError(f"{first.name!r} has a vertex at an invalid position.", "Repair the mesh.")
    if region:
        check_region(first, region, arrays["region"])
    verts = arrays["verts"].astype(np.float64) * (1.0 if is_local else metres_per_unit)
    place, height = np.zeros(3), float(np.ptp(verts[:, 2]))
    if is_local:
        inverse = np.linalg.inv(frame_of(first.data))
        verts = verts @ inverse[:3, :3].T + inverse[:3, 3]
        if volume_times_six(verts, arrays["faces"]) < 0:
            # The artist mirrored the object, and some versions of Blender then flip the faces.
            for name in arrays.keys() & {"faces", "uvs"}:
                arrays[name] = np.ascontiguousarray(arrays[name][:, ::-1])
    else:
        verts = front_turned(verts, front_deg)
        low, high = verts.min(0), verts.max(0)
        base = np.array(((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]))
        verts -= base
        place = _turn(front_deg) @ base
    arrays["verts"] = verts.astype(np.float32)
    alone = parts[0] if len(parts) == 1 else None
    return CapturedMesh(arrays, tuple(place.tolist()), height, alone and alone.triangle_loops, has_instances)


def shown_mesh(
    objects: Sequence[bpy.types.Object], context: bpy.types.Context
) -> tuple[dict[str, np.ndarray], bool]:
    """The objects without their instances, in the world's space and units, as the present view layer has them.

    And whether modifiers leave their faces as they are. Takes less time than capture_mesh, and changes no data, so that
    it may be called while the panel is drawn. Raises RequestError.
    """
    parts = []
    for obj in objects:
        is_as_edited = obj.type == "MESH" and not obj.modifiers and not obj.data.shape_keys
        depsgraph = None if is_as_edited else context.evaluated_depsgraph_get()
        shown = obj if is_as_edited else obj.evaluated_get(depsgraph)
        parts.append(_capture_part(obj, shown, depsgraph, "", False, False))
    return _join(parts), all(part.triangle_loops is not None for part in parts)


def front_turned(verts: np.ndarray, front_deg: float) -> np.ndarray:
    """Vertices `verts 3` of the world, turned so that the front faces -Y."""
    return verts @ _turn(-front_deg).T


def is_flat(captured: CapturedMesh) -> bool:
    """True if the mesh has no height to which a result could be scaled."""
    return captured.height_m <= FLAT * float(np.ptp(captured.arrays["verts"], axis=0).max())


def _capture_part(
    obj: bpy.types.Object | None,
    shown: bpy.types.Object,
    depsgraph: bpy.types.Depsgraph | None,
    region: str,
    is_local: bool,
    with_materials: bool,
    matrix: np.ndarray | None = None,
) -> _Part:
    """The object as it is shown, at its own place; or an instance at `matrix`, for which `obj` is None."""
    try:
        is_plain = obj in (None, shown) and shown.type == "MESH"
        mesh = shown.data if is_plain else shown.to_mesh(preserve_all_data_layers=True, depsgraph=depsgraph)
    except RuntimeError:
        mesh = None
    if mesh is None:
        raise RequestError(f"{shown.name!r} cannot be converted to a mesh.", "Pick another object.")
    try:
        if matrix is None:
            matrix = np.eye(4) if is_local else np.array(shown.matrix_world)
        verts = read_verts(mesh).astype(np.float64) @ matrix[:3, :3].T
        verts += matrix[:3, 3]
        mesh.calc_loop_triangles()
        materials = tuple(slot.material.name if slot.material else "" for slot in shown.material_slots)
        slots = read_material_indices(mesh)[read_property(mesh.loop_triangles, "polygon_index", np.int32)]
        faces = read_property(mesh.loop_triangles, "vertices", np.int32, 3)
        loops = read_property(mesh.loop_triangles, "loops", np.int32, 3)
        if np.linalg.det(matrix[:3, :3]) < 0:
            # Without reversing the corners, a mirrored object would be inside out.
            faces, loops = (np.ascontiguousarray(array[:, ::-1]) for array in (faces, loops))
        uvs = _read_uvs("" if obj is None else uv_map_of(obj), mesh)
        loop_verts = read_loop_verts(mesh)
        is_mesh = obj is not None and obj.type == "MESH"
        is_kept = is_mesh and np.array_equal(loop_verts, read_loop_verts(obj.data))
        weights = None
        if region:
            weights = np.zeros(len(verts), np.float32) if obj is None else region_weights(shown, mesh, region)
        return _Part(
            verts,
            faces,
            None if uvs is None else uvs[loops],
            weights,
            _read_colors(shown, mesh, loop_verts, uvs, region, with_materials),
            loops if is_kept else None,
            # Faces with an index beyond the last slot show the last one.
            slots.clip(0, max(len(materials) - 1, 0)),
            materials,
        )
    finally:
        if not is_plain:
            shown.to_mesh_clear()


def _read_uvs(uv_map: str, mesh: bpy.types.Mesh) -> np.ndarray | None:
    """UVs `loops 2` of this UV map, else the active one, or None if there is none."""
    layer = mesh.uv_layers.get(uv_map) or mesh.uv_layers.active
    return None if layer is None or not len(mesh.loops) else read_property(layer.uv, "vector", width=2)


def uv_map_of(obj: bpy.types.Object) -> str:
    """Name of the active UV map; empty if there is none."""
    layers = obj.data.uv_layers if obj.type == "MESH" else None
    return layers.active.name if layers and layers.active else ""


def _read_colors(
    obj: bpy.types.Object,
    mesh: bpy.types.Mesh,
    loop_verts: np.ndarray,
    uvs: np.ndarray | None,
    region: str,
    with_materials: bool,
) -> np.ndarray | None:
    """sRGB colors `verts 3` of the active color attribute, unless it is the region itself.

    Without such an attribute, colors of the materials, if there are some, `with_materials`; else None.
    """
    attribute = mesh.color_attributes.active_color
    if attribute is not None and len(attribute.data) and attribute.name != region:
        rgb = scene_linear_to_srgb(read_property(attribute.data, "color", width=4)[:, :3])
        if attribute.domain == "CORNER":
            rgb = mean_of_corners(rgb, loop_verts, len(mesh.vertices))
    elif with_materials:
        materials = read_material_indices(mesh)
        corners = read_property(mesh.polygons, "loop_total", np.int32)
        rgb = material_colors(obj, loop_verts, np.repeat(materials, corners), uvs, len(mesh.vertices))
    else:
        rgb = None
    return None if rgb is None else rgb.clip(0, 1).astype(np.float32)


def _join(parts: Sequence[_Part]) -> dict[str, np.ndarray]:
    """Join the parts without loose vertices. Where only some have UVs, the others have NaN; where only some have
    colors, the others are gray.
    """
    verts = np.concatenate([part.verts for part in parts])
    starts = np.cumsum([0, *(len(part.verts) for part in parts)])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=False)])
    used = np.zeros(len(verts), bool)
    used[faces] = True
    arrays = {"verts": verts[used], "faces": (np.cumsum(used) - 1)[faces].astype(np.int32)}
    if all(part.region is not None for part in parts):
        arrays["region"] = np.concatenate([part.region for part in parts])[used]
    if any(part.rgb is not None for part in parts):
        gray = [np.full((len(part.verts), 3), NO_MATERIAL, np.float32) for part in parts]
        rgb = [none if part.rgb is None else part.rgb for part, none in zip(parts, gray, strict=True)]
        arrays["rgb"] = np.concatenate(rgb)[used]
    if any(part.uvs is not None for part in parts):
        bare = [np.full((len(part.faces), 3, 2), np.nan, np.float32) for part in parts]
        uvs = [none if part.uvs is None else part.uvs for part, none in zip(parts, bare, strict=True)]
        arrays["uvs"] = np.concatenate(uvs)
    slots = _join_slots(parts)
    return arrays if slots is None else arrays | slots.as_arrays()


def _join_slots(parts: Sequence[_Part]) -> MaterialSlots | None:
    """The slots of the only part as they are; of several, one for each material. None without materials."""
    if len(parts) == 1:
        slots, materials = parts[0].slots, parts[0].materials
        return MaterialSlots(slots, materials) if any(materials) and len(materials) <= MAX_SLOTS else None
    names = [name for name in dict.fromkeys(name for part in parts for name in part.materials) if name]
    place = {name: index for index, name in enumerate(names)}
    of_part = [np.array([place.get(name, -1) for name in part.materials or ("",)]) for part in parts]
    return named_slots(
        np.concatenate([places[part.slots] for places, part in zip(of_part, parts, strict=True)]), names
    )


def volume_times_six(verts: np.ndarray, faces: np.ndarray) -> float:
    """Six times the volume of a closed mesh `verts` (verts 3), `faces` (faces 3); negative if inside out."""
    a, b, c = (verts[faces[:, corner]] for corner in range(3))
    return float((a * np.cross(b, c)).sum())


def _turn(angle_deg: float) -> np.ndarray:
    """Rotation about Z, counter-clockwise seen from above."""
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return np.array(((cos, -sin, 0), (sin, cos, 0), (0, 0, 1)))
