"""A shape as matter: how opaque bodies and sheets are."""

import math

import torch

from recdreamer.field.grid_values import grid_points
from recdreamer.field.solid_field import GREY, SolidField, solid_volume


def opacity_along_x(field: SolidField) -> float:
    x = torch.linspace(-1, 1, 2001)
    line = torch.stack([x, torch.zeros(2001), torch.zeros(2001)], dim=1)
    return -math.expm1(-float(field.density(line).sum()) * 0.001)


def slab(thickness: float, resolution: int = 96) -> torch.Tensor:
    return (grid_points(resolution)[:, 0].abs() - thickness / 2).view((resolution,) * 3)


def test_sheets_are_about_as_opaque_as_bodies_and_bodies_let_some_light_through():
    found = {
        thickness: opacity_along_x(SolidField(10.0, slab(thickness))) for thickness in (0.042, 0.15, 0.5)
    }
    assert 0.6 < found[0.042] < 0.85 and 0.7 < found[0.15] < 0.85
    assert abs(found[0.5] - (1 - math.exp(-5))) < 0.01


def test_density_follows_the_thickness_nearby():
    densities = solid_volume(slab(0.5), 10.0)[1]
    assert torch.all(densities[40:56] == 10.0)
    assert abs(float(solid_volume(slab(0.075, 129), 10.0)[1, 64, 64, 64]) - 20) < 1e-3


def test_without_colours_it_is_grey():
    sigmas, rgbs = SolidField(10.0, slab(0.5))(torch.zeros(2, 3))
    assert torch.equal(rgbs, torch.full((2, 3), GREY)) and torch.allclose(
        sigmas, torch.tensor(10.0), atol=1e-3
    )
    blue = torch.tensor([0.1, 0.2, 0.9])[:, None, None, None].expand(3, 96, 96, 96)
    assert torch.allclose(
        SolidField(10.0, slab(0.5), blue)(torch.zeros(2, 3))[1], torch.tensor([0.1, 0.2, 0.9])
    )
