"""In the 3D view, while the front is shown: the cameras of the templates, and a ring of the sides that they cover."""

from __future__ import annotations

import math
from collections.abc import Iterable

import bpy
import gpu
import numpy as np
from gpu_extras.batch import batch_for_shader
from mathutils import Matrix, Vector

from ..describe import angle_between_deg
from .front_gizmo import COLOR, place_of_front

SEGMENTS = 72
HALF_COVERED_DEG = 30.0
"""How far to both sides a view shows what is there."""
MISSING = (0.5, 0.5, 0.5)
RING_RADIUS, GHOST_SIZE = 1.3, 0.12
"""Of the ring, as a multiple of the subject's radius, and of a camera's picture, of its distance."""
_handle = None


def covered(azimuths_deg: Iterable[float], segments: int = SEGMENTS) -> list[bool]:
    """Which segments of a ring, counter-clockwise from the front, views from these azimuths show.

    >>> covered([0.0, 180.0], 8)
    [True, False, False, True, True, False, False, True]
    """
    azimuths_deg = list(azimuths_deg)
    centers = [(index + 0.5) * 360 / segments for index in range(segments)]
    return [
        any(angle_between_deg(center, azimuth_deg) < HALF_COVERED_DEG for azimuth_deg in azimuths_deg)
        for center in centers
    ]


def ring_lines(place: Vector, radius: float, front: float) -> np.ndarray:
    """Ends of the segments of a ring around the front's place, `segments 2 3`; the angle 0 of `front` is -Y."""
    angles = front + np.arange(SEGMENTS + 1) * math.tau / SEGMENTS
    points = np.stack([np.sin(angles), -np.cos(angles), np.zeros_like(angles)], axis=1) * radius
    return np.stack([points[:-1], points[1:]], axis=1) + np.array(place)


def ghost_lines(c2w: Matrix, projection: Matrix, size: float) -> np.ndarray:
    """Ends of the lines of a camera, `8 2 3`: from its place to the corners of its picture, and around it."""
    half = size / max(projection[0][0], 1e-6)
    corners = [(x * half, y * half, -size) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    apex = c2w.translation
    world = [c2w @ Vector(corner) for corner in corners]
    lines = [(apex, corner) for corner in world] + list(zip(world, [*world[1:], world[0]], strict=True))
    return np.array([[tuple(end) for end in line] for line in lines])


def draw() -> None:
    """Called by Blender for each 3D view."""
    context = bpy.context
    settings = context.scene.recdreamer
    if not settings.show_front or not context.space_data.overlay.show_overlays:
        return
    place = place_of_front(context)
    cards = settings.enabled_templates
    cameras = [camera for camera in (card.camera for card in cards) if camera is not None]
    sizes = [max(obj.dimensions) for obj in context.selected_objects]
    radius = RING_RADIUS * max([*sizes, 1.0]) / 2
    is_covered = np.array(covered(card.azimuth_deg for card in cards if card.has_camera))
    lines = ring_lines(place, radius, settings.front)
    draw_lines(lines[is_covered], (*COLOR, 0.9), 4.0)
    draw_lines(lines[~is_covered], (*MISSING, 0.6), 2.0)
    for camera in cameras:
        size = GHOST_SIZE * max((camera.c2w.translation - place).length, 1e-3)
        draw_lines(ghost_lines(camera.c2w, camera.projection, size), (*COLOR, 0.5), 1.5)


def draw_lines(lines: np.ndarray, color: tuple[float, ...], width_px: float) -> None:
    """Draw lines, `lines 2 3`, in a handler of a 3D view, behind what is in front of them."""
    if not len(lines):
        return
    shader = gpu.shader.from_builtin("POLYLINE_UNIFORM_COLOR")
    batch = batch_for_shader(shader, "LINES", {"pos": lines.reshape(-1, 3).astype(np.float32)})
    gpu.state.blend_set("ALPHA")
    gpu.state.depth_test_set("LESS_EQUAL")
    shader.bind()
    shader.uniform_float("viewportSize", gpu.state.viewport_get()[2:])
    shader.uniform_float("lineWidth", width_px)
    shader.uniform_float("color", color)
    batch.draw(shader)
    gpu.state.depth_test_set("NONE")
    gpu.state.blend_set("NONE")


def register() -> None:
    global _handle
    _handle = bpy.types.SpaceView3D.draw_handler_add(draw, (), "WINDOW", "POST_VIEW")


def unregister() -> None:
    global _handle
    bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
    _handle = None
