"""Helpers: add a cube, measure the volume of a captured mesh, and read the error of an operator."""

from __future__ import annotations

import bpy
import numpy as np
import pytest


def add_cube(location=(0, 0, 0), scale=(1, 1, 1)):
    bpy.ops.mesh.primitive_cube_add(size=1, location=location)
    cube = bpy.context.object
    cube.scale = scale
    return cube


def volume(mesh) -> float:
    a, b, c = (mesh["verts"][mesh["faces"][:, corner]].astype(float) for corner in range(3))
    return float(np.einsum("ni,ni->n", a, np.cross(b, c)).sum() / 6)


def reported(operator=None, **properties) -> str:
    """The error that an operator (default: Generate) reports, which Python gets as an exception."""
    with pytest.raises(RuntimeError) as caught:
        (operator or bpy.ops.recdreamer.generate)(**properties)
    return str(caught.value).strip()
