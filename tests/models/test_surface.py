"""The surface that the second stage moves: towards a picture, within its region, resumed, and started from a mesh."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from recdreamer.cameras import orbit_cameras, sample_cameras
from recdreamer.config import GenerateConfig, surface_settings
from recdreamer.field.grid_values import grid_points, labelled
from recdreamer.mesh import Mesh, extract_mesh
from recdreamer.mesh.mesh import connected_components
from recdreamer.models.surface import Surface
from recdreamer.presets import resolve
from recdreamer.sdf.distance_grid import DistanceGrid, light
from recdreamer.shared.protocol import JobRequest
from recdreamer.stages.geometry import start_grid

CPU = torch.device("cpu")
RESOLUTION = 40
SETTINGS = {
    "geometry.num_steps": 40, "geometry.render_px": 32, "geometry.resolution": RESOLUTION, "geometry.softness": 0.02,
    "geometry.learning_rate": 0.4, "occupancy.interval": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    """Two would add in any order, and Adam's first steps take rounding for a direction where the gradient is nothing."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def config(**changes) -> GenerateConfig:
    return resolve(JobRequest("a red bear", overrides=SETTINGS | changes))


def sphere(radius: float) -> torch.Tensor:
    return (grid_points(RESOLUTION).norm(dim=1) - radius).view((RESOLUTION,) * 3)


def surface(radius: float, freedom: torch.Tensor | None = None, **changes) -> Surface:
    albedo = torch.full((3, RESOLUTION, RESOLUTION, RESOLUTION), 0.5)
    return Surface(config(**changes), DistanceGrid(sphere(radius), albedo), CPU, freedom)


def radius_of(subject: Surface, direction: tuple[float, float, float]) -> float:
    """Where the surface is along a direction from the middle."""
    steps = torch.linspace(0, 1, 500)[:, None] * torch.tensor(direction)
    return float((subject.grid.distance(steps.detach()) < 0).float().mean())


def step(subject: Surface, wanted: float, number: int) -> None:
    """One step towards how opaque a sphere is from the same cameras, the picture standing for its latents."""
    generator = torch.Generator().manual_seed(number)
    cameras = sample_cameras(subject.config.cameras, 3, generator, CPU)
    shown = subject.render(cameras, number, generator)
    with torch.no_grad():
        target = surface(wanted).render(cameras, 1, generator).opacity
    latents = shown.opacity.expand(-1, 3, -1, -1)
    subject.descend(shown, latents, 300 * (latents - target).detach(), number, generator)


def outline_error(subject: Surface, wanted: float) -> float:
    """Mean difference of the opacity from that of a sphere, all around."""
    cameras = orbit_cameras(torch.arange(0, 360, 45.0), torch.full((8,), 10.0), 4.0, 30.0)
    with torch.no_grad():
        found, true = (
            one.render(cameras, 0, torch.Generator().manual_seed(0)).opacity
            for one in (subject, surface(wanted))
        )
    return float((found - true).abs().mean())


def test_an_outline_moves_the_surface() -> None:
    subject, wanted = surface(0.5), 0.58
    before = outline_error(subject, wanted)
    for number in range(40):
        step(subject, wanted, number)
    assert outline_error(subject, wanted) < before / 4


def test_only_the_free_part_moves() -> None:
    free = (grid_points(RESOLUTION)[:, 0] > 0).float().view((RESOLUTION,) * 3)
    subject, wanted = surface(0.5, free), 0.58
    for number in range(20):
        step(subject, wanted, number)
    held = free == 0
    assert torch.equal(subject.grid.distances[held], subject.grid.start[held])
    before, after = ((tensor[~held] < 0).sum() for tensor in (subject.grid.start, subject.grid.distances))
    assert after > 1.1 * before


def test_a_part_of_the_freedom_takes_a_part_of_each_step() -> None:
    moved = []
    for share in (0.2, 1.0):
        subject = surface(0.5, torch.full((RESOLUTION,) * 3, share))
        step(subject, 0.58, 0)
        moved.append((subject.grid.distances - subject.grid.start).detach())
    # By their lengths: where the gradient is next to nothing, Adam's first step takes its sign from rounding.
    assert moved[0].norm() / moved[1].norm() == pytest.approx(0.2, rel=0.01) and moved[1].abs().max() > 0.01


def test_an_anchor_holds() -> None:
    held, wanted = surface(0.5, **{"geometry.anchor": 1e5}), 0.58
    for number in range(20):
        step(held, wanted, number)
    assert radius_of(held, (1.0, 0, 0)) == pytest.approx(0.5, abs=0.2 * held.grid.cell)


def test_a_resumed_surface_continues_as_if_never_stopped() -> None:
    anchored = {"geometry.anchor": 10.0}
    wanted, whole, first = 0.58, surface(0.5, **anchored), surface(0.5, **anchored)
    for number in range(6):
        step(whole, wanted, number)
    for number in range(3):
        step(first, wanted, number)
    second = surface(0.5, **anchored)
    second.load(first.tensors())
    for number in range(3, 6):
        step(second, wanted, number)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


@pytest.mark.parametrize(
    ("picture", "region", "is_free"),
    [("shaded", None, True), ("shaded", 0.0, False), ("normals", None, False)],
    ids=["free", "outside of the region", "unseen"],
)
def test_a_wrong_colour_is_mended_by_the_albedo(picture: str, region: float | None, is_free: bool) -> None:
    """A grey ball is to be red; its shape is as wanted."""
    free = None if region is None else torch.full((RESOLUTION,) * 3, region)
    subject = surface(0.5, free, **{"geometry.picture": picture, "geometry.albedo_learning_rate": 0.05})
    before, red = subject.grid.albedo.detach().clone(), torch.tensor([0.8, 0.2, 0.2])[:, None, None]
    for number in range(10):
        generator = torch.Generator().manual_seed(number)
        cameras = sample_cameras(subject.config.cameras, 3, generator, CPU)
        shown = subject.render(cameras, number, generator)
        target = shown.rgb + shown.opacity * (red - shown.rgb)
        subject.descend(shown, shown.rgb, (shown.rgb - target).detach(), number, generator)
    seen = subject.grid.distances.abs() < subject.grid.cell
    after = subject.grid.albedo.detach()
    assert (
        (after[0, seen].mean() > 0.55 and after[1, seen].mean() < 0.45)
        if is_free
        else torch.equal(after, before)
    )


def test_a_surface_begins_as_the_mesh_and_in_the_colours_of_the_field() -> None:
    ball = trimesh.creation.icosphere(4, 0.6)
    mesh = Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32))

    class Striped:
        """Red above, blue below."""

        def __call__(self, xyz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            above = (xyz[:, 2:] > 0).float()
            return xyz[:, 0], torch.cat([0.6 * above, 0 * above, 0.6 * (1 - above)], 1)

        def density(self, xyz: torch.Tensor) -> torch.Tensor:
            return self(xyz)[0]

    grid = start_grid(config(), mesh, Striped(), CPU)
    assert (grid.distances - sphere(0.6)).abs()[sphere(0.6).abs() < 0.2].max() < 0.1 * grid.cell
    where = torch.tensor([[0.0, -0.42, 0.42]])
    x, y, z = ((where[0] + 1) * (RESOLUTION - 1) / 2).round().long()
    lit = grid.albedo[:, x, y, z] * light(grid.normals(where))[0]
    assert torch.allclose(lit, torch.tensor([0.6, 0.0, 0.0]), atol=0.02)


def test_a_knob_whose_stem_is_too_thin_for_the_grid_stays_with_its_body() -> None:
    points = grid_points(96)
    body = points.norm(dim=1) - 0.5
    knob = (points - torch.tensor([0.0, 0.0, 0.6])).norm(dim=1) - 0.07
    grid = DistanceGrid(torch.minimum(body, knob).view(96, 96, 96), torch.zeros(()).expand(3, 96, 96, 96))
    mesh = extract_mesh(grid.solidity, surface_settings(config()))
    assert mesh.verts[:, 2].max() > 0.65
    assert connected_components(mesh).max() == 0


def test_the_last_step_ties_on_again_what_was_torn_off() -> None:
    points = grid_points(RESOLUTION)
    knob = ((points - torch.tensor([0.0, 0.0, 0.75])).norm(dim=1) - 0.15).view((RESOLUTION,) * 3)
    stem = torch.maximum(points[:, :2].norm(dim=1) - 0.05, (points[:, 2] - 0.35).abs() - 0.35)
    torn = torch.minimum(sphere(0.4), knob)
    subject = surface(0.4)
    subject.grid = DistanceGrid(torch.minimum(torn, stem.view_as(torn)), subject.grid.albedo)
    with torch.no_grad():
        subject.grid.distances.copy_(torn)
    last = subject.config.geometry.num_steps - 1
    for number, parts in ((last - 1, 2), (last, 1)):
        step(subject, 0.4, number)
        assert labelled((subject.grid.distances < 0).numpy())[1] == parts
