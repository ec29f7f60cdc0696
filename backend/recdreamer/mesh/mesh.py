"""The triangle mesh, its settings and its measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from recdreamer.shared.material_slots import MaterialSlots


@dataclass(frozen=True)
class MeshConfig:
    """How a field becomes a textured mesh."""

    resolution: int = 256
    """Marching cubes cells along the longest side of the object."""
    threshold: float | None = None
    """Density of the surface per scene unit; None = the density that looks most like the renders."""
    min_component_share: float = 0.01
    """Loose parts smaller than this share of the largest part's volume are removed, except opaque ones that gap
    closing connects to a larger part."""
    closed_gap: float = 0.04
    """Gaps up to this width, as a share of the longest side, are filled, because fields are often porous in areas of
    uniform colour; 0 = off."""
    fill_pores: bool = True
    """False closes only gaps that split the object, so that a surface without pores keeps its creases."""
    hidden_share: float = 0.03
    """Hollows are filled where less than this share of all directions leads out, from 0 to 0.5; 0 = off. In the corners
    of a pit as deep as wide the share is 0.042, so it is kept."""
    smoothing_steps: int = 4
    """Taubin smoothing steps, which remove the field's noise but keep the volume; 0 = off."""
    target_faces: int = 30_000
    """Triangles after decimation: 2,000 for a game's background, 500,000 for sculpting; never more than were found."""
    texture_size_px: int = 2048
    """Side of the square texture: 512 to 4096, at most 8192."""
    padding_px: int = 4
    """Least distance between UV islands, filled with the colour of the nearest one."""
    bake_samples: int = 2
    """Jittered rays per texel."""
    normal_map: bool = True
    """Also bake the field's own normals, which keep detail that the decimated surface has lost."""

    def __post_init__(self) -> None:
        for name, least in (
            ("resolution", 8),
            ("target_faces", 100),
            ("texture_size_px", 16),
            ("padding_px", 0),
            ("bake_samples", 1),
            ("smoothing_steps", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"mesh.{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.texture_size_px > 8192:
            raise ValueError(
                f"mesh.texture_size_px is {self.texture_size_px}; at most 8192 fit into memory and into a GPU."
            )
        if self.threshold is not None and not self.threshold > 0:
            raise ValueError(
                f"mesh.threshold is {self.threshold}; it must be above 0, or None for automatic."
            )
        if not 0 <= self.closed_gap <= 0.5:
            raise ValueError(f"mesh.closed_gap is {self.closed_gap}; it must lie in [0, 0.5].")
        if not 0 <= self.hidden_share <= 0.5:
            raise ValueError(f"mesh.hidden_share is {self.hidden_share}; it must lie in [0, 0.5].")
        if not 0 <= self.min_component_share <= 1:
            raise ValueError(
                f"mesh.min_component_share is {self.min_component_share}; it must lie in [0, 1]."
            )


@dataclass(frozen=True)
class Mesh:
    """Welded triangle mesh; faces are counter-clockwise seen from outside."""

    verts: Float[np.ndarray, "verts 3"]
    """Positions; in scene units until the exporter converts them to metres. Z-up, front at -Y."""
    faces: Int[np.ndarray, "faces 3"]
    uvs: Float[np.ndarray, "faces 3 2"] | None = None
    """Texture coordinates of every face corner; (0, 0) is the lower left of the image, as in Blender. NaN in faces that
    have none yet."""
    slots: MaterialSlots | None = None
    """Of the artist's mesh; None for a mesh of one material."""

    def uvs_or_error(self) -> Float[np.ndarray, "faces 3 2"]:
        if self.uvs is None:
            raise ValueError("The mesh has no UVs yet. Unwrap it first.")
        return self.uvs


def face_cross(mesh: Mesh) -> Float[np.ndarray, "faces 3"]:
    """Face normals whose length is twice the face's area.

    >>> triangle = Mesh(np.array([[0.0, 0, 0], [2, 0, 0], [0, 3, 0]]), np.array([[0, 1, 2]]))
    >>> face_cross(triangle).tolist()
    [[0.0, 0.0, 6.0]]
    """
    a, b, c = (mesh.verts[mesh.faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def face_normals(mesh: Mesh) -> Float[np.ndarray, "faces 3"]:
    """Unit normals; zero where a face has no area."""
    return normalized(face_cross(mesh))


def surface_area(mesh: Mesh) -> float:
    """Sum of the faces' areas.

    >>> surface_area(Mesh(np.array([[0.0, 0, 0], [2, 0, 0], [0, 3, 0]]), np.array([[0, 1, 2]])))
    3.0
    """
    return float(np.linalg.norm(face_cross(mesh), axis=1).sum() / 2)


def signed_volume(mesh: Mesh) -> float:
    """Enclosed volume; negative if the faces point inward (divergence theorem).

    >>> verts = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    >>> faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    >>> signed_volume(Mesh(verts, faces)), signed_volume(Mesh(verts, faces[:, ::-1]))  # 1 · 2 · 3 / 6
    (1.0, -1.0)
    """
    a, b, c = (mesh.verts[mesh.faces[:, corner]].astype(np.float64) for corner in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def is_watertight(mesh: Mesh) -> bool:
    """True if every directed edge occurs once and its opposite once: closed and consistently wound.

    >>> verts, faces = np.zeros((4, 3)), np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    >>> is_watertight(Mesh(verts, faces)), is_watertight(Mesh(verts, faces[:3]))
    (True, False)
    """
    if len(mesh.faces) == 0:
        return False
    tails = mesh.faces.astype(np.int64).ravel()
    heads = np.roll(mesh.faces, -1, axis=1).astype(np.int64).ravel()
    forward = np.sort(tails * len(mesh.verts) + heads)
    backward = np.sort(heads * len(mesh.verts) + tails)
    return bool(np.all(forward[1:] != forward[:-1]) and np.array_equal(forward, backward))


def opposite_half_edges(mesh: Mesh) -> Int[np.ndarray, "half_edges"]:
    """The opposite half-edge of each half-edge 3 f + i, which runs from corner i of face f to the next corner.

    -1 at a border, where more than two faces meet, and where the winding changes.

    A square of two triangles, which share half-edge 2 (from 2 to 0) and half-edge 3 (from 0 to 2):

    >>> opposite_half_edges(Mesh(np.zeros((4, 3)), np.array([[0, 1, 2], [0, 2, 3]]))).tolist()
    [-1, -1, 3, 2, -1, -1]
    """
    tails = mesh.faces.astype(np.int64).ravel()
    heads = np.roll(mesh.faces, -1, axis=1).astype(np.int64).ravel()
    keys, reverse = tails * len(mesh.verts) + heads, heads * len(mesh.verts) + tails
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.searchsorted(ordered, reverse)
    is_single = (np.searchsorted(ordered, reverse, "right") - first == 1) & (
        np.searchsorted(ordered, keys, "right") - np.searchsorted(ordered, keys) == 1
    )
    return np.where(is_single, order[np.minimum(first, len(order) - 1)], -1)


def face_neighbours(mesh: Mesh) -> Int[np.ndarray, "faces 3"]:
    """The face across each edge from corner i to the next; -1 where `opposite_half_edges` has none.

    >>> face_neighbours(Mesh(np.zeros((4, 3)), np.array([[0, 1, 2], [0, 2, 3]]))).tolist()
    [[-1, -1, 1], [0, -1, -1]]
    """
    opposite = opposite_half_edges(mesh)
    return np.where(opposite >= 0, opposite // 3, -1).reshape(-1, 3)


def connected_components(mesh: Mesh) -> Int[np.ndarray, "faces"]:
    """Number of the loose part of each face, from 0; parts share no vertices."""
    corners = mesh.faces.astype(np.int64)
    ends = np.concatenate([corners[:, :2], corners[:, 1:]])
    links = (np.ones(len(ends), bool), (ends[:, 0], ends[:, 1]))
    graph = sparse.coo_matrix(links, (len(mesh.verts), len(mesh.verts)))
    labels = sparse.csgraph.connected_components(graph, directed=False)[1][corners[:, 0]]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def vertex_normals(mesh: Mesh) -> Float[np.ndarray, "verts 3"]:
    """Smooth unit normals: face normals weighted by the corner angle (Thürmer and Wüthrich 1998).

    The corner of a cube, where three right angles meet:

    >>> verts = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> corner = Mesh(verts, np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1]]))
    >>> [round(x, 4) for x in vertex_normals(corner)[0].tolist()]  # 1 / √3
    [0.5774, 0.5774, 0.5774]
    """
    mesh = Mesh(unit_sized(mesh.verts), mesh.faces)
    corners = mesh.verts[mesh.faces].astype(np.float64)
    face_normals = normalized(face_cross(mesh).astype(np.float64))
    normals = np.zeros((len(mesh.verts), 3))
    for corner in range(3):
        to_next = normalized(corners[:, (corner + 1) % 3] - corners[:, corner])
        to_last = normalized(corners[:, (corner + 2) % 3] - corners[:, corner])
        angles = np.arccos(np.clip(np.einsum("ij,ij->i", to_next, to_last), -1, 1))
        for axis in range(3):
            normals[:, axis] += np.bincount(
                mesh.faces[:, corner], angles * face_normals[:, axis], minlength=len(mesh.verts)
            )
    normals = normalized(normals)
    # A vertex with only degenerate faces still needs a unit vector, because renderers divide by its length.
    normals[~normals.any(axis=1)] = (0.0, 0.0, 1.0)
    return normals.astype(np.float32)


def unit_sized(verts: Float[np.ndarray, "verts 3"]) -> Float[np.ndarray, "verts 3"]:
    """The vertices divided by the power of two next below their extent, for which products of lengths cannot overflow.

    Exact, so that directions and proportions keep their last bits.

    >>> unit_sized(np.array([[0.0, 0, 0], [3e30, 0, 0]])).round(2).tolist()
    [[0.0, 0.0, 0.0], [1.18, 0.0, 0.0]]
    """
    extent = float(np.ptp(verts.astype(np.float64), axis=0).max(initial=0.0))
    if not 0 < extent < np.inf:
        return verts
    return np.ldexp(verts, 1 - np.frexp(extent)[1]).astype(verts.dtype)


def turned(verts: Float[np.ndarray, "verts 3"], yaw_deg: float) -> Float[np.ndarray, "verts 3"]:
    """Points rotated about Z, counter-clockwise from above, in double precision; exactly unchanged for 0.

    >>> turned(np.array([[1.0, 0.0, 5.0]]), 90.0).round().astype(int).tolist()
    [[0, 1, 5]]
    """
    verts = verts.astype(np.float64)
    if yaw_deg == 0:
        return verts
    cos, sin = np.cos(np.deg2rad(yaw_deg)), np.sin(np.deg2rad(yaw_deg))
    return verts @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def without_unused_verts(mesh: Mesh) -> Mesh:
    used: Bool[np.ndarray, "verts"] = np.zeros(len(mesh.verts), bool)
    used[mesh.faces] = True
    new_index = np.cumsum(used) - 1
    return Mesh(mesh.verts[used], new_index[mesh.faces].astype(np.int32), mesh.uvs)


def normalized(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Unit vectors; zero where a vector has no length.

    >>> normalized(np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
    [[0.6, 0.8, 0.0], [0.0, 0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-20)


def double_areas(corners: Float[np.ndarray, "faces 3 2"]) -> Float[np.ndarray, "faces"]:
    """Twice the signed areas of flat triangles, positive where they run counter-clockwise.

    >>> double_areas(np.array([[[0.0, 0], [2, 0], [0, 3]], [[0.0, 0], [0, 3], [2, 0]]])).tolist()
    [6.0, -6.0]
    """
    b, c = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0]
