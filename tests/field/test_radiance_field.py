"""The radiance field: its start, its levels, and its behaviour as a function of points."""

import math
from dataclasses import replace

import pytest
import torch

from recdreamer.field import RadianceField
from recdreamer.field import radiance_field as module
from recdreamer.field.grid_values import grid_points
from recdreamer.presets import EMBEDDED_FIELD

SMALL = replace(
    EMBEDDED_FIELD,
    num_levels=3,
    log2_table_size=6,
    base_resolution=2,
    max_resolution=9,
    hidden_width=8,
    start_levels=1,
)


def sphere_points(radius: float, count: int = 64) -> torch.Tensor:
    directions = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return radius * torch.nn.functional.normalize(directions, dim=-1)


def test_the_start_is_a_grey_soft_blob():
    field = RadianceField(EMBEDDED_FIELD, seed=0)
    for radius in (0.0, 0.25, 0.5, 1.0):
        sigmas, rgbs = field(sphere_points(radius))
        expected = math.log1p(math.exp(5 * (1 - radius / 0.5)))
        torch.testing.assert_close(sigmas, torch.full((64,), expected), atol=0.02, rtol=0.02)
        torch.testing.assert_close(rgbs, torch.full((64, 3), 0.5), atol=0.01, rtol=0)


def test_levels_fade_in_coarse_to_fine():
    field = RadianceField(replace(EMBEDDED_FIELD, num_levels=4, start_levels=2, steps_per_level=10), seed=0)
    for step, expected in [
        (0, [1, 1, 0, 0]), (5, [1, 1, 0.5, 0]), (10, [1, 1, 1, 0]), (15, [1, 1, 1, 0.5]), (99, [1, 1, 1, 1]),
    ]:  # fmt: skip
        field.set_progress(step)
        assert field.grid.level_weights.tolist() == expected


def test_zero_steps_per_level_shows_all_levels():
    assert RadianceField(SMALL, seed=0).grid.level_weights.tolist() == [1, 1, 1]


def test_gradients_agree_with_finite_differences():
    field = RadianceField(SMALL, seed=0).double()
    with torch.no_grad():
        field.grid.table.normal_(generator=torch.Generator().manual_seed(0))
    names, values = zip(*field.named_parameters(), strict=True)
    values = tuple(value.detach().requires_grad_() for value in values)
    xyz = 0.5 * sphere_points(0.7, 5).double()

    def run(*values):
        return torch.func.functional_call(field, dict(zip(names, values, strict=True)), (xyz,))

    assert torch.autograd.gradcheck(run, values)


def test_density_is_the_first_half_of_the_answer():
    field, xyz = RadianceField(SMALL, seed=0), sphere_points(0.4)
    assert torch.equal(field.density(xyz), field(xyz)[0])


def test_chunks_without_gradients_change_nothing(monkeypatch):
    field, xyz = RadianceField(SMALL, seed=0), sphere_points(0.4, 50)
    whole = field(xyz)
    monkeypatch.setattr(module, "CHUNK_POINTS", 7)
    with torch.no_grad():
        parts = field(xyz)
    torch.testing.assert_close(parts, tuple(value.detach() for value in whole))


def test_the_seed_decides_the_start():
    first, same, other = (RadianceField(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["hidden.weight"], other["hidden.weight"])


def test_state_dict_restores_the_function():
    field, other = (
        RadianceField(replace(EMBEDDED_FIELD, steps_per_level=5), seed=1),
        RadianceField(EMBEDDED_FIELD, seed=2),
    )
    field.set_progress(7)
    other.load_state_dict(field.state_dict())
    xyz = sphere_points(0.4)
    torch.testing.assert_close(other(xyz), field(xyz), atol=0, rtol=0)


def test_a_shape_given_is_where_the_density_starts_and_its_state_brings_it_along():
    distances = grid_points(33).norm(dim=1).view(33, 33, 33) - 0.5
    field = RadianceField(EMBEDDED_FIELD, 0, distances)
    inside, outside = (field.density(sphere_points(radius)) for radius in (0.44, 0.56))
    assert inside.min() > 9 and outside.max() < 0.02
    plain = RadianceField(EMBEDDED_FIELD, 1)
    plain.load_state_dict(field.state_dict())
    assert torch.equal(plain.density(sphere_points(0.5)), field.density(sphere_points(0.5)))
    # And the other way round: a state without a shape takes it away.
    field.load_state_dict(RadianceField(EMBEDDED_FIELD, 0).state_dict())
    assert field.density(sphere_points(0.0)).max() < 6


def test_the_state_brings_its_blob_along_and_earlier_states_take_the_configured_one():
    dense = RadianceField(replace(EMBEDDED_FIELD, blob_density=10.0, blob_radius=0.7), 0)
    plain = RadianceField(EMBEDDED_FIELD, 0)
    plain.load_state_dict(dense.state_dict())
    assert torch.equal(plain.density(sphere_points(0.3)), dense.density(sphere_points(0.3)))
    old = {name: value for name, value in dense.state_dict().items() if name != "blob"}
    other = RadianceField(EMBEDDED_FIELD, 1)
    other.load_state_dict(old)
    assert other.density(sphere_points(0.0)).max() < 6


@pytest.mark.parametrize("features", [1, 4])
def test_features_per_level_are_the_width_of_the_tables_rows(features: int) -> None:
    field = RadianceField(replace(EMBEDDED_FIELD, num_levels=3, features_per_level=features), seed=0)
    assert field.grid.table.shape[1] == features and field.hidden.in_features == 3 * features
    assert field.grid(torch.zeros(2, 3)).shape == (2, 3 * features)


@pytest.mark.parametrize("density", [3.0, 12.0])
def test_start_density_is_what_a_given_shape_is_filled_with(density: float) -> None:
    """Far inside of a thick ball: softplus of the density."""
    ball = (grid_points(24).norm(dim=1) - 0.6).view(24, 24, 24)
    field = RadianceField(replace(EMBEDDED_FIELD, start_density=density), seed=0, start=ball)
    inside = field.density(torch.zeros(1, 3)).item()
    assert inside == pytest.approx(torch.nn.functional.softplus(torch.tensor(density)).item(), rel=0.01)
    assert field.density(torch.tensor([[0.9, 0.0, 0.0]])).item() < 0.01


def test_the_seed_decides_a_fields_first_weights() -> None:
    first, again, other = (RadianceField(replace(EMBEDDED_FIELD, num_levels=2), seed) for seed in (1, 1, 2))
    for name in ("grid.table", "hidden.weight", "head.weight"):
        weights = [field.get_parameter(name) for field in (first, again, other)]
        assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2]), name


@pytest.mark.parametrize(
    ("per_level", "step", "weights"),
    [(10, 0, [1, 1, 0, 0]), (10, 5, [1, 1, 0.5, 0]), (10, 20, [1, 1, 1, 1]), (0, 0, [1, 1, 1, 1])],
)
def test_levels_fade_in_over_the_steps_of_the_settings(per_level: int, step: int, weights: list) -> None:
    field = RadianceField(
        replace(EMBEDDED_FIELD, num_levels=4, start_levels=2, steps_per_level=per_level), seed=0
    )
    field.set_progress(step)
    assert field.grid.level_weights.tolist() == pytest.approx(weights)
