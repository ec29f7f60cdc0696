"""What becomes of the start of a job, said before the job is made, by the functions that its worker asks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ...backend.recdreamer.shared.protocol import RequestError, Start
from ...backend.recdreamer.shared.start_check import check_extent, check_size, check_start, painted_uvs
from ...backend.recdreamer.shared.uv_map import rows_of_grid, tile_numbers
from ..objects.evaluation import MESHABLE, has_faces
from .fingerprint import digest
from .mesh_capture import CapturedMesh, capture_mesh, front_turned, shown_mesh, uv_map_of

FRESH_S = 2.0
"""Time for which objects are not read again; longer if reading takes longer."""
MOST_OF_THE_TIME = 20
"""Objects are not read again for this many times as long as that takes."""
MAX_FACES = 100_000
"""Of objects that are read while the panel is drawn; a mesh of so many takes a third of a second."""
MAX_WORK = 300_000
"""Faces and, of a UV map, rows of the grid on which its overlaps are counted, that are judged while the panel is drawn:
a quarter of a second. A map with many overlaps, or one of many materials with many tiles, would take many."""
MAX_KEPT = 32


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a start."""

    problem: RequestError | None = None
    """Why no job can start from it."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Shown:
    """Objects as they were read last."""

    of: tuple
    read_at: float
    fresh_s: float
    arrays: dict[str, np.ndarray]
    key: str
    keeps_faces: bool
    """Whether modifiers leave the faces as they are."""
    is_long: bool = False
    """Whether a verdict takes too long while the panel is drawn."""
    refusal: str = ""
    """Why Generate would refuse objects that were checked."""


FIT = Verdict()
NO_ROOM = (
    "The UVs of several materials overlap, and modifiers change the faces.",
    "Unwrap it with all materials together (UV › Smart UV Project), or apply the modifiers.",
)
_verdicts: dict[str, Verdict] = {}
"""By digest of the mesh; those that were asked for last, at the end."""
_shown: list[_Shown] = []
"""Of the only start that the panel shows."""
_checked: list[_Shown] = []
"""The start that *Check Object* has evaluated last, until one of its objects changes."""


def verdict_of(objects: Sequence[bpy.types.Object], kind: Start) -> Verdict:
    """The verdict on the extent, the UVs and the materials of the objects that a job starts from.

    Fit where it takes too long for a redraw to know, and for objects whose mesh can only be known by evaluating them in a
    scene of their own: Generate and *Check Object* do both.
    """
    found = _read(objects, kind)
    if found is None:
        return FIT
    if found.refusal:
        # No problem: it may have been mended since in a way that is not seen, and Generate evaluates it again.
        return Verdict(warnings=(found.refusal,))
    verdict_on = _known(found, kind) or FIT
    # The panel says in words of its own what becomes of an object without a UV map.
    has_map = kind != "texture" or bool(uv_map_of(objects[0]))
    return verdict_on if has_map else Verdict(verdict_on.problem)


def is_unread(objects: Sequence[bpy.types.Object], kind: Start) -> bool:
    """True if the panel cannot know what becomes of the objects until *Check Object* evaluates them."""
    if _checked and _checked[0].of == _key(objects, kind):
        return False
    if _is_costly(objects):
        return True
    found = _read(objects, kind)
    return found is not None and _known(found, kind) is None


def check(objects: Sequence[bpy.types.Object], kind: Start, context: bpy.types.Context) -> None:
    """Evaluate the objects as Generate does, and keep what is found. Raises RequestError where Generate would."""
    _checked.clear()
    captured = capture_mesh(objects, context)
    refusal = None
    try:
        check_captured(captured, objects[0], kind)
    except RequestError as error:
        refusal = error
    key, keeps_faces = key_of(captured.arrays), captured.triangle_loops is not None
    said = str(refusal or "")
    _checked.append(_Shown(_key(objects, kind), 0.0, 0.0, captured.arrays, key, keeps_faces, refusal=said))
    if refusal is not None:
        raise refusal


def check_captured(captured: CapturedMesh, obj: bpy.types.Object, kind: Start) -> None:
    """Raise RequestError if the worker would refuse what modifiers, children and instances have made of the object."""
    if kind == "texture" and captured.has_instances:
        raise RequestError(
            f"{obj.name!r} shows instances, which are not in its mesh and cannot be painted.",
            "Add a Realize Instances node to its Geometry Nodes, or apply them (Object › Apply › Make Instances Real).",
        )
    arrays, keeps_faces = captured.arrays, captured.triangle_loops is not None
    problem = verdict(key_of(arrays), arrays, kind, keeps_faces).problem
    if problem is not None:
        raise RequestError(f"{obj.name!r}: {problem.message}", problem.hint)


def said_of_size(
    objects: Sequence[bpy.types.Object],
    kind: Start,
    *,
    metres_per_unit: float,
    front_deg: float,
    seen_px: int,
    height_m: float | None,
) -> list[str]:
    """What becomes of the size of the objects; a height of None is their own."""
    found = _read(objects, kind)
    if found is None:
        return []
    verts = front_turned(found.arrays["verts"].astype(np.float64), front_deg) * metres_per_unit
    corners = np.stack([verts.min(0), verts.max(0)])  # Of all vertices, none of which is loose.
    height_m = float(np.ptp(corners[:, 2])) if height_m is None else height_m
    return check_size({"verts": corners, "faces": np.array([[0, 1, 1]])}, kind, seen_px, height_m)


def verdict(key: str, arrays: Mapping[str, np.ndarray], kind: Start, keeps_faces: bool) -> Verdict:
    """The verdict on a START_MESH, by its digest, however long it takes."""
    name = _name(key, kind, keeps_faces)
    if name not in _verdicts:
        found = _judge(arrays, kind, keeps_faces)
        while len(_verdicts) >= MAX_KEPT:
            _verdicts.pop(next(iter(_verdicts)))
        _verdicts[name] = found
    return _verdicts[name]


def _known(found: _Shown, kind: Start) -> Verdict | None:
    """The verdict, if it is known or takes no time to speak of; else None."""
    if found.is_long:
        return _verdicts.get(_name(found.key, kind, found.keeps_faces))
    return verdict(found.key, found.arrays, kind, found.keeps_faces)


def _name(key: str, kind: Start, keeps_faces: bool) -> str:
    return f"{kind} {keeps_faces} {key}"


def _is_long(arrays: Mapping[str, np.ndarray], kind: Start) -> bool:
    work = len(arrays["faces"])
    if kind == "texture" and "uvs" in arrays:
        work += rows_of_grid(arrays["uvs"], len(np.unique(arrays["slots"])) if "slots" in arrays else 1)
    return work > MAX_WORK


def key_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Digest of what the verdict depends on."""
    names = [name for name in ("uvs", "verts", "faces", "slots", "slot_names") if name in arrays]
    return digest(*(arrays[name] for name in names))


def moves_uvs(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the UVs in which a START_MESH is painted are not its own. Raises RequestError."""
    return "uvs" in arrays and painted_uvs(arrays) is not arrays["uvs"]


def _read(objects: Sequence[bpy.types.Object], kind: Start) -> _Shown | None:
    """The objects as they are shown now or were shortly before; None if they have no mesh that is easily read."""
    of = _key(objects, kind)
    if _checked and _checked[0].of == of:
        return _checked[0]
    if _shown and _shown[0].of == of and time.monotonic() - _shown[0].read_at < _shown[0].fresh_s:
        return _shown[0]
    _shown.clear()
    parts = [obj for obj in objects if obj.type in MESHABLE]
    if not parts or _is_costly(objects):
        return None
    started = time.monotonic()
    try:
        arrays, keeps_faces = shown_mesh(parts, bpy.context)
    except RequestError:
        return None  # Which Generate says.
    if not len(arrays["faces"]):
        return None
    fresh_s = max(FRESH_S, MOST_OF_THE_TIME * (time.monotonic() - started)) if FRESH_S else 0.0
    is_long = _is_long(arrays, kind)
    _shown.append(_Shown(of, time.monotonic(), fresh_s, arrays, key_of(arrays), keeps_faces, is_long))
    return _shown[0]


def _key(objects: Sequence[bpy.types.Object], kind: Start) -> tuple:
    return (kind, *(obj.session_uid for obj in objects))


def _is_costly(objects: Sequence[bpy.types.Object]) -> bool:
    num_faces = sum(len(obj.data.polygons) for obj in objects if obj.type == "MESH")
    return num_faces > MAX_FACES or not all(map(_is_easily_read, objects))


def _is_easily_read(obj: bpy.types.Object) -> bool:
    """False for what may show instances, which are in no mesh of its own, and for meshes that are being edited."""
    shows_instances = obj.instance_type != "NONE" or any(
        modifier.type == "NODES" for modifier in obj.modifiers
    )
    return obj.mode != "EDIT" and not shows_instances and (obj.type not in MESHABLE or has_faces(obj))


def _judge(arrays: Mapping[str, np.ndarray], kind: Start, keeps_faces: bool) -> Verdict:
    try:
        check_extent(arrays["verts"], arrays["faces"])
        if kind == "texture" and "uvs" in arrays:
            # Of a UV map in Blender no face can be without, so what is not a number is wrong.
            tile_numbers(arrays["uvs"])
        found = Verdict(warnings=tuple(check_start(arrays, kind)))
        if kind == "texture" and not keeps_faces and moves_uvs(arrays):
            return Verdict(RequestError(*NO_ROOM))  # For a UV map that the result could bring.
        return found
    except RequestError as error:
        return Verdict(error)


@persistent
def _forget(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """Forget what was checked of objects that have changed."""
    if _checked and any(
        isinstance(update.id, bpy.types.Object) and update.id.original.session_uid in _checked[0].of
        for update in depsgraph.updates
        if update.is_updated_geometry or update.is_updated_transform
    ):
        _checked.clear()


def register() -> None:
    bpy.app.handlers.depsgraph_update_post.append(_forget)


def unregister() -> None:
    bpy.app.handlers.depsgraph_update_post.remove(_forget)
    _checked.clear()
    _shown.clear()
    _verdicts.clear()
