"""The colour of a frozen mesh: what is seen, what is kept, and where the gradient goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from recdreamer.cameras import orbit_cameras
from recdreamer.config import GenerateConfig
from recdreamer.field import RadianceField
from recdreamer.field.grid_values import grid_points
from recdreamer.field.region_field import RegionField
from recdreamer.mesh import Mesh
from recdreamer.models.painting import Painting, unevenness
from recdreamer.presets import EMBEDDED_FIELD, resolve
from recdreamer.shared.protocol import JobRequest
from recdreamer.stages.texture import copied

SETTINGS = {
    "texture.num_steps": 40,
    "texture.num_views": 2,
    "texture.render_px": 24,
    "texture.cached_views": 6,
    "texture.grid_learning_rate": 0.03,
    "texture.smoothness": 0,
}
CPU = torch.device("cpu")


def config(**changes) -> GenerateConfig:
    return resolve(JobRequest("a red bear", overrides=SETTINGS | changes))


def ball() -> Mesh:
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.6)
    return Mesh(sphere.vertices.astype(np.float32), sphere.faces.astype(np.int32))


def painting(field: RadianceField | RegionField | None = None, **changes) -> Painting:
    return Painting(config(**changes), ball(), field or RadianceField(EMBEDDED_FIELD, 0), CPU)


def step(subject: Painting, number: int, wanted: torch.Tensor) -> torch.Tensor:
    """One step towards a colour, with the picture itself in the place of its latents."""
    generator = torch.Generator().manual_seed(number)
    shown = subject.render(subject.cameras(number), number, generator)
    coverage = torch.stack([sight.coverage for sight in subject._sights[number % 3]])
    difference = coverage * (shown.rgb - wanted[:, None, None])
    subject.descend(shown, shown.rgb, difference.detach(), number, generator)
    return difference.square().mean().detach()


def test_a_ball_covers_what_it_should_and_outlines_are_smooth() -> None:
    subject = painting(**{"texture.supersampling": 4})
    cameras = orbit_cameras(torch.tensor([20.0]), torch.tensor([10.0]), 4.0, 30.0)
    (sight,) = subject.look(cameras, 24)
    rho = 0.6 / (16 - 0.36) ** 0.5 / np.tan(np.deg2rad(15))
    assert sight.coverage.mean().item() == pytest.approx(np.pi * rho**2 / 4, rel=0.01)
    assert ((sight.coverage > 0) & (sight.coverage < 1)).any(), "pixels of the outline are covered in part"
    assert sight.xyz.norm(dim=1).sub(0.6).abs().max() < 2e-3


def test_a_colour_is_reached_and_the_background_is_not_painted() -> None:
    subject, wanted = painting(), torch.tensor([0.9, 0.2, 0.1])
    losses = [step(subject, number, wanted).item() for number in range(40)]
    assert losses[-1] < 0.2 * losses[0]
    picture = subject.picture(orbit_cameras(torch.tensor([75.0]), torch.tensor([5.0]), 4.0, 30.0), 24)
    assert torch.allclose(picture[0, :, 12, 12], wanted, atol=0.2), (
        "from a view that was not among the steps'"
    )
    assert torch.allclose(picture[0, :, 0, 0], torch.full((3,), 0.8)), "the ground"


def test_rays_are_cast_once(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, casts = painting(), []
    cast = subject.caster.cast
    monkeypatch.setattr(subject.caster, "cast", lambda o, d: casts.append(len(o)) or cast(o, d))
    for number in range(9):
        step(subject, number, torch.zeros(3))
    assert len(casts) == 6, "three batches of two views, each once"
    again = subject.cameras(3)
    assert torch.equal(again.c2w, subject.cameras(0).c2w)
    assert not torch.equal(again.c2w, subject.cameras(1).c2w)


def test_a_resumed_surface_continues_as_if_never_stopped() -> None:
    whole, wanted = painting(), torch.tensor([0.1, 0.5, 0.9])
    for number in range(4):
        step(whole, number, wanted)
    first = painting()
    for number in range(2):
        step(first, number, wanted)
    second = painting()
    second.load(first.tensors())
    for number in (2, 3):
        step(second, number, wanted)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


def test_outside_a_region_nothing_changes() -> None:
    """Weights fall from 1 above to 0 below the middle."""
    region = (grid_points(16)[:, 2] > 0).float().view(16, 16, 16)
    frozen, free = RadianceField(EMBEDDED_FIELD, 1), RadianceField(EMBEDDED_FIELD, 2)
    subject = painting(RegionField(frozen, free, region))
    below, above = torch.tensor([[0.0, -0.5, -0.3]]), torch.tensor([[0.0, -0.5, 0.3]])
    before = [subject.color(where).detach() for where in (below, above)]
    for number in range(20):
        step(subject, number, torch.tensor([1.0, 0.0, 0.0]))
    after = [subject.color(where).detach() for where in (below, above)]
    assert torch.equal(before[0], after[0])
    assert (after[1] - before[1]).abs().max() > 0.1


def test_the_field_that_it_begins_with_stays_as_it_was() -> None:
    field = RadianceField(EMBEDDED_FIELD, 3)
    kept = {name: tensor.clone() for name, tensor in field.state_dict().items()}
    subject = painting(field)
    step(subject, 0, torch.zeros(3))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in field.state_dict().items())


def needle() -> Mesh:
    """So thin, and so far from the middle of every pixel, that no ray of a small picture meets it."""
    verts = np.array([[1e-4, 1e-4, -0.7], [2e-4, 1e-4, -0.7], [1e-4, 2e-4, 0.7]], np.float32)
    return Mesh(verts, np.array([[0, 1, 2]], np.int32))


@pytest.mark.parametrize("smoothness", [0.0, 100.0])
def test_a_step_that_sees_nothing_of_the_mesh_changes_nothing(smoothness: float) -> None:
    settings = config(**{"texture.smoothness": smoothness, "cameras.azimuth_deg": [0.0, 0.0]})
    subject = Painting(settings, needle(), RadianceField(EMBEDDED_FIELD, 0), CPU)
    before = {name: tensor.clone() for name, tensor in subject.field.state_dict().items()}
    for number in range(2):
        shown = subject.render(subject.cameras(number), number, torch.Generator())
        assert len(shown.xyz) == 0
        subject.descend(shown, shown.rgb, torch.ones_like(shown.rgb), number, torch.Generator())
    assert torch.isinf(torch.tensor(subject.first_bad_step)), "the loss is finite"
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.field.state_dict().items())


def test_what_only_shows_the_frozen_side_takes_no_step() -> None:
    """With one view a step, many see nothing of a region."""
    behind = (grid_points(16)[:, 1] > 0.3).float().view(16, 16, 16)
    frozen, free = RadianceField(EMBEDDED_FIELD, 1), RadianceField(EMBEDDED_FIELD, 2)
    subject = painting(RegionField(frozen, free, behind), **{"cameras.azimuth_deg": [-20.0, 20.0]})
    before = {name: tensor.clone() for name, tensor in subject.tensors().items()}
    step(subject, 0, torch.zeros(3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.tensors().items())


def stripes(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """Eight stripes around the axis, lit from above."""
    ramp = 0.5 + 0.4 * torch.sin(8 * torch.atan2(points[:, 1], points[:, 0]))
    return torch.stack([ramp, 1 - ramp, 0.5 + 0.4 * normals[:, 2]], 1)


def test_a_field_takes_on_the_colours_of_a_surface() -> None:
    field, mesh = RadianceField(EMBEDDED_FIELD, 0), ball()
    before = {name: tensor.clone() for name, tensor in field.state_dict().items()}
    points = torch.nn.functional.normalize(torch.randn(2000, 3), dim=1)

    def error(found: RadianceField | RegionField) -> float:
        with torch.no_grad():
            return (found(0.6 * points)[1] - stripes(points, points)).square().mean().sqrt().item()

    assert error(copied(config(), field, mesh, stripes, CPU)) < 0.03
    assert error(copied(config(**{"texture.copy_steps": 0}), field, mesh, stripes, CPU)) > 0.2
    assert all(torch.equal(tensor, before[name]) for name, tensor in field.state_dict().items())


def test_a_field_takes_on_colours_in_its_region_only() -> None:
    grid = grid_points(16, CPU)
    region = (grid[:, 0] > 0).float().view(16, 16, 16)
    field = RegionField(RadianceField(EMBEDDED_FIELD, 1), RadianceField(EMBEDDED_FIELD, 0), region)
    found = copied(config(), field, ball(), stripes, CPU)
    points = 0.6 * torch.nn.functional.normalize(torch.randn(2000, 3), dim=1)
    with torch.no_grad():
        moved = (found(points)[1] - field(points)[1]).abs().amax(1)
    assert (moved[points[:, 0] < -0.1] == 0).all()
    assert moved[points[:, 0] > 0.1].mean() > 0.1


@pytest.mark.parametrize("radius", [0.01, 0.05])
def test_near_points_are_as_near_as_the_settings_say(radius: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss without a gradient from the prior: `smoothness` times the unevenness at `smoothing_radius`."""
    subject = painting(**{"texture.smoothness": 30.0, "texture.smoothing_radius": radius})
    with torch.no_grad():
        subject.field.grid.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    losses: list[torch.Tensor] = []
    monkeypatch.setattr(subject.descent, "step", lambda loss, step, share: losses.append(loss))
    shown = subject.render(subject.cameras(0), 0, torch.Generator())
    subject.descend(shown, shown.rgb, torch.zeros_like(shown.rgb), 0, torch.Generator().manual_seed(5))
    wanted = unevenness(subject.field, shown.xyz, radius, torch.Generator().manual_seed(5)).item()
    assert wanted > 1e-5 and losses[0].item() == pytest.approx(30 * wanted, rel=1e-4)


def test_points_twice_as_far_differ_four_times_as_much() -> None:
    """The mean squared difference of a smooth field's colours; the finest cells are 0.016 wide."""
    field = RadianceField(EMBEDDED_FIELD, 0)
    with torch.no_grad():
        field.grid.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    near, far = (
        unevenness(field, torch.zeros(10, 3) + 0.3, radius, torch.Generator().manual_seed(0)).item()
        for radius in (1e-4, 2e-4)
    )
    assert far / near == pytest.approx(4, rel=0.1)


def test_grid_and_network_learn_at_the_textures_own_rates() -> None:
    rates = {"texture.grid_learning_rate": 0.02, "texture.network_learning_rate": 0.005}
    subject = painting(**rates, **{"optimize.grid_learning_rate": 0.3, "optimize.network_learning_rate": 0.3})
    before = {name: p.detach().clone() for name, p in subject.field.named_parameters()}
    step(subject, 0, torch.tensor([0.9, 0.2, 0.1]))
    moved = {name: (p - before[name]).abs().max().item() for name, p in subject.field.named_parameters()}
    assert moved["grid.table"] == pytest.approx(0.02, rel=1e-3)
    assert moved["hidden.weight"] == pytest.approx(0.005, rel=1e-3)


def test_the_views_are_those_of_the_seed() -> None:
    def azimuths(seed: int) -> list[float]:
        settings = resolve(JobRequest("a red bear", seed=seed, overrides=SETTINGS))
        return (
            Painting(settings, ball(), RadianceField(EMBEDDED_FIELD, 0), CPU).cameras(1).azimuth_deg.tolist()
        )

    assert azimuths(1) == azimuths(1) != azimuths(2)
