"""Distance of a mesh from the true figurine of its prompt, and the shape of its triangles.

Both surfaces are sampled evenly by area and compared point by point. First the mesh is scaled to the height of the figure
and put on its base, then turned about Z to the best fit, because a result may face anywhere.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.spatial import KDTree

from recdreamer.evaluation.figurines import COLORS, KINDS, Figurines
from recdreamer.evaluation.mesh_views import mesh_colors
from recdreamer.mesh.baked_texture import Tiles
from recdreamer.mesh.mesh import Mesh, connected_components, face_cross, is_watertight

F_SCORE_AT = 0.02
"""A point counts as found within this distance, as a share of the figure's height."""
SLIVER_DEG = 10.0
SEARCH_YAWS = 72
SEARCH_POINTS = 5000
"""Number of points for the search of the yaw; the measures use all points."""
MEAN_FACING = 0.5
"""Approximate mean cosine between normals and the direction to the camera; changes colours by at most 0.04."""


@dataclass(frozen=True)
class SurfacePoints:
    """Points spread evenly over a surface, in random order."""

    points: Float[np.ndarray, "points 3"]
    normals: Float[np.ndarray, "points 3"]
    """Unit, outward."""
    colors: Float[np.ndarray, "points 3"]
    """As in pictures, with the shading."""

    def turned(self, yaw_deg: float) -> SurfacePoints:
        rotation = about_z(yaw_deg)
        return SurfacePoints(self.points @ rotation.T, self.normals @ rotation.T, self.colors)


@dataclass(frozen=True)
class ShapeDistance:
    """A mesh compared with the truth. Lengths are relative to the figure's height."""

    chamfer: float
    """Mean distance (not squared) of a point to the nearest point of the other surface, averaged over both directions."""
    f_score: float
    """Harmonic mean of both surfaces' shares of points that have the other surface within F_SCORE_AT."""
    normal_consistency: float
    """Mean cosine between the normals of nearest points, averaged over both directions; -1 is inside out."""
    color_difference: float
    """Mean absolute difference of sRGB between nearest points, averaged over both directions."""

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def figure_or_none(prompt: str) -> Figurines | None:
    """The figure that a prompt of the embedded world names, like "a red bear wearing a hat"; None for other prompts.

    A figure "at a party" wears a hat, as in most training pictures.
    """
    words = re.fullmatch(
        rf"(?:an? )?({'|'.join(COLORS)}) ({'|'.join(KINDS)})( at a party| wearing a hat| without a hat)?",
        " ".join(prompt.lower().split()),
    )
    if words is None:
        return None
    color, kind, hat = words.groups()
    index = list(COLORS).index(color), KINDS.index(kind), int(hat not in (None, " without a hat"))
    return Figurines.of(*(torch.tensor([index[k]]) for k in (1, 0, 2)))


def part_levels(
    figure: Figurines, points: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, "points parts"]:
    """Negative inside each part, 0 on its surface; in units of the part's radius, so not a distance in space."""
    levels = np.empty((len(points), figure.centers.shape[1]))
    centers, radii = figure.centers[0].double().numpy(), figure.radii[0].double().numpy().clip(1e-9)
    # Part by part, because all at once would take many times the memory of the points.
    for part, rotation in enumerate(_pitches(figure)):
        local = (points - centers[part]) @ rotation / radii[part]
        is_box = figure.is_box[0, part] > 0
        levels[:, part] = np.abs(local).max(1) if is_box else np.sqrt(np.einsum("ni,ni->n", local, local))
    return levels - 1


def true_surface(figure: Figurines, count: int, seed: int = 0) -> SurfacePoints:
    """Points of the union's outer surface: evenly on every part, without the points inside other parts."""
    random = np.random.default_rng(seed)
    is_part = figure.radii[0].amin(-1).numpy() > 1e-6
    density = count / 2.0  # Per unit of area; doubled until there are enough points.
    while True:
        chosen = [_part_surface(figure, int(part), density, random) for part in np.flatnonzero(is_part)]
        points, normals, parts = (np.concatenate(values) for values in zip(*chosen, strict=True))
        levels = part_levels(figure, points)
        levels[np.arange(len(points)), parts] = np.inf
        outer = np.flatnonzero((levels[:, is_part] >= 0).all(1))
        if len(outer) >= count:
            break
        density *= 2
    outer = random.permutation(outer)[:count]
    colors = figure.colors[0].double().numpy()[parts[outer]]
    shade = 0.74 + 0.20 * normals[outer, 2:3] + 0.08 * MEAN_FACING  # As in `render_figurines`.
    return SurfacePoints(points[outer], normals[outer], (colors * shade).clip(0, 1))


def _part_surface(
    figure: Figurines, part: int, density: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, normals and the part's index, `density` points per unit of area on average."""
    radii = figure.radii[0, part].double().numpy()
    if figure.is_box[0, part] > 0:
        areas = 4 * radii[[1, 2, 0]] * radii[[2, 0, 1]]
        axes = np.repeat(np.arange(3), random.poisson(2 * density * areas))
        points = random.uniform(-1, 1, (len(axes), 3))
        normals = np.zeros_like(points)
        normals[np.arange(len(axes)), axes] = random.choice([-1.0, 1.0], len(axes))
        points = np.where(normals != 0, normals, points) * radii
    else:
        # At the image of the unit sphere's point u the area grows by abc |u / r|: draw for the maximum and reject.
        drawn = random.poisson(density * 4 * np.pi * radii.prod() / radii.min())
        unit = _normalized(random.standard_normal((drawn, 3)))
        growth = np.linalg.norm(unit / radii, axis=1) * radii.min()
        unit = unit[random.uniform(size=drawn) < growth]
        points, normals = unit * radii, _normalized(unit / radii)
    rotation = _pitches(figure)[part]
    center = figure.centers[0, part].double().numpy()
    return points @ rotation.T + center, normals @ rotation.T, np.full(len(points), part)


def figure_bounds(figure: Figurines) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Lowest and highest corner of the box around a figure."""
    radii, rotations = figure.radii[0].double().numpy(), _pitches(figure)
    is_part, is_box = radii.min(1) > 1e-6, figure.is_box[0].numpy()[:, None] > 0
    box = np.einsum("pij,pj->pi", np.abs(rotations), radii)
    ball = np.sqrt(np.einsum("pij,pj->pi", rotations**2, radii**2))
    reach, centers = np.where(is_box, box, ball)[is_part], figure.centers[0].double().numpy()[is_part]
    return (centers - reach).min(0), (centers + reach).max(0)


def mesh_surface(mesh: Mesh, tiles: Tiles | None, count: int, seed: int = 0) -> SurfacePoints:
    """Points of a mesh with the normals of its faces and the colours of its texture, grey without one."""
    random = np.random.default_rng(seed)
    cross = face_cross(mesh).astype(np.float64)
    areas = np.linalg.norm(cross, axis=1)
    faces = random.choice(len(areas), count, p=areas / areas.sum())
    # The square root makes two uniform numbers uniform in a triangle (Osada et al. 2002).
    first, second = random.uniform(size=(2, count))
    root = np.sqrt(first)
    weights = np.stack([1 - root, root * (1 - second), root * second], 1)
    points = np.einsum("nc,ncd->nd", weights, mesh.verts[mesh.faces[faces]].astype(np.float64))
    colors = np.full_like(points, 0.5)
    if tiles is not None:
        colors = mesh_colors(mesh, tiles, faces, weights)
    return SurfacePoints(points, _normalized(cross[faces]), colors)


def fitted_to(mesh: Mesh, yaw_deg: float, lo: Float[np.ndarray, "3"], hi: Float[np.ndarray, "3"]) -> Mesh:
    """The mesh turned about Z, then as high as the box from `lo` to `hi`, with its base's middle on the box's."""
    verts = mesh.verts.astype(np.float64) @ about_z(yaw_deg).T
    low, high = verts.min(0), verts.max(0)
    scale = (hi[2] - lo[2]) / (high[2] - low[2])
    middle = np.array([*(low + high)[:2] / 2, low[2]])
    base = np.array([*(lo + hi)[:2] / 2, lo[2]])
    return Mesh((verts - middle) * scale + base, mesh.faces, mesh.uvs)


def best_yaw(mesh: Mesh, figure: Figurines, seed: int = 0) -> float:
    """Degrees, counter-clockwise from above, by which the mesh must be turned to fit the figure best."""
    return best_yaw_to(mesh, figure_bounds(figure), true_surface(figure, SEARCH_POINTS, seed), seed)


def best_yaw_to(
    mesh: Mesh, bounds: tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]], truth: SurfacePoints, seed: int = 0
) -> float:  # fmt: skip
    """The same for a truth that is known by the box around it and SEARCH_POINTS of its points.

    The minimum of the Chamfer distance over SEARCH_YAWS rotations, refined between its neighbours; in (-180, 180].
    """
    lo, hi = bounds
    upright = fitted_to(mesh, 0.0, lo, hi)
    found, true = mesh_surface(upright, None, SEARCH_POINTS, seed).points, truth.points
    to_found, to_true = KDTree(found), KDTree(true)

    def chamfer(yaw_deg: float) -> float:
        rotation = about_z(yaw_deg)
        shift = _shift(upright, fitted_to(upright, yaw_deg, lo, hi), rotation)
        there, _ = to_true.query(found @ rotation.T + shift)
        # Turning the truth back avoids a new tree for every rotation.
        back, _ = to_found.query((true - shift) @ rotation)
        return float(there.mean() + back.mean()) / 2

    step = 360 / SEARCH_YAWS
    coarse = min((step * k for k in range(SEARCH_YAWS)), key=chamfer)
    fine = minimize_scalar(chamfer, bounds=(coarse - step, coarse + step), options={"xatol": 0.05}).x
    yaw_deg = float(fine) if chamfer(float(fine)) < chamfer(coarse) else coarse
    return 180 - (180 - yaw_deg) % 360


def compare_surfaces(found: SurfacePoints, true: SurfacePoints, height: float) -> ShapeDistance:
    """The measures between two sampled surfaces in the same place; `height` is the figure's."""
    there, nearest_true = KDTree(true.points).query(found.points)
    back, nearest_found = KDTree(found.points).query(true.points)
    precision, recall = (float((d <= F_SCORE_AT * height).mean()) for d in (there, back))
    pairs = (found, true, nearest_true), (true, found, nearest_found)
    cosines = [(one.normals * other.normals[index]).sum(1).mean() for one, other, index in pairs]
    colors = [np.abs(one.colors - other.colors[index]).mean() for one, other, index in pairs]
    return ShapeDistance(
        float((there.mean() + back.mean()) / 2 / height),
        2 * precision * recall / max(precision + recall, 1e-12),
        float(np.mean(cosines)),
        float(np.mean(colors)),
    )


def triangle_measures(mesh: Mesh) -> dict[str, float | int | bool]:
    """Number and shape of the triangles.

    Quality is 4 sqrt(3) area / sum of squared edges (Bhatia and Lawrence 1990): 1 for equal sides, 0 for sides on one
    line. Slivers have an angle below SLIVER_DEG.
    """
    corners = mesh.verts[mesh.faces].astype(np.float64)
    edges = np.roll(corners, -1, axis=1) - corners
    squares = (edges**2).sum(-1)
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2
    quality = 4 * np.sqrt(3) * area / squares.sum(1).clip(1e-30)
    # The smallest angle lies between the two longest sides.
    shortest, middle, longest = np.sort(squares, axis=1).T
    cosine = (middle + longest - shortest) / (2 * np.sqrt(middle * longest).clip(1e-30))
    is_sliver = np.rad2deg(np.arccos(cosine.clip(-1, 1))) < SLIVER_DEG
    return {
        "faces": len(mesh.faces),
        "components": int(connected_components(mesh).max()) + 1,
        "is_watertight": is_watertight(mesh),
        "quality_mean": float(quality.mean()),
        "quality_5th_percentile": float(np.percentile(quality, 5)),
        "sliver_share": float(is_sliver.mean()),
    }


def about_z(yaw_deg: float) -> Float[np.ndarray, "3 3"]:
    cos, sin = np.cos(np.deg2rad(yaw_deg)), np.sin(np.deg2rad(yaw_deg))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])


def _shift(before: Mesh, after: Mesh, rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    return after.verts[0] - rotation @ before.verts[0]


def _pitches(figure: Figurines) -> Float[np.ndarray, "parts 3 3"]:
    """Rotation of each part about X."""
    angles = figure.pitch_rad[0].double().numpy()
    rotations = np.tile(np.eye(3), (len(angles), 1, 1))
    rotations[:, 1, 1] = rotations[:, 2, 2] = np.cos(angles)
    rotations[:, 1, 2], rotations[:, 2, 1] = -np.sin(angles), np.sin(angles)
    return rotations


def _normalized(vectors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-30)
