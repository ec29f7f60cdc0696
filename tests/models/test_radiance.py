"""θ of the first stage: each weight of its loss, its learning rates, its start, and what its particles do not share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recdreamer.cameras import Cameras, orbit
from recdreamer.config import GenerateConfig
from recdreamer.field.grid_values import grid_points
from recdreamer.models.noisy_field import NoisyField
from recdreamer.models.radiance import Particles, Scene
from recdreamer.models.stay_near_start import hold_loss
from recdreamer.presets import resolve
from recdreamer.rendering import (
    Rendering,
    opaque_loss,
    smoothness_loss,
    sparsity_loss,
    weight_entropy_loss,
    z_variance_loss,
)
from recdreamer.shared.protocol import JobRequest
from recdreamer.start.starting_point import FROM_PROMPT, StartingPoint

CPU = torch.device("cpu")
SETTINGS = {
    "optimize.num_steps": 8, "optimize.render_px": 24, "field.num_levels": 4, "field.log2_table_size": 10,
    "field.hidden_width": 8, "occupancy.resolution": 16, "render.step_size": 0.08,
}  # fmt: skip
WEIGHTS = ("sparsity", "opaque", "entropy", "smoothness", "color_smoothness", "z_variance")
STEP = 6
"""Of 8: terms whose weight grows have three quarters of it."""


def config(seed: int = 0, **settings) -> GenerateConfig:
    nothing = {f"regularizers.{name}": 0.0 for name in WEIGHTS}
    overrides = SETTINGS | nothing | {name.replace("__", "."): value for name, value in settings.items()}
    return resolve(JobRequest("a red bear", seed=seed, overrides=overrides))


def ball() -> Tensor:
    return (grid_points(24).norm(dim=1) - 0.5).view(24, 24, 24)


def views() -> Cameras:
    return orbit(3, config().cameras, CPU)


def uneven(scene: Scene) -> Scene:
    """With features that are not nearly nothing, and more matter, as after some steps."""
    with torch.no_grad():
        scene.field.grid.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
        scene.field.head.bias[0] += 2
    return scene


def rendered(scene: Scene, step: int = STEP) -> Rendering:
    return scene.render(views(), step, torch.Generator().manual_seed(1))


def loss_of(scene: Scene, rendering: Rendering, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The loss of a step along no gradient from the prior."""
    losses: list[Tensor] = []
    monkeypatch.setattr(scene.descent, "move", lambda loss, share: losses.append(loss))
    latents = rendering.rgb[:, :, ::8, ::8]
    scene.descend(rendering, latents, torch.zeros_like(latents), STEP, torch.Generator().manual_seed(2))
    return losses[0]


def smooth(scene: Scene, rendering: Rendering) -> tuple[Tensor, Tensor]:
    return smoothness_loss(scene.field, rendering, 0.04, 4096, torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sparsity", lambda scene, seen: sparsity_loss(seen.opacity)),
        ("opaque", lambda scene, seen: STEP / 8 * opaque_loss(seen.opacity)),
        ("entropy", lambda scene, seen: STEP / 8 * weight_entropy_loss(seen.weights)),
        ("smoothness", lambda scene, seen: smooth(scene, seen)[0]),
        ("color_smoothness", lambda scene, seen: smooth(scene, seen)[1]),
        ("z_variance", lambda scene, seen: z_variance_loss(seen)),
    ],
)
def test_each_regularizer_has_its_own_weight(name: str, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = uneven(Scene(config(**{f"regularizers__{name}": 7.0}), CPU))
    rendering = rendered(scene)
    wanted = expected(scene, rendering)
    assert wanted > 1e-4
    assert loss_of(scene, rendering, monkeypatch).item() == pytest.approx(7 * wanted.item(), rel=1e-4)


def test_without_any_weight_there_is_nothing_to_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = uneven(Scene(config(), CPU))
    assert loss_of(scene, rendered(scene), monkeypatch).item() == 0


def test_grid_and_network_learn_at_their_own_rates() -> None:
    """Adam's first step has the length of the rate wherever there is a gradient."""
    scene = uneven(
        Scene(config(optimize__grid_learning_rate=0.02, optimize__network_learning_rate=0.005), CPU)
    )
    before = {name: p.detach().clone() for name, p in scene.field.named_parameters()}
    rendering = rendered(scene, step=0)
    latents = rendering.rgb[:, :, ::8, ::8]
    scene.descend(rendering, latents, torch.ones_like(latents), 0, torch.Generator())
    for name, parameter in scene.field.named_parameters():
        moved = (parameter - before[name]).abs().max().item()
        assert moved == pytest.approx(0.02 if "grid" in name else 0.005, rel=1e-3), name


@pytest.mark.parametrize("final", [0.1, 1.0])
def test_rates_fall_to_the_final_share_along_a_cosine(final: float) -> None:
    scene = Scene(config(optimize__grid_learning_rate=0.02, optimize__final_learning_rate=final), CPU)
    rates = []
    for step in (0, 4, 8):
        loss = sum(p.square().sum() for p in scene.field.parameters())
        scene.descent.step(loss, step)
        rates.append(scene.descent.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.02, 0.02 * (1 + final) / 2, 0.02 * final])


def test_the_rate_of_the_occupancys_decay_and_the_density_of_a_start_are_those_of_the_job() -> None:
    start = StartingPoint("object", 1.0, distances=ball())
    scene = Scene(config(field__start_density=3.0, occupancy__decay=0.25), CPU, start=start)
    assert scene.occupancy.config.decay == 0.25
    middle = scene.field.density(torch.zeros(1, 3)).item()
    assert middle == pytest.approx(torch.nn.functional.softplus(torch.tensor(3.0)).item(), rel=0.01)


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_a_start_is_held_and_moved_as_far_as_its_strength_says(
    strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(1 - s) · W · hold_loss, and the density's gradient from everything else times s."""

    def of(share: float) -> Scene:
        return uneven(
            Scene(config(start__hold=50.0), CPU, start=StartingPoint("object", share, distances=ball()))
        )

    scene, rendering = of(strength), rendered(of(strength))
    slopes = []
    for share in (strength, 1.0):
        other = of(share)
        rendered(other).opacity.sum().backward()
        slopes.append(other.field.head.weight.grad[0])
    assert slopes[1].abs().max() > 0.1 and torch.allclose(
        slopes[0], strength * slopes[1], rtol=1e-3, atol=1e-4
    )
    assert scene.frozen is not None
    drawn = torch.Generator().manual_seed(2)
    smoothness_loss(scene.field, rendering, 0.04, 4096, drawn)  # comes first, and draws as much
    held = hold_loss(scene.field, scene.frozen, rendering, drawn).item()
    found = loss_of(scene, rendering, monkeypatch).item()
    assert held > 1e-4 and found == pytest.approx((1 - strength) * 50 * held, rel=1e-3)


def test_particles_are_made_from_seeds_of_their_own_and_take_turns() -> None:
    def tables(seed: int) -> list[Tensor]:
        particles = Particles(config(seed, optimize__num_particles=2), CPU, FROM_PROMPT)
        assert [particles.at(step) for step in range(4)] == 2 * particles.scenes
        return [scene.field.grid.table.detach() for scene in particles.scenes]

    first, again, other = tables(1), tables(1), tables(2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1]), "else they would differ by nothing but the turns"
    assert not torch.equal(first[0], other[0])


def large(**settings) -> GenerateConfig:
    """The preset of Stable Diffusion, with a field that renders quickly."""
    overrides = (
        SETTINGS | {"optimize.num_steps": 100} | {k.replace("__", "."): v for k, v in settings.items()}
    )
    return resolve(JobRequest("a red bear", prior="some/model", overrides=overrides))


def test_for_stable_diffusion_entropy_counts_from_the_start_and_opaqueness_after_two_fifths() -> None:
    """RecDreamer's released code, and threestudio's prolificdreamer.yaml."""
    scene, found = Scene(large(), CPU), []
    for step in (0, 39, 40, 99):
        scene.begin_descent(step)
        found.append(scene.rising.tolist())
    assert found == [[0.0, 100.0], [0.0, 100.0], [1000.0, 100.0], [1000.0, 100.0]]


def test_entropy_per_ray_does_not_depend_on_how_many_samples_are_skipped() -> None:
    """Twice as many empty samples beside the same object: the mean over them halves, that over 96 of each ray stays."""
    scene = Scene(large(regularizers__entropy=1.0), CPU)
    seen = rendered(scene, 0)
    more = torch.cat([seen.weights, torch.full_like(seen.weights, 1e-9)])
    mean = lambda weights, in_all: weight_entropy_loss(weights, in_all=in_all).item()  # noqa: E731
    in_all = 96 * seen.opacity.numel()
    assert mean(more, in_all) == pytest.approx(mean(seen.weights, in_all), rel=0.02)
    assert mean(more, 0) < 0.6 * mean(seen.weights, 0)
    with_it, without = (
        Scene(large(regularizers__entropy=weight, regularizers__smoothness=0.0), CPU) for weight in (1.0, 0.0)
    )
    losses = []
    for each in (with_it, without):
        each.begin_descent(0)
        losses.append(each._regularization(seen, torch.Generator().manual_seed(2)).item())
    assert losses[0] - losses[1] == pytest.approx(mean(seen.weights, in_all), rel=1e-2)


def test_the_first_pictures_for_stable_diffusion_are_filled_as_prolific_dreamers_are() -> None:
    """41 % more than half opaque: its blob (10, 0.5) from its cameras (1.25, 55 degrees), by integration."""
    scene = Scene(large(), CPU)
    opacity = scene_opacity(scene)
    assert (opacity > 0.5).float().mean().item() == pytest.approx(0.41, abs=0.03)


def scene_opacity(scene: Scene) -> Tensor:
    for _ in range(8):
        scene.occupancy.update(scene.field, 0, torch.Generator().manual_seed(0))
    white, black = (scene.picture(orbit(4, scene.config.cameras, CPU), 48, shade) for shade in (1.0, 0.0))
    return 1 - (white - black).mean(1)


def test_densities_are_noisy_in_training_pictures_alone() -> None:
    noisy, plain = Scene(large(), CPU), Scene(large(optimize__density_noise=0.0), CPU)
    assert torch.equal(noisy.picture(views(), 16), plain.picture(views(), 16))
    assert not torch.equal(rendered(noisy, 0).opacity, rendered(plain, 0).opacity)
    points = 2 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) - 1
    raw = lambda sigmas: sigmas + torch.log(-torch.expm1(-sigmas))  # noqa: E731
    added = raw(NoisyField(noisy.field, 0.5).density(points)) - raw(noisy.field.density(points))
    assert added.std().item() == pytest.approx(0.5, abs=0.03) and abs(added.mean().item()) < 0.03
