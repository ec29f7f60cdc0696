"""UV seams: measures the colour difference between their two sides, and removes it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage, sparse

from recdreamer.mesh.baked_texture import Texture, Tiles
from recdreamer.mesh.mesh import Mesh, opposite_half_edges
from recdreamer.mesh.raster import tiles_of_faces, uvs_in_tile

POINTS_PER_EDGE = 5
BAND_PX = 6
SMOOTHNESS = 0.02  # of the change, against the agreement of the two sides
ITERATIONS = 100
TOLERANCE = 1e-3  # of the first residual
LEVEL_ABOVE = 1.25  # bytes


def seam_edges(mesh: Mesh) -> tuple[Int[np.ndarray, "seams"], Int[np.ndarray, "seams"]]:
    """Half-edges on the two sides of every edge whose faces have different UVs there; see `opposite_half_edges`.

    OBJ and glTF files split vertices along seams: faces without shared vertices are joined where their positions agree.
    """
    uvs = mesh.uvs_or_error()
    opposite = opposite_half_edges(mesh)
    # Merging vertices is only a fallback: where sheets touch, an edge would seem to be shared by four faces.
    places, joined = np.unique(mesh.verts, axis=0, return_inverse=True)
    if len(places) < len(mesh.verts):
        across = opposite_half_edges(Mesh(places, joined.reshape(-1)[mesh.faces]))
        opposite = np.where(opposite >= 0, opposite, across)
    half = np.flatnonzero(opposite > np.arange(len(opposite)))
    ends, other = _ends(uvs, half), _ends(uvs, opposite[half])[:, ::-1]
    is_seam = (ends != other).any((1, 2))
    return half[is_seam], opposite[half][is_seam]


def seam_error(mesh: Mesh, tiles: Tiles) -> dict[str, float]:
    """Jump of the colour across the UV seams, in [0, 1]: its mean, 99th percentile (p99) and max.

    Both sides are sampled bilinearly at five points of every seam edge, as a renderer does; the jump is the
    largest difference of a channel. All zero without seams.

    Two triangles that share an edge, one in the black half of a texture and one in the white half:

    >>> left = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3]])
    >>> right = np.array([[0.7, 0.1], [0.9, 0.3], [0.7, 0.3]])
    >>> square = Mesh(np.eye(4, 3), np.array([[0, 1, 2], [0, 2, 3]]), np.stack([left, right]))
    >>> image = np.zeros((16, 16, 3), np.uint8)
    >>> image[:, 8:] = 255
    >>> seam_error(square, {1001: image})
    {'mean': 1.0, 'p99': 1.0, 'max': 1.0}
    """
    size_px = len(next(iter(tiles.values())))
    first, second = seam_edges(mesh)
    if len(first) == 0:
        return {"mean": 0.0, "p99": 0.0, "max": 0.0}
    along = np.tile(np.linspace(0, 1, POINTS_PER_EDGE), len(first))
    sides = []
    for half, place in ((first, along), (second, 1 - along)):
        texels, weights = _lookups(mesh, np.repeat(half, POINTS_PER_EDGE), place, list(tiles), size_px)
        sides.append(np.einsum("nk,nkc->nc", weights, _values(tiles, texels)))
    jump = np.abs(sides[0] - sides[1]).max(1) / 255
    return {"mean": float(jump.mean()), "p99": float(np.quantile(jump, 0.99)), "max": float(jump.max())}


def level_seams(mesh: Mesh, texture: Texture) -> Texture:
    """Texture whose colours agree across UV seams: texels within 6 px of a seam change smoothly and minimally.

    Least squares for the change d of these texels: |jump(c + d)|^2 + 0.02 |gradient of d|^2, d = 0 beyond (after
    Lempitsky and Ivanov 2007, who level whole patches). Jumps of one byte, caused by rounding, are left alone.

    The halves of the texture of `seam_error`, 20 bytes apart, meet in the middle at the seam:

    >>> left = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3]])
    >>> right = np.array([[0.7, 0.1], [0.9, 0.3], [0.7, 0.3]])
    >>> square = Mesh(np.eye(4, 3), np.array([[0, 1, 2], [0, 2, 3]]), np.stack([left, right]))
    >>> image = np.full((16, 16, 3), 100, np.uint8)
    >>> image[:, 8:] = 120
    >>> texture = Texture({1001: image}, {1001: np.ones((16, 16), bool)})
    >>> leveled = level_seams(square, texture)
    >>> seam_error(square, leveled.tiles)["max"] < 0.1 * seam_error(square, texture.tiles)["max"]
    True
    """
    texels, weights = _across_seams(mesh, list(texture.tiles), texture.size_px)
    jump = np.einsum("nk,nkc->nc", weights, _values(texture.tiles, texels))
    is_visible = np.abs(jump).max(1) > LEVEL_ABOVE
    if not is_visible.any():
        return texture
    is_island = np.stack([texture.is_island[name] for name in texture.tiles])
    touched = np.zeros(is_island.shape, bool)
    touched.reshape(-1)[texels[is_visible].ravel()] = True
    is_band = np.asarray(ndimage.maximum_filter(touched, (1, 2 * BAND_PX + 1, 2 * BAND_PX + 1))) & is_island
    band = np.flatnonzero(is_band)
    number = np.full(is_band.size, -1, np.int32)
    number[band] = np.arange(len(band), dtype=np.int32)

    concerned = (number[texels] >= 0).any(1)
    texels, weights, jump = texels[concerned], weights[concerned], jump[concerned]
    row, column = np.repeat(np.arange(len(texels)), texels.shape[1]), number[texels].ravel()
    # A lookup may read a texel outside the islands, which gets its nearest neighbour's colour later.
    keep = column >= 0
    entries = (weights.ravel()[keep].astype(np.float32), (row[keep], column[keep]))
    jumps = sparse.csr_matrix(entries, (len(texels), len(band)))
    system = jumps.T @ jumps + SMOOTHNESS * _laplacian(is_band, is_island, number)
    change = _conjugate_gradients(system.tocsr(), -(jumps.T @ jump.astype(np.float32)))

    images: Tiles = {}
    per_tile = texture.size_px**2
    for index, (name, image) in enumerate(texture.tiles.items()):
        image = image.reshape(-1, 3).copy()
        inside = band // per_tile == index
        texel = band[inside] % per_tile
        image[texel] = np.clip(np.round(image[texel] + change[inside]), 0, 255).astype(np.uint8)
        images[name] = image.reshape(texture.size_px, texture.size_px, 3)
    return Texture(images, texture.is_island)


def _across_seams(
    mesh: Mesh, names: list[int], size_px: int
) -> tuple[Int[np.ndarray, "points 8"], Float[np.ndarray, "points 8"]]:
    """Lookups on both sides of the seams, one point per texel of length; their weighted sum is the jump."""
    first, second = seam_edges(mesh)
    ends = [_ends(mesh.uvs_or_error(), half) for half in (first, second)]
    lengths = np.max([np.linalg.norm(pair[:, 1] - pair[:, 0], axis=1) for pair in ends], axis=0)
    intervals = np.ceil(lengths * size_px).astype(np.int64).clip(1, 2 * size_px)
    counts = intervals + 1
    index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    along = index / np.repeat(intervals, counts)
    left = _lookups(mesh, np.repeat(first, counts), along, names, size_px)
    right = _lookups(mesh, np.repeat(second, counts), 1 - along, names, size_px)
    return np.concatenate([left[0], right[0]], 1), np.concatenate([left[1], -right[1]], 1)


def _ends(uvs: Float[np.ndarray, "faces 3 2"], half: Int[np.ndarray, "half_edges"]) -> np.ndarray:
    """UVs of the two ends of half-edges."""
    face, corner = np.divmod(half, 3)
    return np.stack([uvs[face, corner], uvs[face, (corner + 1) % 3]], 1)


def _lookups(
    mesh: Mesh,
    half: Int[np.ndarray, "points"],
    along: Float[np.ndarray, "points"],
    names: list[int],
    size_px: int,
) -> tuple[Int[np.ndarray, "points 4"], Float[np.ndarray, "points 4"]]:
    """The four texels of a bilinear lookup at points of half-edges, and their weights.

    Texel indices run through all tiles in the order of `names`.
    """
    uvs = mesh.uvs_or_error()
    tile_of_face = tiles_of_faces(uvs)
    ends = _ends(uvs, half).astype(np.float64)
    place = ends[:, 0] * (1 - along[:, None]) + ends[:, 1] * along[:, None]
    first = np.zeros(len(half), np.int64)
    for index, name in enumerate(names):
        inside = tile_of_face[half // 3] == name
        first[inside] = index * size_px**2
        place[inside] = uvs_in_tile(place[inside], name)
    x, y = place[:, 0] * size_px - 0.5, (1 - place[:, 1]) * size_px - 0.5
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right_share, low_share = x - left, y - top
    texels, weights = [], []
    for down in (0, 1):
        for right in (0, 1):
            row, column = np.clip(top + down, 0, size_px - 1), np.clip(left + right, 0, size_px - 1)
            texels.append(first + row * size_px + column)
            weights.append(
                np.where(down, low_share, 1 - low_share) * np.where(right, right_share, 1 - right_share)
            )
    return np.stack(texels, 1), np.stack(weights, 1)


def _values(tiles: Tiles, texels: Int[np.ndarray, "points texels"]) -> Float[np.ndarray, "points texels 3"]:
    """Bytes, as floats, of texels whose indices run through all tiles."""
    per_tile = len(next(iter(tiles.values()))) ** 2
    values = np.zeros((*texels.shape, 3))
    for index, image in enumerate(tiles.values()):
        inside = texels // per_tile == index
        values[inside] = image.reshape(-1, 3)[texels[inside] - index * per_tile]
    return values


def _laplacian(
    is_band: Bool[np.ndarray, "tiles height width"],
    is_island: Bool[np.ndarray, "tiles height width"],
    number: Int[np.ndarray, "texels"],
) -> sparse.csr_matrix:
    """Matrix of the squared differences between the changes of an island's neighbouring texels; zero outside the band."""
    number = number.reshape(is_band.shape)
    rows, columns, values = [], [], []
    for axis in (1, 2):
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        low, high = tuple(low), tuple(high)
        for here, there in ((low, high), (high, low)):
            linked = is_band[here] & is_island[there]
            own, other = number[here][linked], number[there][linked]
            rows.append(own)
            columns.append(own)
            values.append(np.ones(len(own), np.float32))
            inner = other >= 0
            rows.append(own[inner])
            columns.append(other[inner])
            values.append(-np.ones(int(inner.sum()), np.float32))
    count = int(is_band.sum())
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(entries, (count, count))


def _conjugate_gradients(
    system: sparse.csr_matrix, target: Float[np.ndarray, "unknowns channels"]
) -> Float[np.ndarray, "unknowns channels"]:
    """Solve a symmetric positive definite system for all channels at once, with a diagonal preconditioner."""
    inverse_diagonal = 1 / system.diagonal()[:, None]
    solution, residual = np.zeros_like(target), target.copy()
    step = inverse_diagonal * residual
    energy = (residual * step).sum(0)
    enough = TOLERANCE**2 * energy
    for _ in range(ITERATIONS):
        moved = system @ step
        length = energy / np.maximum((step * moved).sum(0), 1e-30)
        solution += length * step
        residual -= length * moved
        smoothed = inverse_diagonal * residual
        new_energy = (residual * smoothed).sum(0)
        step = smoothed + new_energy / np.maximum(energy, 1e-30) * step
        energy = new_energy
        if (energy <= enough).all():
            break
    return solution
