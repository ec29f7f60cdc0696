"""Where a result will stand: its place in the world, and the box around it, before there is a mesh."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import bpy
import numpy as np
from mathutils import Matrix, Vector

from ..jobs.placement import StartPlacement
from ..objects.object_keys import LIVE_KEY
from ..objects.rest_positions import frame_of, world_of_job
from ..properties import metres_per_unit
from ..start.mesh_capture import front_turned

GAP = 0.2
"""Between a new object and what it stands beside, in widths of the new one."""
MAX_NEIGHBORS = 300
"""That are looked at while nobody waits: in a scene of more objects, box and preview may stand inside of one."""
CORNERS = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(CORNERS[a] - CORNERS[b]).sum() == 1]


@dataclass(frozen=True)
class Target:
    """The place of a result, and its size."""

    world: np.ndarray
    """`4 4`, from the space of the job, in metres, to the world."""
    low: np.ndarray
    high: np.ndarray
    """`3` each: corners of the box around the result in the space of the job."""


def cube_of(height_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the box for a result of which only the height is known: as wide as high, its base on the origin.

    >>> [corner.tolist() for corner in cube_of(2.0)]
    [[-1.0, -1.0, 0.0], [1.0, 1.0, 2.0]]
    """
    half = height_m / 2
    return np.array((-half, -half, 0.0)), np.array((half, half, height_m))


def box_lines(target: Target) -> np.ndarray:
    """Ends of the edges of the box in the world, and of an arrow on its base towards the front: `15 2 3`."""
    corners = target.low + CORNERS * (target.high - target.low)
    middle, size = (target.low + target.high) / 2, target.high - target.low
    tip = np.array((middle[0], target.low[1] - 0.25 * size[1], target.low[2]))
    wing = np.array((0.1 * size[0], 0.1 * size[1], 0.0))
    arrow = [((middle[0], middle[1], target.low[2]), tip)]
    arrow += [(tip + wing * (side, 1, 0), tip) for side in (-1, 1)]
    lines = np.array([[corners[a], corners[b]] for a, b in EDGES] + [list(line) for line in arrow])
    return lines @ target.world[:3, :3].T + target.world[:3, 3]


def way_out(low: np.ndarray, high: np.ndarray, boxes: np.ndarray) -> float:
    """How far a box has to go along X, so that it is not inside of another one; `boxes` has corners, `boxes 2 3`.

    >>> low, high = np.array((-1.0, -1, 0)), np.array((1.0, 1, 2))
    >>> cubes = np.array([[(-1.0, -1, -1), (1, 1, 1)], [(1.5, -1, -1), (3, 1, 1)], [(9, 9, 9), (10, 10, 10)]])
    >>> round(way_out(low, high, cubes), 3), way_out(low, high, cubes[2:])
    (4.4, 0.0)
    """
    if not len(boxes):
        return 0.0
    is_near = (low < boxes[:, 1]) & (high > boxes[:, 0])
    boxes, moved = boxes[is_near[:, 1] & is_near[:, 2]], 0.0
    for box in boxes[np.argsort(boxes[:, 0, 0], kind="stable")]:
        if low[0] + moved < box[1, 0] and high[0] + moved > box[0, 0]:
            moved = float(box[1, 0] - low[0] + GAP * (high[0] - low[0]))
    return moved


def boxes_of(
    context: bpy.types.Context, counts: Callable[[bpy.types.Object], bool], most: int | None = None
) -> np.ndarray:
    """Corners of the boxes in the world, `boxes 2 3`, around the visible meshes that count; of the first `most`."""
    meshes = (obj for obj in context.visible_objects if obj.type == "MESH" and LIVE_KEY not in obj)
    meshes = (obj for obj in meshes if obj.data.vertices)
    found = list(islice((obj for obj in meshes if counts(obj)), most))
    if not found:
        return np.empty((0, 2, 3))
    corners = np.array([obj.bound_box for obj in found], float)
    matrices = np.array([obj.matrix_world for obj in found], float)
    world = np.einsum("nij,nkj->nki", matrices[:, :3, :3], corners) + matrices[:, None, :3, 3]
    return np.stack([world.min(1), world.max(1)], axis=1)


def place_of(
    placement: StartPlacement | None,
    earlier: bpy.types.Object | None,
    box: tuple[np.ndarray, np.ndarray],
    neighbors: Callable[[], np.ndarray],
    context: bpy.types.Context,
) -> np.ndarray:
    """`4 4`, from the space of a job, in metres, to the world.

    At the start object or the earlier result; else on the selected empty; else at the 3D cursor, beside the
    `neighbors`, whose boxes are asked for only then. `box` has the corners of the result in the space of its job.
    """
    scale = 1 / metres_per_unit(context.scene)
    metres = Matrix.Scale(scale, 4)
    world = placement.world if placement is not None else []
    if earlier is not None:
        world = world_of_job(earlier, context).tolist()
    if world:
        keeps_size, place_m = (
            (True, (0, 0, 0)) if placement is None else (placement.keep_size, placement.place_m)
        )
        matrix = Matrix(world) @ Matrix.Translation(place_m)
        if not keeps_size:
            location, rotation, _ = matrix.decompose()
            matrix = Matrix.LocRotScale(location, rotation, (scale,) * 3)
    elif placement is not None and placement.object:
        matrix = Matrix.Translation([scale * value for value in placement.place_m])
        matrix = matrix @ Matrix.Rotation(math.radians(placement.front_deg), 4, "Z") @ metres
    elif (empty := selected_empty(context)) is not None:
        matrix = empty.matrix_world @ metres
    else:
        cursor = context.scene.cursor.location.copy()
        cursor.x += way_out(*(np.array(cursor) + scale * corner for corner in box), neighbors())
        matrix = Matrix.Translation(cursor) @ metres
    return np.array(matrix)


def selected_empty(context: bpy.types.Context) -> bpy.types.Object | None:
    """The empty on which a new object will stand."""
    active = context.object
    return active if active is not None and active.type == "EMPTY" and active.select_get() else None


def target_of_settings(context: bpy.types.Context, neighbors: Callable[[], np.ndarray]) -> Target | None:
    """Where the next job of the panel will put its result; None if it paints, or its start is not there."""
    settings = context.scene.recdreamer
    start, metres = settings.start, metres_per_unit(context.scene)
    height_m, placement, earlier = settings.height * metres, None, None
    if start.kind == "texture" or (start.kind == "object" and not start.has_usable_object):
        return None
    if start.kind == "object":
        corners = [np.array([obj.matrix_world @ Vector(at) for at in obj.bound_box]) for obj in start.objects]
        base, box = _on_origin(front_turned(metres * np.concatenate(corners), settings.front_deg))
        place = front_turned(base[None], -settings.front_deg)[0]
        placement = StartPlacement(
            start.object.name, place_m=tuple(place.tolist()), front_deg=settings.front_deg
        )
    elif start.kind == "continue" and (earlier := start.earlier_result) is not None:
        to_job = np.linalg.inv(frame_of(earlier.data))
        base, box = _on_origin(np.array(earlier.bound_box) @ to_job[:3, :3].T + to_job[:3, 3])
        placement = StartPlacement("", place_m=tuple(base.tolist()), keep_size=start.keeps_size)
    else:
        box = cube_of(height_m)
    if not start.keeps_size and box[1][2] > 0:
        box = (box[0] * height_m / box[1][2], box[1] * height_m / box[1][2])
    return Target(place_of(placement, earlier, box, neighbors, context), *box)


def _on_origin(points: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The middle of the base of points, `points 3`, and the corners of the box around them, seen from there."""
    low, high = points.min(0), points.max(0)
    base = np.array(((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]))
    return base, (low - base, high - base)
