"""The mesh that a job starts from: read and checked, and placed into the cube [-1, 1]^3."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from recdreamer.mesh.mesh import turned
from recdreamer.protocol import MAX_TRIANGLES, START_ARRAYS, RequestError

CHOOSE = "Choose the object to start from again."
WIDTHS: dict[str, tuple[int, ...]] = {"verts": (3,), "faces": (3,), "uvs": (3, 2), "region": (), "rgb": (3,)}
"""Shape of an item of each array."""


@dataclass(frozen=True)
class Placement:
    """The position of a mesh in the scene: scene = R(yaw)⁻¹ world · scale + offset, with R a turn about Z."""

    scale: float
    """Scene units per metre."""
    offset: tuple[float, float, float]
    """Scene units."""
    yaw_deg: float = 0.0
    """Turn of the mesh in the world, counter-clockwise from above."""

    @staticmethod
    def centred(verts: Float[np.ndarray, "verts 3"], half_size: float) -> Placement:
        """The placement with the middle of the bounding box at the origin and half of its longest side `half_size`."""
        low, high = verts.min(0).astype(np.float64), verts.max(0).astype(np.float64)
        return Placement.of_box((low + high) / 2, float((high - low).max()), np.zeros(3), 2 * half_size)

    @staticmethod
    def of_box(
        place: Float[np.ndarray, "3"],
        size: float,
        scene_place: Float[np.ndarray, "3"],
        scene_size: float,
    ) -> Placement:
        """The placement that maps `place` to `scene_place` and the length `size` to `scene_size`."""
        scale = scene_size / size
        x, y, z = (scene_place - scale * place).tolist()
        return Placement(scale, (x, y, z))

    def to_scene(self, verts: Float[np.ndarray, "verts 3"]) -> Float[np.ndarray, "verts 3"]:
        return (turned(verts, -self.yaw_deg) * self.scale + self.offset).astype(np.float32)

    def to_world(self, verts: Float[np.ndarray, "verts 3"]) -> Float[np.ndarray, "verts 3"]:
        """The inverse of `to_scene`, up to rounding. The starting point keeps the artist's own vertices exactly."""
        return turned((verts - np.asarray(self.offset)) / self.scale, self.yaw_deg).astype(np.float32)


def start_mesh_bytes(path: Path) -> bytes:
    """The START_MESH of a file in a common format. Raises RequestError for a file that cannot be read.

    OBJ and glTF have Y up and the front at +Z, as Blender writes them; other formats are read as they are. Vertices
    that the format has split, at UV seams or at every corner, are merged.
    """
    import trimesh

    if not path.is_file():
        raise RequestError(f"There is no mesh {path}.", "Give an .npz, .obj, .ply, .stl or .glb file.")
    if path.suffix.lower() == ".npz":
        read_start_mesh(path)
        return path.read_bytes()
    try:
        found: Any = trimesh.load_mesh(path, process=False)
    except Exception as error:  # Each format has its own.
        raise RequestError(
            f"The mesh {path} cannot be read ({type(error).__name__}).",
            "Give an .npz, .obj, .ply, .stl or .glb file.",
        ) from error
    arrays = {"verts": np.asarray(found.vertices, np.float32), "faces": np.asarray(found.faces, np.int32)}
    if path.suffix.lower() in (".obj", ".glb", ".gltf"):
        arrays["verts"] = arrays["verts"][:, [0, 2, 1]] * np.array([1, -1, 1], np.float32)
    uvs = getattr(found.visual, "uv", None)
    if uvs is not None:
        arrays["uvs"] = np.asarray(uvs, np.float32)[arrays["faces"]]
    arrays["verts"], welded = np.unique(arrays["verts"], axis=0, return_inverse=True)
    arrays["faces"] = welded.reshape(-1)[arrays["faces"]].astype(np.int32)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def read_start_mesh(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a START_MESH, see protocol.py. Raises RequestError with one sentence for the first fault."""
    try:
        # Read into memory first: numpy leaves a file open that turns out not to be an archive.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in START_ARRAYS if name in file}
    except FileNotFoundError as error:
        raise RequestError(f"The mesh to start from is missing ({path}).", CHOOSE) from error
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise RequestError(f"The mesh to start from cannot be read ({path}).", CHOOSE) from error
    for name in ("verts", "faces"):
        if name not in arrays:
            raise RequestError(f"The mesh to start from has no {name}.", CHOOSE)
    for name, array in arrays.items():
        _check_array(name, array)
    verts, faces = arrays["verts"], arrays["faces"]
    if len(faces) == 0:
        raise RequestError("The mesh to start from is empty.", "Choose an object that has faces.")
    if len(faces) > MAX_TRIANGLES:
        raise RequestError(
            f"The mesh to start from has {len(faces):,} triangles, more than {MAX_TRIANGLES:,}.",
            "Add a Decimate modifier, or choose a simpler object.",
        )
    if faces.min() < 0 or faces.max() >= len(verts):
        raise RequestError("A face of the mesh to start from uses a vertex that does not exist.", CHOOSE)
    for name, count in (("uvs", len(faces)), ("region", len(verts)), ("rgb", len(verts))):
        if name in arrays and len(arrays[name]) != count:
            raise RequestError(
                f"The {name} of the mesh to start from have {len(arrays[name])} entries, not {count}.", CHOOSE
            )
    used = verts[np.unique(faces)].astype(np.float64)
    corners = verts[faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    extent = float(np.ptp(used, axis=0).max())
    # Far from the origin, float32 coordinates cannot tell the vertices apart.
    if extent <= 1e-6 * float(np.abs(used).max(initial=0.0)) or not normals.any():
        raise RequestError(
            "The mesh to start from has no extent: all its faces are points or lines.",
            "Choose an object with a surface, near the origin of the scene.",
        )
    for name in ("region", "rgb"):
        if name in arrays and not (arrays[name].min() >= 0 and arrays[name].max() <= 1):
            raise RequestError(f"The {name} of the mesh to start from are not all between 0 and 1.", CHOOSE)
    if "region" in arrays and not arrays["region"].any():
        raise RequestError(
            "The region that may change is empty.", "Assign vertices to it, or start without a region."
        )
    return {name: array.astype(np.int32 if name == "faces" else np.float32) for name, array in arrays.items()}


def _check_array(name: str, array: np.ndarray) -> None:
    item = WIDTHS[name]
    if array.ndim != 1 + len(item) or array.shape[1:] != item:
        expected = "×".join(("n", *map(str, item)))
        raise RequestError(
            f"The {name} of the mesh to start from have the shape {array.shape}, not {expected}.", CHOOSE
        )
    if array.dtype.kind not in ("iu" if name == "faces" else "f"):
        kind = "whole numbers" if name == "faces" else "floating point numbers"
        raise RequestError(f"The {name} of the mesh to start from are {array.dtype}, not {kind}.", CHOOSE)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RequestError(f"The {name} of the mesh to start from are not all finite.", "Repair the mesh.")
