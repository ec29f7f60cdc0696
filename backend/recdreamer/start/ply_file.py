"""PLY, binary and ASCII: vertices, polygons, and UVs under the names that exporters give them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from recdreamer.start.given_mesh import (
    GivenMesh,
    Part,
    Unreadable,
    checked_count,
    checked_faces,
    finite,
)  # fmt: skip
from recdreamer.start.polygons import triangulated

MAX_HEADER_BYTES = 1 << 16
TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
INDICES = ("vertex_indices", "vertex_index")
UV_NAMES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"))


@dataclass
class _Element:
    name: str
    count: int
    scalars: dict[str, str] = field(default_factory=dict)
    """Name and type of each property; a list has two types, "u1 i4"."""


@dataclass
class _Lists:
    """Lists one after the other."""

    sizes: np.ndarray
    values: np.ndarray


def read_ply(data: bytes) -> GivenMesh:
    """The polygons as triangles in the order of the file. Raises Unreadable."""
    order, elements, start = _header(data)
    found = {}
    rows = (word for line in data[start:].splitlines() for word in line.split()) if order == "" else None
    for element in elements:
        if rows is not None:
            found[element.name] = _text(element, rows)
        else:
            found[element.name], start = _binary(element, data, start, order)
    vertices, faces = found.get("vertex", {}), found.get("face", {})
    if not {"x", "y", "z"} <= set(vertices):
        raise Unreadable("it has no vertices")
    verts = np.stack([np.asarray(vertices[axis], np.float64) for axis in "xyz"], 1)
    lists = next((faces[name] for name in INDICES if isinstance(faces.get(name), _Lists)), None)
    if lists is None:
        raise Unreadable("it has no faces")
    polygon_corners = lists.values.astype(np.int64)
    places = triangulated(verts, polygon_corners, lists.sizes)
    corners = checked_faces(polygon_corners[places], len(verts))
    left_out = ["vertex colors"] if "red" in vertices else []
    left_out += ["edges"] if any(element.name == "edge" and element.count for element in elements) else []
    return GivenMesh(
        [Part(verts, corners, _uvs(vertices, faces, lists, corners, places))], left_out=tuple(left_out)
    )


def _uvs(
    vertices: dict, faces: dict, lists: _Lists, corners: np.ndarray, places: np.ndarray
) -> np.ndarray | None:
    """UVs of the corners, from the vertices, or from a list `texcoord` of each polygon."""
    of_faces = faces.get("texcoord")
    if isinstance(of_faces, _Lists):
        if not np.array_equal(of_faces.sizes, 2 * lists.sizes):
            raise Unreadable("its faces have more or fewer UVs than corners")
        return finite(of_faces.values.astype(np.float64).reshape(-1, 2))[places]
    for u, v in UV_NAMES:
        if u in vertices and v in vertices:
            return finite(np.stack([vertices[u], vertices[v]], 1).astype(np.float64))[corners]
    return None


def _header(data: bytes) -> tuple[str, list[_Element], int]:
    """Byte order ("" for text), the elements, and where their data begins."""
    end = data.find(b"end_header", 0, MAX_HEADER_BYTES)
    line_end = data.find(b"\n", end)
    if not data.startswith(b"ply") or end < 0 or line_end < 0:
        raise Unreadable("it has no header of a PLY file")
    order, elements = None, []
    for line in data[:end].decode("ascii", errors="replace").splitlines():
        words = line.split()
        try:
            match words:
                case ["format", kind, *_]:
                    order = ORDERS[kind]
                case ["element", name, count]:
                    elements.append(_Element(name, checked_count(int(count), f"elements {name!r}")))
                case ["property", "list", size, kind, name]:
                    elements[-1].scalars[name] = f"{TYPES[size]} {TYPES[kind]}"
                case ["property", kind, name]:
                    elements[-1].scalars[name] = TYPES[kind]
        except (KeyError, IndexError, ValueError) as error:
            if isinstance(error, Unreadable):
                raise
            raise Unreadable(f"its header is damaged ({line.strip()[:60]!r})") from error
    if order is None:
        raise Unreadable("its header names no format")
    return order, elements, line_end + 1


def _text(element: _Element, words: Iterator[bytes]) -> dict:
    """Values of an element, from the words of a text file."""
    values: dict[str, list] = {name: [] for name in element.scalars}
    sizes: dict[str, list[int]] = {name: [] for name in element.scalars}
    try:
        for _ in range(element.count):
            for name, kind in element.scalars.items():
                if " " not in kind:
                    values[name].append(float(next(words)))
                    continue
                size = checked_count(int(next(words)), "corners of a face")
                sizes[name].append(size)
                values[name] += [float(next(words)) for _ in range(size)]
    except StopIteration:
        raise Unreadable("it is cut off") from None
    except ValueError as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("it has a value that is no number") from error
    return {
        name: _Lists(np.array(sizes[name], np.int64), _whole(np.array(found), kind.split()[1]))
        if " " in kind
        else np.array(found)
        for (name, kind), found in zip(element.scalars.items(), values.values(), strict=True)
    }


def _whole(values: np.ndarray, kind: str) -> np.ndarray:
    """Indices of a text file; one that is no whole number becomes -1, which is no vertex."""
    if kind.startswith("f"):
        return values
    is_index = np.isfinite(values) & (np.abs(values) < 2**53) & (values == np.floor(values))
    return np.where(is_index, values, -1).astype(np.int64)


def _binary(element: _Element, data: bytes, start: int, order: str) -> tuple[dict, int]:
    """Values of an element, and where the next one begins."""
    kinds = {name: kind.split() for name, kind in element.scalars.items()}
    if all(len(kind) == 1 for kind in kinds.values()):
        row = np.dtype([(name, order + kind[0]) for name, kind in kinds.items()])
        end = start + element.count * row.itemsize
        if end > len(data):
            raise Unreadable("it is cut off")
        rows = np.frombuffer(data, row, element.count, start) if row.itemsize else np.zeros(0, row)
        return {name: rows[name] for name in kinds}, end
    same = _same_sizes(element.count, kinds, data, start, order)
    return same or _different_sizes(element.count, kinds, data, start, order)


def _same_sizes(
    count: int, kinds: dict[str, list[str]], data: bytes, start: int, order: str
) -> tuple[dict, int] | None:
    """Values of an element all of whose lists are as long as those of its first row; None if they are not."""
    columns, place = [], start
    for name, kind in kinds.items():
        if len(kind) == 1:
            columns.append((name, order + kind[0]))
            place += np.dtype(kind[0]).itemsize
            continue
        size_type, item = (np.dtype(order + one) for one in kind)
        if count == 0 or place + size_type.itemsize > len(data):
            return None
        size = int(np.frombuffer(data, size_type, 1, place)[0])
        if not 0 <= size * item.itemsize <= len(data):
            raise Unreadable("it is cut off")
        columns += [(f"{name} size", size_type), (name, item, (size,))]
        place += size_type.itemsize + size * item.itemsize
    row = np.dtype(columns)
    if start + count * row.itemsize > len(data):
        return None
    rows, found = np.frombuffer(data, row, count, start), {}
    for name, kind in kinds.items():
        if len(kind) == 1:
            found[name] = rows[name]
            continue
        sizes = rows[f"{name} size"].astype(np.int64)
        if (sizes != rows[name].shape[1]).any():
            return None
        found[name] = _Lists(sizes, rows[name].reshape(-1))
    return found, start + count * row.itemsize


def _different_sizes(
    count: int, kinds: dict[str, list[str]], data: bytes, place: int, order: str
) -> tuple[dict, int]:
    """Values of an element, row by row."""
    types = {name: [np.dtype(order + one) for one in kind] for name, kind in kinds.items()}
    pieces: dict[str, list[bytes]] = {name: [] for name in kinds}
    sizes: dict[str, list[int]] = {name: [] for name in kinds}
    byteorder = "big" if order == ">" else "little"
    for _ in range(count):
        for name, kind in types.items():
            size = 1
            if len(kind) == 2:
                width = kind[0].itemsize
                size = int.from_bytes(data[place : place + width], byteorder)
                place += width
                sizes[name].append(size)
            end = place + size * kind[-1].itemsize
            if end > len(data):
                raise Unreadable("it is cut off")
            pieces[name].append(data[place:end])
            place = end
    found = {}
    for name, kind in types.items():
        values = np.frombuffer(b"".join(pieces[name]), kind[-1])
        found[name] = _Lists(np.array(sizes[name], np.int64), values) if len(kind) == 2 else values
    return found, place
