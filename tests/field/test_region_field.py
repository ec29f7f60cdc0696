"""A field that may change within a region only: where gradients go, what it costs, how it begins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recdreamer.field import RadianceField
from recdreamer.field.grid_values import grid_points, trilinear
from recdreamer.field.region_field import RegionField, free_within
from recdreamer.field.solid_field import GREY, SolidField
from recdreamer.presets import resolve
from recdreamer.shared.protocol import JobRequest
from recdreamer.start.starting_point import field_of


def test_a_region_field_passes_gradients_where_it_may_change_only():
    config = resolve(JobRequest("x")).field
    region = (grid_points(9)[:, 2] > 0).float().view(9, 9, 9)
    ball = grid_points(9).norm(dim=1).view(9, 9, 9) - 0.5
    field = RegionField(SolidField(10.0, ball), RadianceField(config, 0, ball), region)
    for height, expected in ((-0.5, False), (0.5, True)):
        field.zero_grad()
        sigmas, rgbs = field(torch.tensor([[0.0, 0.0, height], [0.1, 0.1, height]]))
        if sigmas.requires_grad:
            (sigmas.sum() + rgbs.sum()).backward()
        assert (field.field.hidden.weight.grad is not None) == expected
    assert rgbs.shape == (2, 3)
    frozen = field(torch.tensor([[0.0, 0.0, -0.5]]))
    assert torch.equal(frozen[1], torch.full((1, 3), GREY))
    assert {name.split(".")[0] for name, p in field.named_parameters() if p.requires_grad} == {"field"}


class Asked(RadianceField):
    """Counts the points that it is asked about."""

    points = 0

    def forward(self, xyz: Tensor) -> tuple[Tensor, Tensor]:
        self.points += len(xyz)
        return super().forward(xyz)


def test_a_place_costs_one_field_however_many_regions_followed_one_another():
    config, xyz = replace(resolve(JobRequest("x")).field, log2_table_size=10), grid_points(16)
    slabs = [(grid_points(9)[:, 2] > low).float() for low in (-0.3, 0.1, -0.1)]
    field = parts = None
    for number, slab in enumerate(slabs):
        changing = Asked(config, number)
        before = Asked(config, 9) if field is None else field
        parts = [changing, before] if parts is None else [changing, *parts]
        field = RegionField(before, changing, slab.view(9, 9, 9))
    assert field is not None and parts is not None
    with torch.no_grad():
        sigmas = field(xyz)[0]
        asked = sum(part.points for part in parts)
        # By the formula, everything of everything.
        w = [trilinear(slab.view(1, 9, 9, 9), xyz)[:, 0] for slab in slabs]
        densities = [part(xyz)[0] for part in parts]
    mixed = densities[-1]
    for weight, density in zip(w, densities[-2::-1], strict=True):
        mixed = (1 - weight) * mixed + weight * density
    torch.testing.assert_close(sigmas, mixed)
    assert asked < 1.6 * len(xyz), "borders are asked twice, nothing else is"


def test_a_region_begins_as_the_part_that_has_the_most_of_it():
    config = replace(resolve(JobRequest("x")).field, log2_table_size=10)
    height = grid_points(9)[:, 2]
    upper, top, lower = ((height > 0).float(), (height > 0.6).float(), (height < 0.1).float())
    first, second = RadianceField(config, 1), RadianceField(config, 2)
    earlier = RegionField(first, second, upper.view(9, 9, 9))
    for region, expected in ((top, second), (lower, first), (upper + lower, first)):
        found = free_within(earlier, region.clamp(0, 1).view(9, 9, 9), config, 3)
        assert found.frozen is earlier and found.field is not expected
        assert torch.equal(found.field.grid.table, expected.grid.table)
        assert all(parameter.requires_grad for parameter in found.field.parameters())
    assert free_within(earlier, upper.view(9, 9, 9), config, 3) is earlier


def test_a_state_says_what_its_numbers_mean():
    config = replace(resolve(JobRequest("x")).field, log2_table_size=10)
    coarse, fine = RadianceField(config, 1), RadianceField(replace(config, max_resolution=256), 2)
    region = (grid_points(9)[:, 2] > 0).float().view(9, 9, 9)
    field, xyz = RegionField(coarse, fine, region), grid_points(6)
    with torch.no_grad():
        assert torch.equal(field(xyz)[0], field_of(field.state_dict(), config)(xyz)[0])
    with pytest.raises(ValueError, match="expected the state of a field of"):
        fine.load_state_dict(coarse.state_dict())


def test_both_sides_evaluated_everywhere_give_the_same_values_and_gradients():
    """As on a GPU: to the last bit where a side has no weight, and without a gradient where the region has none."""
    config, xyz = replace(resolve(JobRequest("x")).field, log2_table_size=10, num_levels=4), grid_points(12)
    region = trilinear((grid_points(9)[:, 2]).view(1, 9, 9, 9), grid_points(9)).view(9, 9, 9).clamp(0, 1)
    field = RegionField(RadianceField(config, 1), RadianceField(config, 2), region)
    with torch.no_grad():
        for part in (field.field, field.frozen):
            part.grid.table.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    weights = field.weights(xyz)
    assert (weights == 0).any() and (weights == 1).any() and ((weights > 0) & (weights < 1)).any()
    results = []
    for sigmas, rgbs in (field(xyz), field._everywhere(xyz, weights)):
        upstream = [
            torch.rand(value.shape, generator=torch.Generator().manual_seed(1)) for value in (sigmas, rgbs)
        ]
        grads = torch.autograd.grad((sigmas, rgbs), list(field.field.parameters()), upstream)
        results.append([sigmas, rgbs, *grads])
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    held = weights == 0
    for value, frozen in zip(results[1], field.frozen(xyz), strict=False):
        assert torch.equal(value[held], frozen[held])
