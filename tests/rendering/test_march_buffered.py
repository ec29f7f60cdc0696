"""Marching into buffers of a fixed size: the samples of the segments, padding, and what happens on overflow."""

import pytest
import torch

from recdreamer.cameras import CameraConfig, camera_rays, sample_cameras
from recdreamer.field import OccupancyConfig, OccupancyGrid
from recdreamer.kernels import set_backend
from recdreamer.rendering.composite import composite
from recdreamer.rendering.march import march
from recdreamer.rendering.march_buffered import haze_density, march_buffered, march_buffered_reference

STEP = 0.05


@pytest.fixture(params=["warp", "torch"])
def kernels(request):
    set_backend(request.param)
    yield request.param
    set_backend("warp")


def rays(count_px: int = 12) -> list[torch.Tensor]:
    """Three views; the corners of the pictures miss the cube."""
    config = CameraConfig(fov_y_deg=(50.0, 50.0))
    cameras = sample_cameras(config, 3, torch.Generator().manual_seed(0), "cpu")
    return [values.reshape(-1, 3).contiguous() for values in camera_rays(cameras, count_px, count_px)]


def half_full() -> OccupancyGrid:
    """Random cells of one half of the cube are occupied."""
    occupancy = OccupancyGrid(OccupancyConfig(resolution=8))
    occupancy.occupied.copy_(torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5)
    occupancy.occupied[4:] = False
    occupancy.bounds[1, 0] = 0.0
    return occupancy


def shifts() -> torch.Tensor:
    return torch.rand(3 * 144, generator=torch.Generator().manual_seed(2))


def whole():
    begins = torch.zeros(3 * 144, dtype=torch.int32)
    return march(*rays(), half_full(), STEP, shifts(), begins, 1000)[0]


def test_the_samples_are_those_of_the_segments_and_the_rest_is_padding(kernels):
    expected = whole()
    count = len(expected.xyz)
    samples, wanted = march_buffered(*rays(), half_full(), STEP, shifts(), count + 100)
    assert wanted == count == samples.counts.sum()
    assert torch.equal(samples.counts.long(), expected.counts.long())
    assert torch.equal(samples.ray_indices[:count].long(), expected.ray_indices.long())
    for name in ("t_starts", "t_ends", "xyz"):
        assert torch.equal(getattr(samples, name)[:count], getattr(expected, name))
        assert not getattr(samples, name)[count:].any()
    assert not samples.ray_indices[count:].any()
    # As many places as samples are enough.
    exact, _ = march_buffered(*rays(), half_full(), STEP, shifts(), count)
    assert torch.equal(exact.xyz, expected.xyz)


@pytest.mark.parametrize("share", [0.9, 0.55, 0.2, 0.01])
def test_more_samples_than_fit_lie_farther_apart_on_all_rays(kernels, share):
    count = len(whole().xyz)
    capacity = int(share * count)
    samples, wanted = march_buffered(*rays(), half_full(), STEP, shifts(), capacity)
    assert wanted == count
    assert len(samples.xyz) == capacity and samples.counts.sum() <= capacity
    lengths = samples.t_ends - samples.t_starts
    full = (whole().t_ends - whole().t_starts).sum()
    if share > 0.1:
        assert round(lengths.max().item() / STEP) >= 1 / share
        # The length that is covered stays: nothing of the picture is lost.
        assert samples.counts.sum() < capacity
        torch.testing.assert_close(lengths.sum(), full, rtol=0.05, atol=0)


def test_what_does_not_fit_even_so_is_cut_and_written_nowhere_else(kernels):
    """One place: the first sample of the first ray that has one."""
    samples, wanted = march_buffered(*rays(), half_full(), STEP, shifts(), 1)
    assert wanted == len(whole().xyz)
    assert samples.counts.sum() == 1 and samples.counts[samples.ray_indices[0]] == 1


def test_warp_equals_the_reference_when_stretched():
    capacity = len(whole().xyz) // 3
    warp, wanted = march_buffered(*rays(), half_full(), STEP, shifts(), capacity)
    reference, wanted_there = march_buffered_reference(*rays(), half_full(), STEP, shifts(), capacity)
    assert wanted == wanted_there
    # A sample on a cell border may fall to either side in float32.
    same = warp.counts == reference.counts
    assert same.float().mean() > 0.99


def test_no_rays_and_nothing_in_view(kernels):
    none = torch.zeros(0, 3)
    samples, wanted = march_buffered(none, none, half_full(), STEP, torch.zeros(0), 16)
    assert wanted == 0 and len(samples.xyz) == 16 and len(samples.counts) == 0
    empty = half_full()
    empty.occupied.zero_()
    samples, wanted = march_buffered(*rays(), empty, STEP, shifts(), 16)
    assert wanted == 0 and not samples.counts.any()
    weights, *sums = composite(torch.ones(16), torch.ones(16, 3), samples)
    assert not weights.any() and not any(values.any() for values in sums)


def hazy() -> OccupancyGrid:
    """The occupied cells are haze, except for the lowest layer."""
    occupancy = half_full()
    occupancy.densities.fill_(0.99 * haze_density(STEP))
    occupancy.densities[..., 0] = 1.01 * haze_density(STEP)
    return occupancy


def test_groups_of_steps_in_haze_are_one_sample(kernels):
    one_by_one, count = march_buffered(*rays(), hazy(), STEP, shifts(), 20_000)
    grouped, fewer = march_buffered(*rays(), hazy(), STEP, shifts(), 20_000, 3)
    assert fewer < 0.9 * count
    lengths = grouped.t_ends - grouped.t_starts
    is_long = lengths > 1.01 * STEP
    assert is_long.any() and lengths.max() < 3.01 * STEP
    # A long sample may reach out of its matter, but none reaches into what is thick, and none is lost.
    assert (lengths.sum() / (one_by_one.t_ends - one_by_one.t_starts).sum()) > 1
    for part in (0.1, 0.5, 0.9):
        t = (grouped.t_starts + part * lengths)[is_long]
        rays_o, rays_d = (values[grouped.ray_indices[is_long].long()] for values in rays())
        cells = ((rays_o + t[:, None] * rays_d + 1) * 4).floor().long().clamp(0, 7).unbind(-1)
        assert not (hazy().densities[cells] > haze_density(STEP)).any()
    # Near to far, without overlap.
    n = int(grouped.counts.sum())
    same = grouped.ray_indices[1:n] == grouped.ray_indices[: n - 1]
    assert (grouped.t_starts[1:n] - grouped.t_ends[: n - 1])[same].min() > -1e-5


def test_warp_equals_the_reference_in_haze():
    for capacity in (20_000, 2000):
        warp, wanted = march_buffered(*rays(), hazy(), STEP, shifts(), capacity, 4)
        reference, wanted_there = march_buffered_reference(*rays(), hazy(), STEP, shifts(), capacity, 4)
        assert int(wanted) == pytest.approx(int(wanted_there), rel=0.01)
        same = warp.counts == reference.counts
        assert same.float().mean() > 0.98
        if same.all():
            torch.testing.assert_close(warp.t_ends, reference.t_ends, atol=1e-5, rtol=0)


def test_haze_by_groups_looks_the_same():
    """A thin ball around a dense one: fewer samples, and opacity within a hundredth."""

    def field(xyz):
        radii = xyz.norm(dim=-1)
        sigmas = torch.where(radii < 0.3, 20.0, torch.where(radii < 0.8, 0.5, 0.0))
        return sigmas, xyz.new_tensor([1.0, 0.5, 0.0]).expand_as(xyz)

    occupancy = OccupancyGrid(OccupancyConfig())
    centres = (torch.arange(48) + 0.5) / 24 - 1
    occupancy.densities.copy_(field(torch.cartesian_prod(centres, centres, centres))[0].view(48, 48, 48))
    results = []
    for group in (1, 4):
        samples, wanted = march_buffered(
            *rays(24), occupancy, 0.01, torch.full((3 * 576,), 0.5), 400_000, group
        )
        _, rgb, opacity, _ = composite(*field(samples.xyz), samples)
        results.append((int(wanted), opacity, rgb))
    assert results[1][0] < 0.5 * results[0][0]
    assert (results[0][1] - results[1][1]).abs().max() < 0.02
    assert (results[0][1] - results[1][1]).abs().mean() < 0.002
