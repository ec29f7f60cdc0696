"""The occupancy grid: it keeps matter, lets go of empty space, finds what appears later, and resumes."""

import pytest
import torch

from recdreamer.field import OccupancyConfig, OccupancyGrid, RadianceField
from recdreamer.presets import EMBEDDED_FIELD

CONFIG = OccupancyConfig(resolution=16, interval=4, warmup_steps=8)


class Ball:
    """Density 50 inside a ball, 0 outside."""

    def __init__(self, center: tuple[float, float, float], radius: float) -> None:
        self.center, self.radius = torch.tensor(center), radius

    def __call__(self, xyz):
        return self.density(xyz), torch.ones_like(xyz)

    def density(self, xyz):
        return 50.0 * ((xyz - self.center).norm(dim=-1) < self.radius).float()


def updated(occupancy: OccupancyGrid, field, steps: range) -> OccupancyGrid:
    for step in steps:
        occupancy.update(field, step, torch.Generator().manual_seed(step))
    return occupancy


def ball_points(ball: Ball, count: int = 500) -> torch.Tensor:
    directions = torch.nn.functional.normalize(torch.randn(count, 3), dim=-1)
    return ball.center + ball.radius * torch.rand(count, 1) * directions


def test_everything_is_occupied_at_first():
    assert OccupancyGrid(CONFIG).share == 1


def test_the_start_blob_stays_and_the_corners_go():
    field = RadianceField(EMBEDDED_FIELD, seed=0)
    occupancy = updated(OccupancyGrid(OccupancyConfig()), field, range(256))
    xyz = 2 * torch.rand(20000, 3) - 1
    pruned = ~occupancy.contains(xyz)
    assert 0.6 < pruned.float().mean() < 0.9
    assert field.density(xyz[pruned]).max() < 2 * OccupancyConfig().threshold


def test_matter_that_appears_in_empty_space_is_found():
    left, right = Ball((-0.5, 0, 0), 0.3), Ball((0.5, 0, 0), 0.3)
    occupancy = updated(OccupancyGrid(CONFIG), left, range(100))
    assert not occupancy.contains(ball_points(right)).any()
    updated(occupancy, right, range(100, 300))
    assert occupancy.contains(ball_points(right)).all()


def test_space_that_empties_is_let_go():
    left, right = Ball((-0.5, 0, 0), 0.3), Ball((0.5, 0, 0), 0.3)
    occupancy = updated(OccupancyGrid(CONFIG), left, range(100))
    # 0.8^k brings 50 below 0.05 after 31 looks, one at each update while the cell is occupied.
    updated(occupancy, right, range(100, 100 + 4 * 20))
    assert occupancy.contains(torch.tensor([[-0.5, 0, 0]])).all()
    updated(occupancy, right, range(180, 180 + 4 * 20))
    assert not occupancy.contains(torch.tensor([[-0.5, 0, 0]])).any()


def test_one_cell_around_matter_stays_open():
    ball = Ball((0, 0, 0), 0.4)
    occupancy = updated(OccupancyGrid(CONFIG), ball, range(40))
    just_outside = 0.5 * torch.nn.functional.normalize(ball_points(ball), dim=-1)
    assert occupancy.contains(just_outside).all()
    assert not occupancy.contains(2 * just_outside).any()


def test_haze_opens_no_neighbours():
    class Haze(Ball):
        """Density 0.5 inside: enough to be kept, too little to spread."""

        def density(self, xyz):
            return 0.01 * super().density(xyz)

    haze = Haze((0.0, 0.0, 0.0), 0.7)
    occupancy = updated(OccupancyGrid(CONFIG), haze, range(40))
    cells = (torch.stack(torch.meshgrid(*[torch.arange(16)] * 3, indexing="ij"), dim=-1) - 7.5).abs() * 0.125
    nearest_corners = (cells - 0.0625).clamp(min=0).norm(dim=-1)
    assert occupancy.occupied.any()
    assert not occupancy.occupied[nearest_corners > 0.7].any()


def test_a_field_that_fades_keeps_samples():
    class Fading(Ball):
        def density(self, xyz):
            return 1e-3 * torch.exp(-5 * xyz.norm(dim=-1))

    occupancy = updated(OccupancyGrid(CONFIG), Fading((0, 0, 0), 1), range(40))
    assert 0.05 < occupancy.share < 0.9
    assert occupancy.contains(torch.zeros(1, 3)).all()


def test_updates_come_at_the_interval_only():
    occupancy = OccupancyGrid(CONFIG)
    updated(occupancy, Ball((0, 0, 0), 0.3), range(1, 4))
    assert occupancy.share == 1
    updated(occupancy, Ball((0, 0, 0), 0.3), range(4, 5))
    assert occupancy.share < 1


def test_bounds_enclose_the_occupied_cells():
    occupancy = updated(OccupancyGrid(CONFIG), Ball((0.4, -0.2, 0), 0.2), range(40))
    cells = occupancy.occupied.nonzero()
    torch.testing.assert_close(occupancy.bounds[0], cells.amin(0) * 0.125 - 1)
    torch.testing.assert_close(occupancy.bounds[1], (cells.amax(0) + 1) * 0.125 - 1)


def test_an_interrupted_run_goes_on_exactly():
    field = RadianceField(EMBEDDED_FIELD, seed=0)
    through = updated(OccupancyGrid(CONFIG), field, range(60))
    stopped = updated(OccupancyGrid(CONFIG), field, range(30))
    resumed = OccupancyGrid(CONFIG)
    resumed.load_state_dict(stopped.state_dict())
    updated(resumed, field, range(30, 60))
    for name, value in through.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    # A grid that forgot its past would differ.
    forgetful = updated(OccupancyGrid(CONFIG), field, range(30, 60))
    assert not torch.equal(forgetful.densities, through.densities)


@pytest.mark.parametrize("coordinate", [-1.0001, 1.0001])
def test_nothing_outside_the_cube_is_occupied(coordinate):
    assert not OccupancyGrid(CONFIG).contains(torch.tensor([[0, coordinate, 0]])).any()


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_vanished_matter_fades_by_the_decay_at_each_visit(decay: float) -> None:
    everywhere, nowhere = Ball((0.0, 0.0, 0.0), 9.0), Ball((0.0, 0.0, 0.0), 0.0)
    config = OccupancyConfig(resolution=4, interval=4, warmup_steps=100, decay=decay)
    occupancy = updated(OccupancyGrid(config), everywhere, range(1))
    assert torch.equal(occupancy.densities, torch.full((4, 4, 4), 50.0))
    # Steps 4 and 8; others lie between two visits.
    updated(occupancy, nowhere, range(1, 10))
    assert torch.allclose(occupancy.densities, torch.full((4, 4, 4), 50.0 * decay**2))
