"""glTF 2.0 binary writer for one textured mesh. The only place that converts from Z-up to Y-up."""

from __future__ import annotations

import itertools
import json
import struct

import numpy as np

from recdreamer import __version__
from recdreamer.mesh.mesh import Mesh, vertex_normals
from recdreamer.mesh.raster import tiles_of_faces, uvs_in_tile
from recdreamer.mesh.tangents import tangent_frames
from recdreamer.shared.protocol import RESULT_ROUGHNESS

FLOAT, UINT32 = 5126, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
REPEAT, LINEAR, LINEAR_MIPMAP_LINEAR = 10497, 9729, 9987
Z_UP_TO_Y_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32)


def glb_bytes(
    mesh: Mesh,
    albedo: dict[int, bytes],
    normal_map: dict[int, bytes] | None = None,
    name: str = "RecDreamer",
) -> bytes:
    """GLB of a Z-up mesh with UVs, base colour (sRGB PNG) and, if given, tangent-space normals (PNG).

    Pictures are keyed by UDIM number. glTF has no UDIM, so each tile becomes a primitive with its own material,
    metallic 0; and so does each material slot, whose materials share the pictures. glTF is Y-up with the front at +Z:
    (x, y, z) becomes (x, z, -y), so a front at -Y stays the front. It has one UV per vertex: vertices are split along
    UV seams but keep their smooth normals.
    """
    frames = None if normal_map is None else tangent_frames(mesh)
    tile_of_face = tiles_of_faces(mesh.uvs_or_error())
    normals = vertex_normals(mesh)
    writer = _Writer()
    primitives, materials, textures, images = [], [], [], []
    slots, slot_names = np.zeros(len(mesh.faces), np.int32), (name,)
    if mesh.slots is not None:
        slots, slot_names = mesh.slots.of_face, mesh.slots.names

    def add_texture(kind: str, tile: int, png: bytes) -> int:
        suffix = "" if len(albedo) == 1 else f".{tile}"
        images.append({"name": kind + suffix, "bufferView": writer.add_view(png), "mimeType": "image/png"})
        textures.append({"sampler": 0, "source": len(images) - 1})
        return len(textures) - 1

    pictures = {
        tile: (
            add_texture("albedo", tile, png),
            None if normal_map is None else add_texture("normal", tile, normal_map[tile]),
        )
        for tile, png in albedo.items()
    }
    for slot, tile in itertools.product(range(len(slot_names)), albedo):
        chosen = (tile_of_face == tile) & (slots == slot)
        if not chosen.any():
            continue
        signs = np.ones(len(mesh.faces)) if frames is None else frames.signs
        uvs = uvs_in_tile(mesh.uvs_or_error(), tile)[chosen].astype(np.float32).clip(0, 1)
        keys = np.concatenate(
            [
                mesh.faces[chosen].reshape(-1, 1).astype(np.int32),
                np.repeat(signs[chosen], 3).astype(np.int32)[:, None],
                uvs.reshape(-1, 2).view(np.int32),
            ],
            axis=1,
        )
        unique, corner, indices = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        positions = (mesh.verts[unique[:, 0]] @ Z_UP_TO_Y_UP.T).astype("<f4")
        attributes = {"POSITION": writer.add_accessor(positions, "VEC3", has_bounds=True)}
        attributes["NORMAL"] = writer.add_accessor(normals[unique[:, 0]] @ Z_UP_TO_Y_UP.T, "VEC3")
        flipped = np.ascontiguousarray(unique[:, 2:]).view(np.float32) * (1, -1) + (0, 1)  # v grows downward
        attributes["TEXCOORD_0"] = writer.add_accessor(flipped, "VEC2")
        if frames is not None:
            tangents = frames.tangents[chosen].reshape(-1, 3)[corner] @ Z_UP_TO_Y_UP.T
            attributes["TANGENT"] = writer.add_accessor(np.concatenate([tangents, unique[:, 1:2]], 1), "VEC4")
        index = writer.add_indices(indices)
        primitives.append({"attributes": attributes, "indices": index, "material": len(materials)})
        color, bumps = pictures[tile]
        shown = slot_names[slot] or name
        material: dict = {
            "name": shown if len(albedo) == 1 else f"{shown}.{tile}",
            "pbrMetallicRoughness": {
                "baseColorTexture": {"index": color},
                "metallicFactor": 0.0,
                "roughnessFactor": RESULT_ROUGHNESS,
            },
        }
        if bumps is not None:
            material["normalTexture"] = {"index": bumps}
        materials.append(material)
    document = {
        "asset": {"version": "2.0", "generator": f"RecDreamer {__version__}"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"name": name, "primitives": primitives}],
        "materials": materials,
        "textures": textures,
        "samplers": [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": REPEAT, "wrapT": REPEAT}
        ],
        "images": images,
    }
    return writer.finished(document)


class _Writer:
    """Collects the binary part of a GLB, and the views and accessors that describe it."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.views: list[dict] = []
        self.accessors: list[dict] = []

    def add_view(self, data: bytes, **extra: int) -> int:
        offset = sum(map(len, self.chunks))
        self.views.append({"buffer": 0, "byteOffset": offset, "byteLength": len(data)} | extra)
        self.chunks.append(data + bytes(-len(data) % 4))
        return len(self.views) - 1

    def add_accessor(self, array: np.ndarray, kind: str, *, has_bounds: bool = False) -> int:
        array = array.astype("<f4")
        view = self.add_view(array.tobytes(), target=ARRAY_BUFFER)
        accessor = {"bufferView": view, "componentType": FLOAT, "count": len(array), "type": kind}
        if has_bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def add_indices(self, indices: np.ndarray) -> int:
        view = self.add_view(indices.astype("<u4").tobytes(), target=ELEMENT_ARRAY_BUFFER)
        self.accessors.append(
            {"bufferView": view, "componentType": UINT32, "count": indices.size, "type": "SCALAR"}
        )
        return len(self.accessors) - 1

    def finished(self, document: dict) -> bytes:
        length = sum(map(len, self.chunks))
        document |= {
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": length}],
        }
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        header = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + length)
        parts = (header, struct.pack("<I4s", len(text), b"JSON"), text, struct.pack("<I4s", length, b"BIN\0"))
        return b"".join((*parts, *self.chunks))
