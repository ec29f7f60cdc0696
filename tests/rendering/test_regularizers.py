"""Each regulariser against a number worked out by hand, and the direction in which it pushes."""

import math
from dataclasses import replace

import pytest
import torch

from recdreamer.cameras import orbit_cameras
from recdreamer.field import OccupancyConfig, OccupancyGrid, RadianceField
from recdreamer.presets import EMBEDDED_FIELD, EMBEDDED_RENDER
from recdreamer.rendering import (
    Rendering,
    opaque_loss,
    render,
    smoothness_loss,
    sparsity_loss,
    weight_entropy_loss,
    z_variance_loss,
)


def opacity_of(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def rendering_of(weights: list[float], rays: list[int], t_mids: list[float], num_rays: int = 1) -> Rendering:
    weight, ray, t_mid = torch.tensor(weights), torch.tensor(rays, dtype=torch.int32), torch.tensor(t_mids)
    opacity = torch.zeros(num_rays).index_add(0, ray, weight)
    depth = torch.zeros(num_rays).index_add(0, ray, weight * t_mid) / opacity.clamp(min=1e-6)
    opacity, depth = opacity.view(1, 1, 1, -1), depth.view(1, 1, 1, -1)
    return Rendering(
        opacity.expand(1, 3, 1, -1), opacity, depth, weight, ray, t_mid, torch.zeros(len(ray), 3)
    )


def blob_rendering(field) -> Rendering:
    cameras = orbit_cameras(torch.zeros(1), torch.zeros(1), 4.0, 30.0)
    occupancy = OccupancyGrid(OccupancyConfig())
    return render(field, occupancy, cameras, 16, 16, torch.zeros(1, 3), EMBEDDED_RENDER)


def test_sparsity_of_an_empty_and_a_full_picture():
    assert sparsity_loss(opacity_of(0.0, 0.0)).item() == pytest.approx(0.1)
    assert sparsity_loss(opacity_of(1.0, 0.0)).item() == pytest.approx((math.sqrt(1.01) + 0.1) / 2)


def test_opaque_is_highest_at_one_half():
    assert opaque_loss(opacity_of(0.5)).item() == pytest.approx(math.log(2))
    assert opaque_loss(opacity_of(0.0, 1.0)).item() == pytest.approx(0.0079, abs=1e-4)
    for value, sign in [(0.4, 1), (0.6, -1)]:
        opacity = opacity_of(value).requires_grad_()
        assert torch.autograd.grad(opaque_loss(opacity), opacity)[0].sign() == sign


def test_entropy_of_weights_is_in_bits():
    assert weight_entropy_loss(torch.tensor([0.5, 0.5])).item() == pytest.approx(1)
    assert weight_entropy_loss(torch.tensor([0.25])).item() == pytest.approx(0.8113, abs=1e-4)
    assert weight_entropy_loss(torch.tensor([0.0, 1.0])).item() == pytest.approx(0, abs=1e-3)
    assert weight_entropy_loss(torch.zeros(0)).item() == 0


def test_z_variance_of_two_equal_samples():
    # Distances 3 and 5 with equal weight: variance 1. The faint second ray does not count.
    rendering = rendering_of([0.45, 0.45, 0.1, 0.1], [0, 0, 1, 1], [3.0, 5.0, 1.0, 9.0], num_rays=2)
    assert z_variance_loss(rendering).item() == pytest.approx(1)
    thin = rendering_of([0.9], [0], [4.0])
    assert z_variance_loss(thin).item() == pytest.approx(0, abs=1e-6)
    assert z_variance_loss(rendering_of([0.1], [0], [4.0])).item() == 0


class Waves:
    """Density and red waves along x."""

    def __init__(self, frequency: float) -> None:
        self.frequency = frequency

    def __call__(self, xyz):
        wave = 0.5 + 0.5 * torch.sin(self.frequency * xyz[:, 0])
        return self.density(xyz), torch.stack([wave, wave * 0, wave * 0], dim=-1)

    def density(self, xyz):
        return 20 + 10 * torch.sin(self.frequency * xyz[:, 0])


def test_smoothness_grows_with_the_frequency_of_the_field():
    losses = []
    for frequency in (0.0, 5.0, 50.0):
        field = Waves(frequency)
        generator = torch.Generator().manual_seed(0)
        losses.append(smoothness_loss(field, blob_rendering(field), 0.02, 2000, generator))
    (flat, flat_color), (slow, slow_color), (fast, fast_color) = losses
    assert flat == flat_color == 0
    # (wave number · radius)² for small steps: 100 times for 10 times the frequency, less where it turns.
    assert fast > 30 * slow > 0
    assert fast_color > 30 * slow_color > 0


def test_smoothness_of_a_slope_has_its_closed_form():
    class Slope(Waves):
        def density(self, xyz):
            return 20 + 0.1 * xyz[:, 0]

    field = Slope(0.0)
    geometry, _ = smoothness_loss(field, blob_rendering(field), 0.02, 20000, torch.Generator().manual_seed(0))
    # d alpha = radius · exp(−20 · radius) · 0.1 · dx, and E[dx²] = radius²; some neighbours end at the cube.
    expected = (0.02 * math.exp(-20 * 0.02) * 0.1 * 0.02) ** 2
    assert geometry.item() == pytest.approx(expected, rel=0.1)


def test_smoothness_trains_the_hash_grid_and_nothing_moves_without_matter():
    field = RadianceField(EMBEDDED_FIELD, 0)
    with torch.no_grad():
        field.grid.table.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    rendering = blob_rendering(field)
    optimizer = torch.optim.Adam(field.parameters(), lr=0.01)
    losses = []
    for step in range(20):
        geometry, color = smoothness_loss(field, rendering, 0.03, 1024, torch.Generator().manual_seed(step))
        losses.append((geometry + color).item())
        optimizer.zero_grad()
        (geometry + color).backward()
        optimizer.step()
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])

    none = {name: getattr(rendering, name)[:0] for name in ("weights", "ray_indices", "t_mids", "xyz")}
    empty = replace(rendering, **none)
    geometry, color = smoothness_loss(field, empty, 0.03, 16, torch.Generator())
    assert geometry == color == 0
