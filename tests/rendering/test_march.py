"""Marching: lengths, pruning, segments, and the Warp kernels against the torch reference."""

import pytest
import torch

from recdreamer.cameras import CameraConfig, camera_rays, sample_cameras
from recdreamer.field import OccupancyConfig, OccupancyGrid
from recdreamer.rendering.march import END, Samples, intersect_cube, joined, march, march_reference

STEP = 0.05


def rays(count_px: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Three views; the corners of the pictures miss the cube."""
    config = CameraConfig(distance=(2.6, 3.4), fov_y_deg=(50.0, 50.0))  # Some rays miss the cube.
    cameras = sample_cameras(config, 3, torch.Generator().manual_seed(0), "cpu")
    rays_o, rays_d = camera_rays(cameras, count_px, count_px)
    return rays_o.reshape(-1, 3).contiguous(), rays_d.reshape(-1, 3).contiguous()


def half_full() -> OccupancyGrid:
    """Random cells of one half of the cube are occupied."""
    occupancy = OccupancyGrid(OccupancyConfig(resolution=8))
    occupancy.occupied.copy_(torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5)
    occupancy.occupied[4:] = False
    occupancy.bounds[1, 0] = 0.0
    return occupancy


def run(marcher, occupancy: OccupancyGrid, limit: int = 1000, begins: torch.Tensor | None = None):
    rays_o, rays_d = rays()
    shifts = torch.rand(len(rays_o), generator=torch.Generator().manual_seed(2))
    if begins is None:
        begins = torch.zeros(len(rays_o), dtype=torch.int32)
    return marcher(rays_o, rays_d, occupancy, STEP, shifts, begins, limit)


@pytest.mark.parametrize("marcher", [march, march_reference])
def test_lengths_add_up_to_the_chord_of_the_cube(marcher):
    samples, goes_on = run(marcher, OccupancyGrid(OccupancyConfig()))
    lengths = torch.zeros(len(goes_on)).index_add(0, samples.ray_indices, samples.t_ends - samples.t_starts)
    nears, fars = intersect_cube(*rays())
    chords = (fars - nears).clamp(min=0)
    assert 0.1 < (chords > 0).float().mean() < 0.9
    torch.testing.assert_close(lengths, chords, atol=2e-5, rtol=0)
    assert (goes_on == END).all()


@pytest.mark.parametrize("marcher", [march, march_reference])
def test_samples_are_packed_near_to_far_and_lie_on_their_ray(marcher):
    samples, _ = run(marcher, half_full())
    rays_o, rays_d = rays()
    on_ray = rays_o[samples.ray_indices] + samples.t_mids[:, None] * rays_d[samples.ray_indices]
    torch.testing.assert_close(samples.xyz, on_ray)
    expected = torch.arange(len(rays_o)).repeat_interleave(samples.counts)
    assert torch.equal(samples.ray_indices.long(), expected)
    same_ray = samples.ray_indices[1:] == samples.ray_indices[:-1]
    assert (samples.t_starts[1:] - samples.t_ends[:-1])[same_ray].min() > -1e-5


@pytest.mark.parametrize("marcher", [march, march_reference])
def test_only_occupied_cells_are_sampled(marcher):
    occupancy = half_full()
    samples, _ = run(marcher, occupancy)
    everything, _ = run(marcher, OccupancyGrid(OccupancyConfig()))
    assert occupancy.contains(samples.xyz).float().mean() > 0.999  # rounding on cell borders
    # Pruning drops samples and moves none.
    assert len(samples.xyz) == pytest.approx(occupancy.contains(everything.xyz).sum().item(), abs=3)


def test_warp_equals_the_reference():
    for limit in (5, 1000):
        warp, warp_goes_on = run(march, half_full(), limit)
        reference, goes_on = run(march_reference, half_full(), limit)
        # A sample on a cell border may fall to either side in float32; no more than that may differ.
        same = warp.counts == reference.counts
        assert same.float().mean() > 0.99
        assert torch.equal(warp_goes_on[same], goes_on[same])
        if same.all():
            torch.testing.assert_close(warp.t_starts, reference.t_starts, atol=1e-5, rtol=0)
            torch.testing.assert_close(warp.t_ends, reference.t_ends, atol=1e-5, rtol=0)


@pytest.mark.parametrize("marcher", [march, march_reference])
def test_segments_join_to_the_whole(marcher):
    whole, _ = run(marcher, half_full())
    begins, parts = None, []
    while True:
        samples, begins = run(marcher, half_full(), 3, begins)
        if len(samples.xyz) == 0:
            break
        assert samples.counts.max() <= 3
        parts.append(samples)
    assert len(parts) > 2
    order = torch.cat([part.ray_indices for part in parts]).sort(stable=True).indices
    torch.testing.assert_close(torch.cat([part.t_starts for part in parts])[order], whole.t_starts)


@pytest.mark.parametrize("marcher", [march, march_reference])
def test_rays_that_are_through_get_nothing(marcher):
    samples, goes_on = run(
        marcher, OccupancyGrid(OccupancyConfig()), begins=torch.full((3 * 144,), END, dtype=torch.int32)
    )
    assert isinstance(samples, Samples)
    assert len(samples.xyz) == 0
    assert (goes_on == END).all()


def test_a_camera_inside_the_cube_sees_what_is_in_front():
    rays_o, rays_d = torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]])
    for marcher in (march, march_reference):
        samples, _ = marcher(
            rays_o,
            rays_d,
            OccupancyGrid(OccupancyConfig()),
            STEP,
            torch.zeros(1),
            torch.zeros(1, dtype=torch.int32),
            99,
        )
        assert samples.t_starts.min() >= 0
        assert (samples.t_ends - samples.t_starts).sum() == pytest.approx(1, abs=1e-5)


def test_samples_of_the_same_rays_are_joined_and_chosen_ray_by_ray():
    whole, _ = run(march, half_full())
    first, begins = run(march, half_full(), 4)
    second, _ = run(march, half_full(), 1000, begins)
    both = joined([first, second])
    chosen = both.only(both.xyz[:, 2] > 0)
    assert torch.equal(both.counts, whole.counts) and torch.equal(both.t_starts, whole.t_starts)
    upper = whole.xyz[:, 2] > 0
    assert 0 < len(chosen.xyz) < len(whole.xyz) and torch.equal(chosen.xyz, whole.xyz[upper])
    rays = torch.arange(len(chosen.counts)).repeat_interleave(chosen.counts)
    assert torch.equal(rays, chosen.ray_indices.long())
