"""Whole pictures: closed forms, early stop, pruning, jitter, and the start of a run."""

import math
from dataclasses import replace

import pytest
import torch

from recdreamer.cameras import CameraConfig, camera_rays, orbit_cameras, sample_cameras
from recdreamer.field import OccupancyConfig, OccupancyGrid, RadianceField, set_backend
from recdreamer.presets import EMBEDDED_FIELD, EMBEDDED_RENDER
from recdreamer.rendering import RenderConfig, render
from recdreamer.rendering.march import intersect_cube

CONFIG = EMBEDDED_RENDER
FINE = RenderConfig(step_size=0.01)


class Solid:
    """Constant density and colour where `inside` says so."""

    def __init__(
        self, inside, sigma: float | torch.Tensor, rgb: tuple[float, float, float] = (1.0, 0.5, 0.0)
    ) -> None:
        self.inside, self.sigma, self.rgb = inside, sigma, rgb

    def __call__(self, xyz):
        return self.density(xyz), xyz.new_tensor(self.rgb).expand_as(xyz)

    def density(self, xyz):
        return self.sigma * self.inside(xyz).to(xyz.dtype)


def everywhere() -> OccupancyGrid:
    return OccupancyGrid(OccupancyConfig())


def front(views: int = 1):
    azimuth_deg = torch.arange(views) * 360.0 / views
    return orbit_cameras(azimuth_deg, torch.zeros(views), 4.0, 30.0)


def picture(field, config=CONFIG, size=16, views=1, background=0.25, occupancy=None, generator=None):
    grounds = torch.full((views, 3), background)
    return render(field, occupancy or everywhere(), front(views), size, size, grounds, config, generator)


def rough_field() -> RadianceField:
    """A start blob with random features on top, as rough as the coarse levels allow."""
    field = RadianceField(replace(EMBEDDED_FIELD, num_levels=2, base_resolution=8, max_resolution=16), 0)
    with torch.no_grad():
        field.grid.table.normal_(generator=torch.Generator().manual_seed(0))
    return field


@pytest.fixture(autouse=True)
def _automatic_backend():
    yield
    set_backend("warp")


@pytest.mark.parametrize("backend", ["warp", "torch"])
def test_a_homogeneous_cube_transmits_exp_of_minus_its_chord(backend):
    set_backend(backend)
    rendering = picture(Solid(lambda xyz: xyz[:, 0] < 9, 0.7), replace(CONFIG, min_trans=0.0))
    nears, fars = intersect_cube(*(rays.reshape(-1, 3) for rays in camera_rays(front(), 16, 16)))
    expected = 1 - torch.exp(-0.7 * (fars - nears).clamp(min=0))
    torch.testing.assert_close(rendering.opacity.flatten(), expected, atol=2e-5, rtol=0)
    ground = torch.full((256,), 0.25)
    colour = expected[:, None] * torch.tensor([1.0, 0.5, 0]) + (1 - expected)[:, None] * ground[:, None]
    torch.testing.assert_close(rendering.rgb[0].flatten(1).T, colour, atol=2e-5, rtol=0)


def test_a_homogeneous_ball_transmits_exp_of_minus_its_chord():
    radius, sigma = 0.6, 2.0
    rendering = picture(Solid(lambda xyz: xyz.norm(dim=-1) < radius, sigma), FINE, size=24)
    rays_o, rays_d = camera_rays(front(), 24, 24)
    nearest = torch.linalg.cross(rays_o, rays_d).norm(dim=-1)
    chords = 2 * (radius**2 - nearest**2).clamp(min=0).sqrt()
    expected = 1 - torch.exp(-sigma * chords)
    # The ball's border is found to half a step at either end.
    torch.testing.assert_close(rendering.opacity[:, 0], expected, atol=sigma * FINE.step_size, rtol=0)
    assert rendering.opacity.max() > 0.9


def test_depth_of_an_opaque_wall_and_its_colour():
    wall = Solid(lambda xyz: xyz[:, 1] > 0.2, 1e4)
    rendering = picture(wall, FINE, size=8, background=1.0)
    _, rays_d = camera_rays(front(), 8, 8)
    expected = 4.2 / rays_d[..., 1]
    hit = rendering.opacity[:, 0] > 0.5
    assert hit.float().mean() > 0.5
    torch.testing.assert_close(rendering.depth[:, 0][hit], expected[hit], atol=FINE.step_size, rtol=0)
    torch.testing.assert_close(rendering.rgb[0, 0][hit[0]], torch.ones(int(hit.sum())), atol=1e-3, rtol=0)
    torch.testing.assert_close(rendering.rgb[0, 2][hit[0]], torch.zeros(int(hit.sum())), atol=2e-3, rtol=0)


def test_weights_add_up_to_the_opacity_over_all_segments():
    rendering = picture(RadianceField(EMBEDDED_FIELD, 0), replace(CONFIG, segment_samples=4), views=2)
    sums = torch.zeros(512).index_add(0, rendering.ray_indices, rendering.weights)
    torch.testing.assert_close(sums, rendering.opacity.flatten(), atol=1e-5, rtol=0)
    lengths = {len(rendering.weights), len(rendering.ray_indices), len(rendering.t_mids), len(rendering.xyz)}
    assert len(lengths) == 1


def test_early_stop_changes_a_picture_by_less_than_its_tolerance():
    field = Solid(lambda xyz: xyz[:, 0] < 9, 20.0)
    exact = picture(field, replace(CONFIG, min_trans=0.0))
    stopped = picture(field, replace(CONFIG, segment_samples=3))
    assert len(stopped.weights) < 0.4 * len(exact.weights)
    assert (stopped.rgb - exact.rgb).abs().max() < CONFIG.min_trans
    # An early stop that comes too early is seen.
    hasty = picture(field, replace(CONFIG, segment_samples=3, min_trans=0.5))
    assert (hasty.rgb - exact.rgb).abs().max() > 10 * CONFIG.min_trans


def test_segments_change_neither_picture_nor_gradient():
    results = []
    for segment_samples in (3, 1000):
        field = RadianceField(replace(EMBEDDED_FIELD, num_levels=2), 0)
        config = replace(CONFIG, segment_samples=segment_samples, min_trans=0.0)
        rgb = picture(field, config).rgb
        rgb.square().sum().backward()
        results.append((rgb, field.grid.table.grad, field.head.weight.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("backend", ["warp", "torch"])
def test_pruning_space_without_matter_changes_nothing(backend):
    """Where the cells that are left out are empty, picture, depth and gradient are the same to the last digits."""
    set_backend(backend)
    occupancy = everywhere()
    cell, centres = 2 / occupancy.config.resolution, (torch.arange(occupancy.config.resolution) + 0.5)
    middles = torch.cartesian_prod(*[centres * cell - 1] * 3).view(*occupancy.occupied.shape, 3)
    occupancy.occupied.copy_(middles.norm(dim=-1) < 0.5 + cell * math.sqrt(3) / 2)
    results = []
    for grid in (everywhere(), occupancy):
        sigma = torch.tensor(3.0, requires_grad=True)
        ball = Solid(lambda xyz: xyz.norm(dim=-1) < 0.5, sigma)
        rendering = picture(ball, size=24, views=2, occupancy=grid)
        grad = torch.autograd.grad(rendering.rgb.square().sum(), sigma)[0]
        results.append((len(rendering.weights), [rendering.rgb, rendering.opacity, rendering.depth, grad]))
    (all_samples, full), (samples, pruned) = results
    assert samples < 0.5 * all_samples
    for one, other in zip(full, pruned, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    # Negative control: half a cell less cuts the ball.
    occupancy.occupied.copy_(middles.norm(dim=-1) < 0.5 - cell / 2)
    cut = picture(ball, size=24, views=2, occupancy=occupancy)
    assert (cut.opacity - pruned[1]).abs().max() > 1e-2


def test_pruning_hardly_changes_a_picture():
    field, occupancy = RadianceField(EMBEDDED_FIELD, 0), everywhere()
    for step in range(0, 128, 16):
        occupancy.update(field, step, torch.Generator().manual_seed(step))
    full, pruned = picture(field, size=32), picture(field, size=32, occupancy=occupancy)
    assert len(pruned.weights) < 0.6 * len(full.weights)
    assert (full.opacity - pruned.opacity).abs().max() < 0.04
    # A grid that also lost the matter is seen.
    occupancy.occupied[:16] = False
    assert (full.opacity - picture(field, size=32, occupancy=occupancy).opacity).abs().max() > 0.3


def test_the_start_is_a_soft_blob_and_no_fog():
    opacity = picture(RadianceField(EMBEDDED_FIELD, 0), size=64).opacity[0, 0]
    assert 0.5 < opacity[31:33, 31:33].mean() < 0.95
    assert opacity[0].max() < 0.01
    assert opacity[:, 0].max() < 0.01
    # As large as a figure, not as large as the picture.
    assert 0.1 < (opacity > 0.5).float().mean() < 0.3


def test_jitter_keeps_the_expectation():
    field = rough_field()
    exact = picture(field, FINE, size=8).rgb
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([picture(field, size=8, generator=generator).rgb for _ in range(64)])
    assert draws.std(dim=0).max() > 1e-3
    torch.testing.assert_close(draws.mean(dim=0), exact, atol=2e-3, rtol=0)


def test_the_seed_decides_the_jitter():
    field = RadianceField(EMBEDDED_FIELD, 0)
    first, same, other = (
        picture(field, size=8, generator=torch.Generator().manual_seed(seed)).rgb for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("jittered", [True, False])
def test_warp_equals_the_reference_in_values_and_gradients(jittered):
    results = []
    for backend in ("warp", "torch"):
        set_backend(backend)
        field = RadianceField(replace(EMBEDDED_FIELD, log2_table_size=12), 0)
        with torch.no_grad():
            field.grid.table.normal_(generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1) if jittered else None
        rendering = picture(field, size=12, views=3, generator=generator)
        loss = rendering.rgb.square().sum() + rendering.depth.mean() + rendering.weights.square().sum()
        loss.backward()
        results.append([rendering.rgb, rendering.opacity, *(value.grad for value in field.parameters())])
    for warp, reference in zip(*results, strict=True):
        scale = reference.abs().max().item()
        torch.testing.assert_close(warp, reference, atol=2e-3 * scale, rtol=0)


def test_gradients_of_a_picture_agree_with_finite_differences():
    config = replace(
        EMBEDDED_FIELD,
        num_levels=2,
        log2_table_size=5,
        base_resolution=2,
        max_resolution=3,
        hidden_width=4,
        start_levels=1,
    )
    field = RadianceField(config, 0).double()
    with torch.no_grad():
        field.grid.table.normal_(generator=torch.Generator().manual_seed(0))
    cameras = orbit_cameras(
        torch.tensor([30.0], dtype=torch.float64), torch.tensor([10.0]).double(), 4.0, 30.0
    )
    names, values = zip(*field.named_parameters(), strict=True)
    values = tuple(value.detach().requires_grad_() for value in values)
    coarse = RenderConfig(step_size=0.2, min_trans=0.0)

    def run(*values):
        def called(xyz):
            return torch.func.functional_call(field, dict(zip(names, values, strict=True)), (xyz,))

        called.density = lambda xyz: called(xyz)[0]
        ground = torch.full((1, 3), 0.3, dtype=torch.float64)
        rendering = render(called, everywhere().double(), cameras, 3, 3, ground, coarse)
        return rendering.rgb, rendering.opacity, rendering.depth, rendering.weights

    assert torch.autograd.gradcheck(run, values)


def test_an_empty_field_shows_the_background():
    occupancy = everywhere()
    occupancy.update(Solid(lambda xyz: xyz[:, 0] > 9, 1.0), 0, torch.Generator())
    grounds = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rendering = render(RadianceField(EMBEDDED_FIELD, 0), occupancy, front(2), 8, 8, grounds, CONFIG)
    assert torch.equal(rendering.rgb, grounds)
    assert rendering.opacity.sum() == 0
    assert len(rendering.weights) == 0


def test_each_view_has_its_own_background_and_a_learned_one_gets_gradients():
    field = RadianceField(EMBEDDED_FIELD, 0)
    grounds = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]], requires_grad=True)
    rgb = render(field, everywhere(), front(2), 16, 16, grounds, CONFIG).rgb
    torch.testing.assert_close(rgb[:, :, 0, 0], grounds.detach(), atol=0.01, rtol=0)
    rgb.sum().backward()
    assert (grounds.grad > 0).all()


def test_the_picture_is_seen_from_the_camera():
    """A ball at -Y and above: left of the middle from azimuth 90, in the upper half, nowhere else."""
    ball = Solid(lambda xyz: (xyz - xyz.new_tensor([0, -0.5, 0.5])).norm(dim=-1) < 0.2, 50.0)
    opacity = picture(ball, size=32, views=4).opacity[:, 0]
    column = (opacity.sum(1) @ torch.arange(32.0)) / opacity.sum((1, 2))
    row = (opacity.sum(2) @ torch.arange(32.0)) / opacity.sum((1, 2))
    assert (row < 12).all()
    assert column[1] < 12
    assert column[3] > 19
    assert column[0] == pytest.approx(15.5, abs=0.5)


def test_more_pixels_than_views_of_square_shape():
    rgb = render(
        RadianceField(EMBEDDED_FIELD, 0), everywhere(), front(2), 6, 10, torch.zeros(2, 3), CONFIG
    ).rgb
    assert rgb.shape == (2, 3, 6, 10)


def test_training_recovers_a_colour():
    """A few steps of Adam on pictures move the object to the asked colour: gradients point the right way."""
    field, occupancy = RadianceField(EMBEDDED_FIELD, 0), everywhere()
    optimizer = torch.optim.Adam(field.parameters(), lr=0.01)
    target = torch.tensor([0.9, 0.2, 0.1])
    for step in range(30):
        generator = torch.Generator().manual_seed(step)
        occupancy.update(field, step, generator)
        cameras = sample_cameras(CameraConfig(), 2, generator, "cpu")
        rendering = render(field, occupancy, cameras, 8, 8, torch.zeros(2, 3), CONFIG, generator)
        wanted = rendering.opacity.detach() * target[:, None, None]
        loss = (rendering.rgb - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert math.sqrt(loss.item()) < 0.03
