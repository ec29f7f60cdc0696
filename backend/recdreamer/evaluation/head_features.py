"""What stands on the head of a figurine's result: ears, a crest, an antenna, counted by how far they stand out.

A cut at one height counts what it meets, and that depends on how high the head is: where the crown between two ears is
a little too high, the cut goes through the crown as well and meets one piece. So the ears are counted as the peaks of
the distance from the true figure without ears, seen from above. A crown that is too high everywhere lies a little
outside of that figure, and the ears still stand out of it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from recdreamer.evaluation.figurines import Figurines, rows_on_head
from recdreamer.evaluation.mesh_distance import part_levels, true_surface

TRUE_POINTS = 50_000
CELL = 0.03
"""Side of the cells of the map from above, in scene units; a third of the gap between a rabbit's ears."""
PROMINENCE = 0.065
"""How far a peak must rise above the pass to a higher one, in scene units: half of what the least true feature has, a
crest or an ear beside a hat (0.13). A head may be as much too large without a peak of its own."""
LEAST_CELLS = 3
"""Smaller peaks are specks."""
NEIGHBORS = 8
"""Points whose median distance counts, so that single points of a rough surface are no peaks."""
TRIMMED = 0.8
"""Share of the nearest pairs that a fit looks at: what is missing or too many must not move the rest."""
FIRST_SCALES = (1.2, 1.0, 0.85, 0.72)
"""From which a fit starts. A rabbit without ears has been enlarged to a rabbit's height, by 1 / 0.73."""
FIT_POINTS, FIT_ROUNDS = 2500, 25


def without_head_features(figure: Figurines, kind: str) -> Figurines:
    """The figure without its ears, crest or antenna; a hat stays."""
    radii = figure.radii.clone()
    radii[:, rows_on_head(kind)] = 0
    return Figurines(figure.centers, radii, figure.pitch_rad, figure.is_box, figure.colors)


def fitted_body(
    points: Float[np.ndarray, "points 3"], true: Float[np.ndarray, "true 3"]
) -> Float[np.ndarray, "points 3"]:
    """Points scaled and moved, but not turned, to where most of them lie on the true ones (trimmed ICP, Chetverikov
    et al. 2002). Both are in random order, and about in the same place.

    A cube of which a part is missing keeps its size:

    >>> cube = np.random.default_rng(0).uniform(-1, 1, (4000, 3))
    >>> found = fitted_body(cube[cube[:, 2] < 0.8] * 1.1 + 0.05, cube)
    >>> bool(abs(found - cube[cube[:, 2] < 0.8]).max() < 0.02)
    True
    """
    some, goal = points[:FIT_POINTS], true[:FIT_POINTS]
    tree = KDTree(goal)
    found: list[tuple[float, float, np.ndarray]] = []
    for scale in FIRST_SCALES:
        # Scaled about the middle of its base, which is where the truth has it.
        base = np.array([*(some.min(0) + some.max(0))[:2] / 2, some[:, 2].min()])
        shift = base * (1 - scale)
        for _ in range(FIT_ROUNDS):
            moved = some * scale + shift
            (there, goal_of), (back, point_of) = _nearest(tree, moved), _nearest(KDTree(moved), goal)
            near, far = there <= np.quantile(there, TRIMMED), back <= np.quantile(back, TRIMMED)
            # Pairs of both directions: with one alone a smaller copy would fit, too.
            one = np.concatenate([some[near], some[point_of[far]]])
            other = np.concatenate([goal[goal_of[near]], goal[far]])
            middle, aim = one.mean(0), other.mean(0)
            scale = float(((one - middle) * (other - aim)).sum() / ((one - middle) ** 2).sum())
            shift = aim - scale * middle
        found.append((float(there[near].mean() + back[far].mean()), scale, shift))
    _, scale, shift = min(found, key=lambda fit: fit[0])
    return points * scale + shift


def _nearest(
    tree: KDTree, points: Float[np.ndarray, "points 3"]
) -> tuple[Float[np.ndarray, "points"], Int[np.ndarray, "points"]]:
    """Distance and index of the nearest point of the tree."""
    distance, index = tree.query(points)
    return np.asarray(distance), np.asarray(index)


def relief_from_above(
    points: Float[np.ndarray, "points 3"], height: Float[np.ndarray, "points"]
) -> Float[np.ndarray, "x y"]:
    """The greatest height in each cell seen from above, 0 where there is no point."""
    if not len(points):
        return np.zeros((1, 1))
    cells = np.floor((points[:, :2] - points[:, :2].min(0)) / CELL).astype(int)
    relief = np.zeros(cells.max(0) + 1)
    np.maximum.at(relief, (cells[:, 0], cells[:, 1]), height)
    return relief


def count_peaks(
    relief: Float[np.ndarray, "x y"], prominence: float = PROMINENCE, least_cells: int = LEAST_CELLS
) -> int:
    """Number of peaks that rise above the pass to a higher peak, or above 0, by `prominence` or more.

    This is the persistence of the components of {relief >= h} as h falls (Edelsbrunner et al. 2002): a component is born
    at a peak, and of two that meet the lower one ends. Peaks of fewer than `least_cells` cells until then do not count.

    Two peaks of 5 with a pass of 2, and a bump on one of them:

    >>> row = np.repeat(np.array([[0, 5, 4, 4.5, 2, 5, 0.0]]), 3, axis=0)
    >>> [count_peaks(row, prominence) for prominence in (0.4, 1.0, 4.0, 6.0)]
    [3, 2, 1, 0]
    """
    padded = np.pad(relief, 1)
    order = np.argsort(-padded, axis=None, kind="stable")
    order = order[padded.ravel()[order] > 0]
    width, heights = padded.shape[1], padded.ravel()
    around = [dx * width + dy for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
    parent: dict[int, int] = {}
    size: dict[int, int] = {}
    count = 0

    def root(cell: int) -> int:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    def counts(peak: int, pass_height: float) -> bool:
        return bool(heights[peak] - pass_height >= prominence and size[peak] >= least_cells)

    for cell in map(int, order):
        parent[cell], size[cell] = cell, 1
        # A component is known by its peak, and the cell falls to the highest.
        met = {root(cell + step) for step in around if cell + step in parent} | {cell}
        highest = max(met, key=lambda peak: (heights[peak], -peak))
        for peak in met - {highest}:
            count += counts(peak, float(heights[cell]))
            parent[peak] = highest
            size[highest] += size[peak]
    return count + sum(counts(cell, 0.0) for cell in parent if parent[cell] == cell)


def count_on_head(points: Float[np.ndarray, "points 3"], figure: Figurines, kind: str) -> int:
    """Ears, crests or antennas of a surface, given points spread evenly over it in random order.

    The points are in the true figure's frame (`mesh_distance.fitted_to`). What a hat hides is not counted.
    """
    fitted = fitted_body(points, true_surface(figure, FIT_POINTS).points)
    body = without_head_features(figure, kind)
    # Half of what stands there: a snout or an eye on the back of the head stays below.
    above = fitted[fitted[:, 2] >= figure.centers[0, rows_on_head(kind), 2].min().item()]
    if len(above) < NEIGHBORS:
        return 0
    distance, _ = KDTree(true_surface(body, TRUE_POINTS).points).query(above)
    outside = np.where(_is_inside(body, above), 0.0, distance)
    _, near = KDTree(above).query(above, k=NEIGHBORS)
    return count_peaks(relief_from_above(above, np.median(outside[near], axis=1)))


def _is_inside(figure: Figurines, points: Float[np.ndarray, "points 3"]) -> Bool[np.ndarray, "points"]:
    is_part = figure.radii[0].amin(-1).numpy() > 1e-6
    return np.asarray((part_levels(figure, points)[:, is_part] < 0).any(1))
