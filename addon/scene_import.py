"""From a finished job folder to an object in the scene."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from zipfile import BadZipFile

import bpy
import numpy as np

from ..backend.recdreamer.protocol import JobFolder, JobRequest, RequestError
from . import compat
from .properties import metres_per_unit

JOB_KEY = "recdreamer_job"
"""Custom property that ties an object to its job."""
PARTICLE_KEY = "recdreamer_particle"
"""Custom property that tells the objects of one job apart, from 0."""

NAME_LENGTH = 40
_GAP = 1.2
"""Distance between neighbours in a row, in widths."""


def import_result(job_folder: str | Path, context: bpy.types.Context | None = None) -> list[bpy.types.Object]:
    """The result of a finished job: an object for each particle, selected, the first one active.

    New ones stand in a row along X from the 3D cursor. An object of the same job that is already in the file gets
    the new mesh and keeps its transform, modifiers and name. Meshes are in metres and scaled to the scene's unit, the
    origin is at the base, the front looks along -Y. Raises RequestError with one clear sentence when the folder holds
    no whole result.
    """
    context = context or bpy.context
    job = JobFolder(Path(job_folder))
    request = job.read_request()
    name = request.prompt.strip()[:NAME_LENGTH]
    # Everything that can fail comes before the first object, so that a failure leaves nothing behind.
    folders = [job.result, *sorted(job.result.glob("particle-*"), key=lambda path: int(path.name[9:]))]
    arrays = [_read_arrays(folder / "mesh.npz") for folder in folders]
    materials = _build_materials(name, [folder / "albedo.png" for folder in folders])

    results, right, scale = [], 0.0, 1 / metres_per_unit(context.scene)
    for index, ((verts, faces, uvs), material) in enumerate(zip(arrays, materials, strict=True)):
        mesh = _build_mesh(name, verts, faces, uvs)
        mesh.materials.append(material)
        result = find_imported(job.root.name, index)
        if result is not None:
            _replace_mesh(result, mesh)
            # The old datablocks are gone now, so the new ones can have their names.
            mesh.name = material.name = name
        else:
            result = bpy.data.objects.new(name, mesh)
            result.location = context.scene.cursor.location
            result.location.x += right * scale
            result.scale = (scale,) * 3
            context.collection.objects.link(result)
        right += _GAP * float(np.ptp(verts[:, 0]))
        _stamp(result, job.root.name, index, request)
        results.append(result)
    _select_only(results, context)
    return results


def find_imported(job_id: str, particle: int = 0) -> bpy.types.Object | None:
    """The object that holds this result of this job, or None."""
    for obj in bpy.data.objects:
        if obj.get(JOB_KEY) == job_id and obj.get(PARTICLE_KEY, 0) == particle and obj.type == "MESH":
            return obj
    return None


def _read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`verts` (verts 3), `faces` (faces 3) and `uvs` (faces 3 2, v up), checked."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            verts = np.ascontiguousarray(arrays["verts"], np.float32)
            faces = np.ascontiguousarray(arrays["faces"], np.int32)
            uvs = np.ascontiguousarray(arrays["uvs"], np.float32)
        shapes_fit = verts.shape[1:] == (3,) and faces.shape[1:] == (3,) and uvs.shape == (len(faces), 3, 2)
        if not (shapes_fit and len(faces) and faces.min() >= 0 and faces.max() < len(verts)):
            raise ValueError("the faces do not fit the vertices")
        if not (np.isfinite(verts).all() and np.isfinite(uvs).all()):
            raise ValueError("a coordinate is not finite")
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise RequestError(
            f"The mesh of this job cannot be read ({error}).", "Wait until the job is done, or resume it."
        ) from error
    return verts, faces, uvs


def _build_mesh(name: str, verts: np.ndarray, faces: np.ndarray, uvs: np.ndarray) -> bpy.types.Mesh:
    """One welded, smooth mesh; UVs are per corner, so seams need no split vertices."""
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(verts))
    mesh.vertices.foreach_set("co", verts.ravel())
    mesh.loops.add(faces.size)
    mesh.loops.foreach_set("vertex_index", faces.ravel())
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, faces.size, 3, dtype=np.int32))
    mesh.uv_layers.new(name="UVMap").uv.foreach_set("vector", uvs.ravel())
    mesh.shade_smooth()
    mesh.update(calc_edges=True)
    mesh.validate()
    return mesh


def _build_materials(name: str, albedos: list[Path]) -> list[bpy.types.Material]:
    materials: list[bpy.types.Material] = []
    try:
        for albedo in albedos:
            materials.append(_build_material(name, albedo))
    except RequestError:
        for material in materials:
            _remove_material(material)
        raise
    return materials


def _build_material(name: str, albedo: Path) -> bpy.types.Material:
    """Principled BSDF with the albedo packed into the .blend, so that the scene needs no job folder."""
    image = _load_image(albedo)
    image.name = f"{name} albedo"
    image.colorspace_settings.name = "sRGB"
    image.pack()

    material = compat.new_node_material(name)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    principled = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    texture = nodes.new("ShaderNodeTexImage")
    texture.image = image
    texture.location = (principled.location.x - 320, principled.location.y)
    links.new(texture.outputs["Color"], principled.inputs["Base Color"])
    principled.inputs["Roughness"].default_value = 0.7
    nodes.active = texture
    return material


def _load_image(path: Path) -> bpy.types.Image:
    problem = RequestError("The texture of this job cannot be read.", "Resume the job to write it again.")
    try:
        image = bpy.data.images.load(str(path))
    except RuntimeError:
        raise problem from None
    # Blender loads lazily: only the size tells whether there is a picture in the file.
    if not (image.size[0] and image.size[1]):
        bpy.data.images.remove(image)
        raise problem
    return image


def _replace_mesh(obj: bpy.types.Object, mesh: bpy.types.Mesh) -> None:
    """Swap the data and drop the old mesh, material and image that nothing else uses."""
    old_mesh = obj.data
    old_materials = [material for material in old_mesh.materials if material is not None]
    obj.data = mesh
    if old_mesh.users == 0:
        bpy.data.meshes.remove(old_mesh)
    for material in old_materials:
        _remove_material(material)


def _remove_material(material: bpy.types.Material) -> None:
    """With its images, unless something else uses them."""
    if material.users == 0:
        images = [node.image for node in material.node_tree.nodes if node.type == "TEX_IMAGE" and node.image]
        bpy.data.materials.remove(material)
        for image in images:
            if image.users == 0:
                bpy.data.images.remove(image)


def _stamp(obj: bpy.types.Object, job_id: str, particle: int, request: JobRequest) -> None:
    """Write down on the object how it was made."""
    obj[JOB_KEY] = job_id
    obj[PARTICLE_KEY] = particle
    obj["recdreamer_prompt"] = request.prompt
    obj["recdreamer_method"] = request.method
    # Custom properties hold 32-bit integers; a larger seed is kept as text.
    obj["recdreamer_seed"] = request.seed if abs(request.seed) < 2**31 else str(request.seed)
    obj["recdreamer_settings"] = json.dumps(asdict(request), ensure_ascii=False)


def _select_only(objects: list[bpy.types.Object], context: bpy.types.Context) -> None:
    # A view layer learns of new objects when it is next updated.
    context.view_layer.update()
    visible = [obj for obj in objects if obj.name in context.view_layer.objects]
    if not visible:
        return
    for other in context.view_layer.objects:
        other.select_set(other in visible)
    context.view_layer.objects.active = visible[0]
