"""Wavefront OBJ: vertices, UVs, faces and the names of materials. Material files are never opened."""

from __future__ import annotations

import codecs

import numpy as np

from recdreamer.shared.protocol import MAX_TRIANGLES
from recdreamer.start.given_mesh import GivenMesh, Part, Unreadable, checked_faces, finite
from recdreamer.start.polygons import triangulated

CURVED = {"curv", "curv2", "surf"}


def read_obj(data: bytes) -> GivenMesh:
    """The faces of all objects and groups as one part, in the order of the file. Raises Unreadable with the line.

    Polygons become triangles. Some exporters write negative indices, which count back from the newest vertex.
    """
    verts: list[list[float]] = []
    uvs: list[list[float]] = []
    corners: list[int] = []
    uv_corners: list[int] = []
    sizes: list[int] = []
    materials: dict[str, int] = {}
    slots: list[int] = []
    num_triangles, num_lines, num_curves, num_colors, material = 0, 0, 0, 0, ""
    encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    text = data.decode(encoding, errors="replace").replace("\\\r\n", " ").replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            match words[0]:
                case "v":
                    x, y, z = map(float, words[1:4])
                    verts.append([x, y, z])
                    num_colors += len(words) >= 7
                case "vt":
                    uvs.append([float(words[1]), float(words[2]) if len(words) > 2 else 0.0])
                case "f":
                    if len(words) < 4:
                        raise ValueError("expected three corners")
                    for word in words[1:]:
                        vertex, _, rest = word.partition("/")
                        corners.append(_index(vertex, len(verts)))
                        uv = rest.partition("/")[0]
                        uv_corners.append(_index(uv, len(uvs)) if uv else -1)
                    sizes.append(len(words) - 1)
                    slots.append(materials.setdefault(material, len(materials)) if material else -1)
                    num_triangles += len(words) - 3
                case "usemtl":
                    material = line.strip()[len("usemtl") :].strip()
                case "l" | "p":
                    num_lines += 1
                case keyword if keyword in CURVED:
                    num_curves += 1
        except (ValueError, IndexError) as error:
            raise Unreadable(f"its line {number} is damaged ({line.strip()[:60]!r})") from error
        if num_triangles > MAX_TRIANGLES:
            raise Unreadable(f"it has more than {MAX_TRIANGLES:,} triangles")
    points, polygon_corners = np.array(verts, np.float64).reshape(-1, 3), np.array(corners, np.int64)
    places = triangulated(points, polygon_corners, np.array(sizes, np.int64))
    faces = checked_faces(polygon_corners[places], len(verts))
    of_face = np.repeat(np.array(slots, np.int64), np.maximum(np.array(sizes, np.int64) - 2, 0))
    return GivenMesh(
        [Part(points, faces, _uvs(uvs, uv_corners, places), of_face)],
        tuple(materials),
        (
            *((f"{num_lines} lines or points",) if num_lines else ()),
            *((f"{num_curves} curved surfaces",) if num_curves else ()),
            *(("vertex colors",) if num_colors else ()),
        ),
    )


def _index(word: str, count: int) -> int:
    """The place in the file of a vertex or UV; OBJ counts from 1, or from the newest backwards.

    >>> _index("1", 8), _index("-1", 8)
    (0, 7)
    """
    number = int(word)
    place = number - 1 if number > 0 else count + number
    if number == 0 or not 0 <= place < 1 << 40:
        raise ValueError("expected an index from 1, or a negative one")
    return place


def _uvs(uvs: list[list[float]], corners: list[int], places: np.ndarray) -> np.ndarray | None:
    """UVs of the triangles' corners; None if no face has any."""
    index = np.array(corners, np.int64)[places]
    if not len(uvs) or not (index >= 0).any():
        return None
    if (index >= len(uvs)).any():
        raise Unreadable(f"a face uses UV {int(index.max()) + 1} of {len(uvs)}")
    found = finite(np.array(uvs, np.float64))[np.maximum(index, 0)]
    # A corner without a UV leaves its face without any.
    found[(index < 0).any(1)] = np.nan
    return found
