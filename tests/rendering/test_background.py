"""Backgrounds, learned and random."""

import torch

from recdreamer.cameras import camera_rays, orbit_cameras
from recdreamer.rendering import Background, random_backgrounds


def directions(views: int = 2) -> torch.Tensor:
    cameras = orbit_cameras(torch.arange(views) * 90.0, torch.zeros(views), 4.0, 30.0)
    return camera_rays(cameras, 8, 6)[1]


def test_a_learned_background_is_a_picture_per_view():
    rgb = Background(seed=0)(directions())
    assert rgb.shape == (2, 3, 8, 6)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    assert not torch.allclose(rgb[0], rgb[1])


def test_it_depends_on_the_direction_alone_and_on_the_seed():
    rays_d = directions()
    swapped = rays_d.flip(0, 1, 2)
    first, other = Background(seed=0), Background(seed=1)
    torch.testing.assert_close(first(swapped), first(rays_d).flip(0, 2, 3))
    assert not torch.allclose(first(rays_d), other(rays_d))


def test_it_learns_a_colour():
    background, rays_d = Background(seed=0), directions()
    optimizer = torch.optim.Adam(background.parameters(), lr=0.05)
    target = torch.tensor([0.8, 0.3, 0.1]).view(1, 3, 1, 1)
    for _ in range(200):
        loss = (background(rays_d) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 3e-3


def test_random_backgrounds_are_tinted_greys_in_range():
    grounds = random_backgrounds(2000, torch.Generator().manual_seed(0), "cpu", (0.4, 1.0), 0.1)
    assert grounds.shape == (2000, 3)
    assert 0.34 < grounds.min() < grounds.max() <= 1
    assert (grounds.amax(1) - grounds.amin(1)).max() <= 0.1 + 1e-6
    assert grounds.mean(1).std() > 0.1
    again = random_backgrounds(2000, torch.Generator().manual_seed(0), "cpu", (0.4, 1.0), 0.1)
    assert torch.equal(grounds, again)


def test_channels_are_tinted_each_on_its_own():
    grounds = random_backgrounds(500, torch.Generator().manual_seed(0), "cpu", (0.5, 0.5), 0.2)
    shades = grounds - 0.5
    assert 0.09 < shades.max() <= 0.1 and -0.1 <= shades.min() < -0.09
    # Independent and uniform: the correlation of 500 pairs scatters by 0.045.
    assert torch.corrcoef(shades.T).fill_diagonal_(0).abs().max() < 0.2
