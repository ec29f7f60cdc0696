"""The mesh that a job starts from: read and checked, and placed into the cube [-1, 1]^3."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from jaxtyping import Float

from recdreamer.mesh.mesh import turned
from recdreamer.paths import given_path
from recdreamer.shared.material_slots import MAX_SLOTS, named_slots, slots_in
from recdreamer.shared.protocol import MAX_TRIANGLES, START_ARRAYS, RequestError, Start
from recdreamer.shared.safe_files import FileMissing, confined, printable, read_bounded, read_npz, reason_of
from recdreamer.shared.start_check import check_extent, check_start
from recdreamer.shared.uv_map import bare_faces
from recdreamer.start.given_mesh import MAX_CORNERS, GivenMesh, Unreadable
from recdreamer.start.gltf_file import OpenFile, read_gltf
from recdreamer.start.obj_file import read_obj
from recdreamer.start.ply_file import read_ply
from recdreamer.start.stl_file import read_stl

CHOOSE = "Choose the object to start from again."
GIVE = "Give an .npz, .obj, .ply, .stl, .glb or .gltf file."
Y_UP = (".obj", ".glb", ".gltf")
MAX_FILE_BYTES = 512 * 2**20
"""Of a mesh file, and of all arrays of a START_MESH: the largest have as much in double precision, and text takes about
100 bytes per triangle."""
MAX_NOTES = 10
WIDTHS: dict[str, tuple[int, ...]] = {
    "verts": (3,), "faces": (3,), "uvs": (3, 2), "region": (), "rgb": (3,), "slots": (), "slot_names": ()
}  # fmt: skip
"""Shape of an item of each array."""
WHOLE_NUMBERS = {"faces": np.int32, "slots": np.int32, "slot_names": np.uint8}
"""Types of the arrays that are not float32."""


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


def start_mesh_bytes(path: Path, start: Start = "object") -> bytes:
    """The START_MESH of a file in a common format. Raises RequestError for a file that cannot be used.

    OBJ and glTF have Y up and the front at +Z, as Blender writes them; other formats are read as they are. Vertices
    that the format has split, at UV seams or at every corner, are merged; faces keep their order and their UVs. What
    is changed or left out is noted in the START_MESH.
    """
    path = given_path(path)
    if not path.is_file():
        raise RequestError(f"There is no mesh {printable(path)}.", GIVE)
    # The artist's own link may be followed.
    data = read_bounded(path.resolve(), MAX_FILE_BYTES)
    if path.suffix.lower() == ".npz":
        check_start(checked(read_npz(data, START_ARRAYS, MAX_FILE_BYTES)), start)
        return data
    try:
        with np.errstate(all="ignore"):  # What is not finite is refused below.
            given = read_parts(path, data)
            arrays, notes = _as_start_mesh(given, path.suffix.lower() in Y_UP)
    except Unreadable as error:
        raise RequestError(
            f"The mesh {printable(path.name)} cannot be read: {reason_of(error)}.", GIVE
        ) from error
    arrays = checked(arrays)
    check_start(arrays, start)
    if notes:
        arrays = {**arrays, "notes": np.frombuffer("\n".join(notes).encode(), np.uint8)}
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def read_parts(path: Path, data: bytes) -> GivenMesh:
    """The content of a mesh file in any format but .npz. Raises Unreadable and RequestError."""
    match path.suffix.lower():
        case ".obj":
            return read_obj(data)
        case ".ply":
            return read_ply(data)
        case ".stl":
            return read_stl(data)
        case ".glb" | ".gltf":
            return read_gltf(data, beside(path))
        case suffix:
            raise Unreadable(f"{suffix or 'a file without suffix'} is none of the formats that are read")


def beside(path: Path) -> OpenFile:
    """Reads the files beside a .gltf, by the names that it has for them."""
    return lambda name: read_bounded(confined(path.parent, unquote(name)), MAX_FILE_BYTES)


def _as_start_mesh(given: GivenMesh, is_y_up: bool) -> tuple[dict[str, np.ndarray], list[str]]:
    """The parts as one mesh with welded vertices, and a sentence if anything of the file was changed or left out."""
    parts, changes = [part for part in given.parts if len(part.faces)], []
    if not parts:
        raise Unreadable("it has no faces")
    starts = np.cumsum([0, *(len(part.verts) for part in parts)])
    verts = np.concatenate([part.verts for part in parts])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts[:-1], strict=True)])
    if is_y_up:
        verts = verts[:, [0, 2, 1]] * (1, -1, 1)
    arrays = {"verts": verts, "faces": faces}
    uvs = np.concatenate(
        [np.full((len(part.faces), 3, 2), np.nan) if part.uvs is None else part.uvs for part in parts]
    )
    if not np.isnan(uvs).all():
        arrays["uvs"] = uvs
    slots = named_slots(
        np.concatenate(
            [np.full(len(part.faces), -1) if part.materials is None else part.materials for part in parts]
        ),
        given.materials,
    )
    if slots is not None:
        arrays |= slots.as_arrays()
    elif given.materials:
        changes.append(f"its {len(given.materials):,} materials become one; up to {MAX_SLOTS:,} are kept")
    # In the order in which the faces use them, so that the same vertices stand in the same order.
    used, index = np.unique(faces, return_inverse=True)
    # Zeros of either sign are one place.
    places, first, welded = np.unique(
        verts[used].astype(np.float32) + np.float32(0), axis=0, return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    arrays["verts"], arrays["faces"] = places[order], rank[welded.reshape(-1)][index.reshape(-1, 3)]
    if len(places) < len(used):
        changes.append(f"{len(used):,} vertices at {len(places):,} places were merged")
    if given.left_out:
        changes.append(f"left out: {', '.join(given.left_out)}")
    return arrays, [f"The mesh was changed when it was read: {'; '.join(changes)}."] if changes else []


def read_start_mesh(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a START_MESH, see protocol.py. Raises RequestError with one sentence for the first fault."""
    return checked(_arrays(path, START_ARRAYS))


def start_notes(path: Path) -> list[str]:
    """What was changed or left out when a START_MESH was made, one sentence each; at most MAX_NOTES. RequestError."""
    notes = _arrays(path, ("notes",)).get("notes", np.zeros(0, np.uint8))
    text = notes.astype(np.uint8).tobytes()[: MAX_NOTES * 1000].decode("utf-8", errors="replace")
    return [printable(line) for line in text.splitlines() if line.strip()][:MAX_NOTES]


def _arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        return read_npz(path, names, MAX_FILE_BYTES)
    except FileMissing as error:
        raise RequestError(f"The mesh to start from is missing ({printable(path)}).", CHOOSE) from error
    except RequestError as error:
        raise RequestError(f"The mesh to start from cannot be read: {error.message}", CHOOSE) from error


def checked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of a START_MESH in their types. Raises RequestError with one sentence for the first fault."""
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
    if len(verts) > MAX_CORNERS:
        raise RequestError(
            f"The mesh to start from has {len(verts):,} vertices, more than {MAX_CORNERS:,}.",
            "Delete the loose ones, or choose a simpler object.",
        )
    if faces.min() < 0 or faces.max() >= len(verts):
        raise RequestError("A face of the mesh to start from uses a vertex that does not exist.", CHOOSE)
    by_face, by_vert = (
        dict.fromkeys(("uvs", "slots"), len(faces)),
        dict.fromkeys(("region", "rgb"), len(verts)),
    )
    for name, count in (by_face | by_vert).items():
        if name in arrays and len(arrays[name]) != count:
            raise RequestError(
                f"The {name} of the mesh to start from have {len(arrays[name])} entries, not {count}.", CHOOSE
            )
    check_extent(verts, faces)
    for name in ("region", "rgb"):
        if name in arrays and not (arrays[name].min() >= 0 and arrays[name].max() <= 1):
            raise RequestError(f"The {name} of the mesh to start from are not all between 0 and 1.", CHOOSE)
    if "region" in arrays and not arrays["region"].any():
        raise RequestError(
            "The region that may change is empty.", "Assign vertices to it, or start without a region."
        )
    slots_in(arrays, len(faces))
    if "uvs" in arrays and bare_faces(arrays["uvs"]).all():
        arrays = {name: array for name, array in arrays.items() if name != "uvs"}
    return {name: array.astype(WHOLE_NUMBERS.get(name, np.float32)) for name, array in arrays.items()}


def _check_array(name: str, array: np.ndarray) -> None:
    item = WIDTHS[name]
    if array.ndim != 1 + len(item) or array.shape[1:] != item:
        expected = "×".join(("n", *map(str, item)))
        raise RequestError(
            f"The {name} of the mesh to start from have the shape {array.shape}, not {expected}.", CHOOSE
        )
    if array.dtype.kind not in ("iu" if name in WHOLE_NUMBERS else "f"):
        kind = "whole numbers" if name in WHOLE_NUMBERS else "floating point numbers"
        raise RequestError(f"The {name} of the mesh to start from are {array.dtype}, not {kind}.", CHOOSE)
    with np.errstate(over="ignore", invalid="ignore"):
        values = array[~bare_faces(array)] if name == "uvs" else array
        is_finite = array.dtype.kind != "f" or bool(np.isfinite(values.astype(np.float32)).all())
    if not is_finite:
        what = {"verts": "vertices", "uvs": "UVs"}.get(name, name)
        raise RequestError(
            f"The {what} of the mesh to start from are not all finite numbers.", "Repair the mesh."
        )
