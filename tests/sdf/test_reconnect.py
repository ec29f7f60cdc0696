"""What a refinement has torn off is tied on again; crumbs and what was never joined stay loose."""

from __future__ import annotations

import torch
from scipy import ndimage
from torch import Tensor

from recdreamer.field.grid_values import grid_points
from recdreamer.sdf.distance_grid import DistanceGrid
from recdreamer.sdf.reconnect import mended

SIZE = 48
CELL = 2 / (SIZE - 1)


def ball(z: float, radius: float) -> Tensor:
    return (grid_points(SIZE) - torch.tensor([0.0, 0.0, z])).norm(dim=1).view((SIZE,) * 3) - radius


def rod(low: float, high: float, radius: float = CELL) -> Tensor:
    x, y, z = grid_points(SIZE).unbind(1)
    return torch.maximum((x**2 + y**2).sqrt() - radius, torch.maximum(low - z, z - high)).view((SIZE,) * 3)


def union(*parts: Tensor) -> Tensor:
    return torch.stack(parts).amin(0)


def parts_of(distances: Tensor) -> int:
    return ndimage.label(distances.numpy() < 0)[1]


BODY, KNOB, STEM = ball(-0.3, 0.4), ball(0.6, 0.15), rod(-0.3, 0.6)


def test_a_stem_that_wore_through_comes_back_and_nothing_else() -> None:
    # The body has shrunk by a cell all around: what it lost there is no bridge.
    start, now = union(BODY, KNOB, STEM), union(BODY + CELL, KNOB)
    assert parts_of(start) == 1 and parts_of(now) == 2
    again = mended(now, start, CELL)
    assert parts_of(again) == 1
    changed = (again != now).nonzero() * CELL - 1
    assert len(changed) and changed[:, :2].abs().max() < 6 * CELL


def test_a_bent_stem_comes_back_whole() -> None:
    """From the side of the body, then up: the straight way between both was never solid."""
    x, y, z = grid_points(SIZE).unbind(1)
    up = torch.maximum(((x - 0.7) ** 2 + y**2).sqrt() - CELL, torch.maximum(-0.3 - z, z - 0.6)).view(
        (SIZE,) * 3
    )
    out = torch.maximum(((z + 0.3) ** 2 + y**2).sqrt() - CELL, torch.maximum(-x, x - 0.7)).view((SIZE,) * 3)
    knob = (grid_points(SIZE) - torch.tensor([0.7, 0.0, 0.6])).norm(dim=1).view((SIZE,) * 3) - 0.15
    start, now = union(BODY, knob, up, out), union(BODY, knob)
    assert parts_of(start) == 1 and parts_of(now) == 2
    assert parts_of(mended(now, start, CELL)) == 1


def test_a_chain_is_tied_link_by_link() -> None:
    middle = ball(0.35, 0.12)
    start, now = union(BODY, middle, ball(0.75, 0.12), rod(-0.3, 0.75)), union(BODY, middle, ball(0.75, 0.12))
    assert parts_of(now) == 3
    assert parts_of(mended(now, start, CELL)) == 1


def test_what_was_never_joined_stays_apart() -> None:
    start, now = union(BODY, KNOB), union(BODY + CELL, KNOB)
    assert torch.equal(mended(now, start, CELL), now)


def test_a_crumb_stays_loose() -> None:
    crumb = ball(0.6, 0.9 * CELL)
    start, now = union(BODY, crumb, STEM), union(BODY, crumb)
    assert parts_of(now) == 2
    assert torch.equal(mended(now, start, CELL), now)


def test_what_is_whole_is_left_as_it_is() -> None:
    whole = union(BODY, KNOB, STEM)
    grid = DistanceGrid(whole + CELL / 4, torch.zeros(()).expand(3, SIZE, SIZE, SIZE))
    before = grid.distances.detach().clone()
    grid.mend()
    assert torch.equal(grid.distances, before)
