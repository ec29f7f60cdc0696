"""STL, binary and ASCII: three vertices for each triangle, and nothing else that a job uses."""

from __future__ import annotations

import re

import numpy as np

from recdreamer.start.given_mesh import GivenMesh, Part, Unreadable, checked_count

HEADER_BYTES = 84
TRIANGLE = np.dtype([("normal", "<f4", 3), ("verts", "<f4", (3, 3)), ("attribute", "<u2")])
VERTEX = re.compile(rb"^\s*vertex\s+(\S+)\s+(\S+)\s+(\S+)", re.MULTILINE | re.IGNORECASE)


def read_stl(data: bytes) -> GivenMesh:
    """The triangles in the order of the file, each with its own vertices. Raises Unreadable."""
    verts = _binary(data)
    if verts is None:
        found = VERTEX.findall(data)
        checked_count(len(found), "vertices")
        if not found or len(found) % 3:
            raise Unreadable("it is neither a binary nor a text STL, or it is cut off")
        try:
            verts = np.array([[float(number) for number in vertex] for vertex in found])
        except ValueError as error:
            raise Unreadable("a vertex of it is no number") from error
    return GivenMesh([Part(verts, np.arange(len(verts)).reshape(-1, 3))])


def _binary(data: bytes) -> np.ndarray | None:
    """Vertices of a binary file; None if its length does not fit its count of triangles.

    Text files begin with "solid", but so do the headers of some binary ones.
    """
    if len(data) < HEADER_BYTES:
        return None
    count = int.from_bytes(data[HEADER_BYTES - 4 : HEADER_BYTES], "little")
    if HEADER_BYTES + count * TRIANGLE.itemsize > len(data) or (count == 0 and b"facet" in data):
        return None
    checked_count(3 * count, "vertices")
    triangles = np.frombuffer(data, TRIANGLE, count, HEADER_BYTES)
    return triangles["verts"].reshape(-1, 3).astype(np.float64)
