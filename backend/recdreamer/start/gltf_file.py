"""glTF 2.0, as .glb or .gltf: the triangles of the default scene, their materials' names and the UVs that these use."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from recdreamer.shared.protocol import MAX_TRIANGLES, RequestError
from recdreamer.shared.safe_files import reason_of
from recdreamer.start.given_mesh import GivenMesh, Part, Unreadable, checked_count, checked_faces, finite

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
TRIANGLES, STRIP, FAN = 4, 5, 6
COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")
MAX_NODES = 100_000

Content = TypeVar("Content")
OpenFile = Callable[[str], bytes]
"""Content of a file beside a .gltf, by its relative name."""


@dataclass(frozen=True)
class BaseColor:
    """Of a material: the factor times the picture."""

    factor: tuple[float, float, float]
    """Linear, in [0, 1]."""
    picture: bytes | None
    """An encoded picture as the file has it, unopened."""


def read_gltf(data: bytes, open_file: OpenFile) -> GivenMesh:
    """A part for each triangle primitive of each node, where the node puts it. Raises Unreadable.

    Pictures are never opened. glTF's UVs begin at the upper left.
    """
    return _of_file(data, open_file, _Reader.read)


def read_base_colors(data: bytes, open_file: OpenFile) -> list[BaseColor]:
    """The base colour of each material of `read_gltf`, in its order. Raises Unreadable."""
    return _of_file(data, open_file, _Reader.base_colors)


def _of_file(data: bytes, open_file: OpenFile, read: Callable[[_Reader], Content]) -> Content:
    document, binary = _chunks(data) if data.startswith(b"glTF") else (data, None)
    try:
        header = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise Unreadable("it is damaged, or no glTF") from error
    if not isinstance(header, dict):
        raise Unreadable("it is no glTF")
    try:
        return read(_Reader(header, binary, open_file))
    except (Unreadable, RequestError):
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise Unreadable(f"it is damaged ({reason_of(error)[:100]})") from error


def _chunks(data: bytes) -> tuple[bytes, bytes | None]:
    """The JSON and the binary part of a GLB."""
    chunks, place = {}, 12
    while place + 8 <= len(data):
        length, kind = struct.unpack_from("<I4s", data, place)
        if place + 8 + length > len(data):
            raise Unreadable("it is cut off")
        chunks.setdefault(kind, data[place + 8 : place + 8 + length])
        place += 8 + length
    if b"JSON" not in chunks:
        raise Unreadable("it is cut off")
    return chunks[b"JSON"], chunks.get(b"BIN\0")


class _Reader:
    def __init__(self, header: dict[str, Any], binary: bytes | None, open_file: OpenFile) -> None:
        self.header, self.binary, self.open_file = header, binary, open_file
        self.buffers: dict[int, bytes] = {}
        self.parts: list[Part] = []
        self.primitives: dict[tuple[int, int], Part] = {}
        self.materials: dict[int, int] = {}
        """Index in the file and place among those that are used."""
        self.left_out: dict[str, None] = {}
        self.num_triangles = 0

    def read(self) -> GivenMesh:
        for name in COMPRESSED:
            if name in self.header.get("extensionsRequired", ()):
                raise Unreadable(f"its meshes are compressed ({name}); export it without compression")
        for kind, what in (("animations", "animations"), ("skins", "the pose of a skeleton")):
            if self.header.get(kind):
                self.left_out[what] = None
        waiting = [(index, np.eye(4)) for index in reversed(self._roots())]
        visited: set[int] = set()
        while waiting:
            index, parent = waiting.pop()
            if index in visited or len(visited) > MAX_NODES:
                raise Unreadable("its nodes are no tree")
            visited.add(index)
            node = self._item("nodes", index)
            matrix = parent @ _transform(node)
            if "mesh" in node:
                # The place of a skinned mesh is that of its skeleton.
                self._add(node["mesh"], np.eye(4) if "skin" in node else matrix)
            waiting += [(child, matrix) for child in reversed(node.get("children", []))]
        return GivenMesh(self.parts, tuple(map(self._material_name, self.materials)), tuple(self.left_out))

    def _material_name(self, index: int) -> str:
        """As Blender names it: glTF leaves names open."""
        return str(self._item("materials", index).get("name") or f"Material_{index}")

    def base_colors(self) -> list[BaseColor]:
        self.read()
        found = []
        for index in self.materials:
            material = self._item("materials", index)
            settings, picture = material.get("pbrMetallicRoughness", {}), None
            if "baseColorTexture" in settings:
                texture = self._item("textures", settings["baseColorTexture"]["index"])
                webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
                picture = self._picture(self._item("images", texture.get("source", webp.get("source"))))
            red, green, blue = (float(x) for x in settings.get("baseColorFactor", (1, 1, 1, 1))[:3])
            found.append(BaseColor((red, green, blue), picture))
        return found

    def _picture(self, image: dict[str, Any]) -> bytes:
        if "bufferView" not in image:
            return self._content(image["uri"])
        view = self._item("bufferViews", image["bufferView"])
        begin, data = view.get("byteOffset", 0), self._buffer(view["buffer"])
        if begin < 0 or begin + view["byteLength"] > len(data):
            raise Unreadable("it is cut off")
        return data[begin : begin + view["byteLength"]]

    def _roots(self) -> list[int]:
        if "scenes" in self.header:
            return list(self._item("scenes", self.header.get("scene", 0)).get("nodes", []))
        children = {child for node in self.header.get("nodes", []) for child in node.get("children", [])}
        return [index for index in range(len(self.header.get("nodes", []))) if index not in children]

    def _item(self, kind: str, index: Any) -> dict[str, Any]:
        items = self.header.get(kind, [])
        if type(index) is not int or not 0 <= index < len(items):
            raise Unreadable(f"it uses {kind} {index!r}, which it does not have")
        return items[index]

    def _add(self, mesh: Any, matrix: Float[np.ndarray, "4 4"]) -> None:
        for number, primitive in enumerate(self._item("meshes", mesh)["primitives"]):
            if primitive.get("mode", TRIANGLES) not in (TRIANGLES, STRIP, FAN):
                self.left_out["lines or points"] = None
                continue
            if (mesh, number) not in self.primitives:
                self.primitives[mesh, number] = self._primitive(primitive)
            part = self.primitives[mesh, number]
            faces, uvs = part.faces, part.uvs
            self.num_triangles += len(faces)
            if self.num_triangles > MAX_TRIANGLES:
                raise Unreadable(f"it has more than {MAX_TRIANGLES:,} triangles")
            if np.linalg.det(matrix[:3, :3]) < 0:  # A mirrored instance; its outside stays outside.
                faces, uvs = faces[:, ::-1], None if uvs is None else uvs[:, ::-1]
            verts = part.verts @ matrix[:3, :3].T + matrix[:3, 3]
            self.parts.append(Part(verts, faces, uvs, part.materials))

    def _primitive(self, primitive: dict[str, Any]) -> Part:
        for name in COMPRESSED:
            if name in primitive.get("extensions", {}):
                raise Unreadable(f"its meshes are compressed ({name}); export it without compression")
        attributes = primitive["attributes"]
        verts = self._values(attributes["POSITION"], "VEC3")
        index = np.arange(len(verts))
        if "indices" in primitive:
            index = self._values(primitive["indices"], "SCALAR")[:, 0].astype(np.int64)
        faces = checked_faces(_triangles(index, primitive.get("mode", TRIANGLES)), len(verts))
        if primitive.get("targets"):
            self.left_out["shape keys"] = None
        if "COLOR_0" in attributes:
            self.left_out["vertex colors"] = None
        channel, place = 0, -1
        if "material" in primitive:
            material = self._item("materials", primitive["material"])
            place = self.materials.setdefault(primitive["material"], len(self.materials))
            channel = material.get("pbrMetallicRoughness", {}).get("baseColorTexture", {}).get("texCoord", 0)
        name = f"TEXCOORD_{channel}" if f"TEXCOORD_{channel}" in attributes else "TEXCOORD_0"
        if name not in attributes:
            return Part(verts, faces, None, np.full(len(faces), place))
        uvs = finite(self._values(attributes[name], "VEC2"))
        if len(uvs) != len(verts):
            raise Unreadable(f"a mesh of it has {len(verts)} vertices and {len(uvs)} UVs")
        return Part(verts, faces, np.stack([uvs[:, 0], 1 - uvs[:, 1]], 1)[faces], np.full(len(faces), place))

    def _values(self, index: int, shape: str) -> Float[np.ndarray, "count width"]:
        """Numbers of an accessor; normalized integers become fractions."""
        accessor = self._item("accessors", index)
        if accessor["type"] != shape:
            raise Unreadable(f"it has {accessor['type']} where {shape} is expected")
        kind, count = (
            np.dtype(COMPONENTS[accessor["componentType"]]),
            checked_count(accessor["count"], "values"),
        )
        values = np.zeros((count, WIDTHS[shape]))
        if "bufferView" in accessor:
            values = self._rows(accessor, kind, count, WIDTHS[shape]).astype(np.float64)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            changed = checked_count(sparse["count"], "values")
            places = np.dtype(COMPONENTS[sparse["indices"]["componentType"]])
            rows = self._rows(sparse["indices"], places, changed, 1)[:, 0].astype(np.int64)
            if (rows >= count).any() or (rows < 0).any():
                raise Unreadable("it changes values that it does not have")
            values[rows] = self._rows(sparse["values"], kind, changed, WIDTHS[shape])
        if accessor.get("normalized") and kind.kind in "iu":
            values = np.maximum(values / np.iinfo(kind).max, -1.0)
        return values

    def _rows(self, source: dict[str, Any], kind: np.dtype, count: int, width: int) -> np.ndarray:
        """Rows of numbers in a buffer view, as the file has them."""
        view = self._item("bufferViews", source["bufferView"])
        if COMPRESSED[1] in view.get("extensions", {}):
            raise Unreadable(f"its meshes are compressed ({COMPRESSED[1]}); export it without compression")
        data = self._buffer(view["buffer"])
        row = width * kind.itemsize
        stride = view.get("byteStride", row)
        begin = view.get("byteOffset", 0) + source.get("byteOffset", 0)
        end = begin + max(count - 1, 0) * stride + row
        if count == 0:
            return np.zeros((0, width), kind)
        if begin < 0 or stride < row or end > len(data) or view.get("byteOffset", 0) < 0:
            raise Unreadable("it is cut off")
        return np.ndarray((count, width), kind, data, begin, (stride, kind.itemsize))

    def _buffer(self, index: int) -> bytes:
        if index not in self.buffers:
            uri = self._item("buffers", index).get("uri")
            self.buffers[index] = self._content(uri)
        return self.buffers[index]

    def _content(self, uri: str | None) -> bytes:
        if uri is None:
            if self.binary is None:
                raise Unreadable("it has no data")
            return self.binary
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.partition(",")[2], validate=True)
            except binascii.Error as error:
                raise Unreadable("its data is damaged") from error
        return self.open_file(uri)


def _triangles(index: Int[np.ndarray, "indices"], mode: int) -> Int[np.ndarray, "triangles 3"]:
    """Corners of the triangles of a list, a strip or a fan.

    >>> _triangles(np.arange(4), STRIP).tolist(), _triangles(np.arange(4), FAN).tolist()
    ([[0, 1, 2], [1, 3, 2]], [[0, 1, 2], [0, 2, 3]])
    """
    if mode == TRIANGLES:
        if len(index) % 3:
            raise Unreadable("the corners of its triangles are no multiple of three")
        return index.reshape(-1, 3)
    count = max(len(index) - 2, 0)
    steps = np.arange(count)
    if mode == FAN:
        return np.stack([index[np.zeros(count, np.int64)], index[steps + 1], index[steps + 2]], 1)
    odd = steps % 2
    return np.stack([index[steps], index[steps + 1 + odd], index[steps + 2 - odd]], 1)


def _transform(node: dict[str, Any]) -> Float[np.ndarray, "4 4"]:
    """The matrix of a node, from its matrix or from its translation, rotation (x, y, z, w) and scale.

    >>> _transform({"translation": [1, 2, 3], "scale": [2, 2, 2]})[:3].tolist()
    [[2.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, 2.0], [0.0, 0.0, 2.0, 3.0]]
    """
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
