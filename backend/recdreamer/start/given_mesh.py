"""What a mesh file holds, whatever its format: parts as they stand in the file, and what of it is left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from recdreamer.shared.protocol import MAX_TRIANGLES

MAX_CORNERS = 3 * MAX_TRIANGLES
"""No mesh needs more vertices or UVs: each corner of each triangle would have its own."""


class Unreadable(ValueError):
    """Why a file cannot be read, as the end of a sentence: "it is cut off"."""


@dataclass(frozen=True)
class Part:
    """Triangles in the order of the file."""

    verts: Float[np.ndarray, "verts 3"]
    """In the axes and units of the format."""
    faces: Int[np.ndarray, "faces 3"]
    uvs: Float[np.ndarray, "faces 3 2"] | None = None
    """Per corner, (0, 0) at the lower left of the picture; NaN in faces for which the file has none."""
    materials: Int[np.ndarray, "faces"] | None = None
    """Place of each face's material among those of the GivenMesh, -1 for none; None: no face has any."""


@dataclass(frozen=True)
class GivenMesh:
    """The content of a mesh file."""

    parts: list[Part]
    materials: tuple[str, ...] = ()
    """Names of the materials, as far as any face has one, in the order in which the faces name them."""
    left_out: tuple[str, ...] = ()
    """What the file has and a job does not use: "3 lines", "its shape keys"."""


def checked_count(count: int, what: str) -> int:
    """A count that a file declares, before memory is taken for it. Raises Unreadable."""
    if not 0 <= count <= MAX_CORNERS:
        raise Unreadable(f"it declares {count:,} {what}, and {MAX_CORNERS:,} are the most")
    return count


def finite(uvs: Float[np.ndarray, "*corners 2"]) -> Float[np.ndarray, "*corners 2"]:
    """UVs that a file has for its corners. Raises Unreadable if some are no numbers."""
    if not np.isfinite(uvs).all():
        raise Unreadable("it has UVs that are no finite numbers")
    return uvs


def checked_faces(faces: Int[np.ndarray, "faces 3"], num_verts: int) -> Int[np.ndarray, "faces 3"]:
    """The faces, all of whose vertices exist. Raises Unreadable.

    >>> checked_faces(np.array([[0, 1, 7]]), 3)
    Traceback (most recent call last):
    recdreamer.start.given_mesh.Unreadable: a face uses vertex 8 of 3
    """
    wrong = (faces < 0) | (faces >= num_verts)
    if wrong.any():
        raise Unreadable(f"a face uses vertex {int(faces[wrong][0]) + 1} of {num_verts}")
    return faces
