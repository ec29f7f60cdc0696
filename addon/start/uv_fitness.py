"""Whether the UV map of an object can be painted, said before a job is made, by the function that its worker asks."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import bpy
import numpy as np

from ...backend.recdreamer.shared.protocol import RequestError
from ...backend.recdreamer.shared.uv_map import check_uvs, tile_numbers
from ..objects.mesh_data import read_property, read_verts
from .fingerprint import digest
from .mesh_capture import uv_map_of

WAIT_S = 0.3
"""Longest wait of a redraw. Most maps take less; one with many overlaps takes seconds."""
FRESH_S = 2.0
"""Time for which an object is not read again."""
MAX_KEPT = 32


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a UV map."""

    problem: RequestError | None = None
    """Why it cannot be painted."""
    warnings: tuple[str, ...] = ()


FIT = Verdict()
_verdicts: dict[str, Verdict] = {}
"""By digest of the mesh; those that were asked for last, at the end."""
_threads: dict[str, threading.Thread] = {}
_digests: dict[int, tuple[float, str]] = {}
"""When an object was read, and the digest of its mesh."""


def verdict_of_object(obj: bpy.types.Object) -> Verdict:
    """The verdict on the active UV map of a mesh object; fit without one, and with modifiers, which may change it.

    Also fit while it is not yet known: this is called on every redraw.
    """
    if obj.type != "MESH" or obj.modifiers or not uv_map_of(obj):
        return FIT
    read_at, known = _digests.get(obj.session_uid, (0.0, ""))
    if known in _verdicts and time.monotonic() - read_at < FRESH_S:
        return _verdicts[known]
    mesh = obj.data
    mesh.calc_loop_triangles()
    loops = read_property(mesh.loop_triangles, "loops", np.int32, 3)
    faces = read_property(mesh.loop_triangles, "vertices", np.int32, 3)
    uvs = read_property(mesh.uv_layers[uv_map_of(obj)].uv, "vector", width=2)
    key = digest(uvs, loops)
    _digests.clear()  # The panel shows one object.
    _digests[obj.session_uid] = (time.monotonic(), key)
    return verdict(key, uvs[loops], read_verts(mesh), faces)


def verdict(key: str, uvs: np.ndarray, verts: np.ndarray, faces: np.ndarray) -> Verdict:
    """The verdict on UVs `faces 3 2`, by their digest; fit while it is not yet known."""
    if key not in _verdicts:
        if key not in _threads:
            _threads[key] = threading.Thread(target=_judge, args=(key, uvs, verts, faces), daemon=True)
            _threads[key].start()
        _threads[key].join(WAIT_S)
        if not _threads[key].is_alive():
            del _threads[key]
    return _verdicts.get(key, FIT)


def _judge(key: str, uvs: np.ndarray, verts: np.ndarray, faces: np.ndarray) -> None:
    try:
        if len(faces):
            tile_numbers(
                uvs
            )  # Of a UV map in Blender no face can be without, so what is not a number is wrong.
            found = Verdict(warnings=tuple(check_uvs(uvs, verts, faces)))
        else:
            found = FIT
    except RequestError as error:
        found = Verdict(error)
    while len(_verdicts) >= MAX_KEPT:
        _verdicts.pop(next(iter(_verdicts)))
    _verdicts[key] = found
