"""glTF 2.0 binary writer for one textured mesh. The only place that turns Z up into Y up."""

from __future__ import annotations

import json
import struct

import numpy as np

from recdreamer import __version__
from recdreamer.mesh.mesh import Mesh, vertex_normals

FLOAT, UINT32 = 5126, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
REPEAT, LINEAR, LINEAR_MIPMAP_LINEAR = 10497, 9729, 9987
Z_UP_TO_Y_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32)


def glb_bytes(mesh: Mesh, png: bytes, name: str = "RecDreamer") -> bytes:
    """GLB of a Z-up mesh with UVs and a base colour texture (sRGB PNG); metallic 0, roughness 0.9.

    glTF is Y-up with the front at +Z: (x, y, z) becomes (x, z, -y), so a front at -Y stays a front.
    glTF has one UV per vertex: vertices are split along UV seams, and share their smooth normal.
    """
    vertex_of_corner = mesh.faces.astype(np.int32).reshape(-1, 1)
    uv_bits = mesh.uvs_or_error().astype(np.float32).reshape(-1, 2).view(np.int32)
    corners = np.concatenate([vertex_of_corner, uv_bits], axis=1)
    unique, indices = np.unique(corners, axis=0, return_inverse=True)
    source = unique[:, 0]
    positions = mesh.verts[source] @ Z_UP_TO_Y_UP.T
    normals = vertex_normals(mesh)[source] @ Z_UP_TO_Y_UP.T
    uvs = np.ascontiguousarray(unique[:, 1:]).view(np.float32) * (1, -1) + (0, 1)  # v grows downward

    chunks: list[bytes] = []
    views: list[dict] = []

    def add_view(data: bytes, **extra: int) -> int:
        views.append({"buffer": 0, "byteOffset": sum(map(len, chunks)), "byteLength": len(data)} | extra)
        chunks.append(data + bytes(-len(data) % 4))
        return len(views) - 1

    accessors: list[dict] = []

    def add_accessor(array: np.ndarray, kind: str, target: int) -> int:
        view = add_view(array.tobytes(), target=target)
        component = UINT32 if array.dtype == np.uint32 else FLOAT
        accessors.append({"bufferView": view, "componentType": component, "count": len(array), "type": kind})
        return len(accessors) - 1

    positions = positions.astype("<f4")
    position = add_accessor(positions, "VEC3", ARRAY_BUFFER)
    accessors[position] |= {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
    attributes = {
        "POSITION": position,
        "NORMAL": add_accessor(normals.astype("<f4"), "VEC3", ARRAY_BUFFER),
        "TEXCOORD_0": add_accessor(uvs.astype("<f4"), "VEC2", ARRAY_BUFFER),
    }
    index = add_accessor(indices.ravel().astype("<u4"), "SCALAR", ELEMENT_ARRAY_BUFFER)
    image = add_view(png)
    binary = b"".join(chunks)
    document = {
        "asset": {"version": "2.0", "generator": f"RecDreamer {__version__}"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [
            {"name": name, "primitives": [{"attributes": attributes, "indices": index, "material": 0}]}
        ],
        "materials": [
            {
                "name": name,
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "metallicFactor": 0.0,
                    "roughnessFactor": 0.9,
                },
            }
        ],
        "textures": [{"sampler": 0, "source": 0}],
        "samplers": [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": REPEAT, "wrapT": REPEAT}
        ],
        "images": [{"name": "albedo", "bufferView": image, "mimeType": "image/png"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(binary))
    return (
        header
        + struct.pack("<I4s", len(text), b"JSON")
        + text
        + struct.pack("<I4s", len(binary), b"BIN\0")
        + binary
    )
