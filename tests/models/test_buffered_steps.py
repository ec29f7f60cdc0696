"""Steps of a scene in buffers of a fixed size: the same descent as in segments, overflow, and resuming."""

from dataclasses import replace

import pytest
import torch

from recdreamer.cameras import sample_cameras
from recdreamer.config import GenerateConfig
from recdreamer.models.radiance import Scene
from recdreamer.presets import resolve
from recdreamer.rendering.sample_capacity import SampleCapacity
from recdreamer.shared.protocol import JobRequest

CPU = torch.device("cpu")


def config(min_trans: float = 1e-3, smoothness: float = 100.0) -> GenerateConfig:
    whole = resolve(JobRequest("x", prior="builtin"))
    optimize = replace(whole.optimize, num_steps=40, num_views=2, render_px=16, background="learned")
    regularizers = replace(
        whole.regularizers, z_variance=1.0, smoothness=smoothness, color_smoothness=smoothness
    )
    field = replace(whole.field, log2_table_size=12, blob_density=30.0)
    render = replace(whole.render, min_trans=min_trans)
    return replace(whole, optimize=optimize, regularizers=regularizers, field=field, render=render)


def scene(
    buffered: bool, min_trans: float = 1e-3, smoothness: float = 100.0, said: list[str] | None = None
) -> Scene:
    """On a CPU buffers bring nothing but this test."""
    made = Scene(config(min_trans, smoothness), CPU)
    if buffered:
        made.capacity = SampleCapacity(2 * 16**2, CPU, (said if said is not None else []).append)
    return made


def run(one: Scene, steps: range) -> list[torch.Tensor]:
    """Steps towards a grey picture; returns the pictures."""
    pictures = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        cameras = sample_cameras(one.config.cameras, 2, generator, CPU)
        rendering = one.render(cameras, step, generator)
        pictures.append(rendering.rgb.detach())
        one.descend(rendering, rendering.rgb, 0.05 * (rendering.rgb.detach() - 0.4), step, generator)
    return pictures


def test_buffered_steps_descend_like_those_in_segments():
    """If no ray stops early, up to rounding. (Smoothness draws from the samples in their order, which differs.)"""
    segmented, buffered = scene(False, 0.0, 0.0), scene(True, 0.0, 0.0)
    for one, other in zip(run(segmented, range(3)), run(buffered, range(3)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    grads = [[value.grad for value in each.field.parameters()] for each in (segmented, buffered)]
    for grad, other in zip(*grads, strict=True):
        assert torch.nn.functional.cosine_similarity(grad.flatten(), other.flatten(), dim=0) > 0.9999


def test_rays_that_stop_lose_at_most_their_tolerance():
    exact, stopped = (run(scene(True, min_trans), range(1))[0] for min_trans in (0.0, 1e-2))
    assert 0 < (exact - stopped).abs().max() < 1e-2


def test_the_buffers_shrink_to_what_is_in_view():
    one = scene(True)
    assert one.capacity is not None
    start = one.capacity.size
    run(one, range(one.config.occupancy.interval + 1))
    assert one.capacity.size < start


def test_a_view_that_does_not_fit_is_coarser_then_there_is_room_and_it_is_said():
    said: list[str] = []
    one = scene(True, said=said)
    assert one.capacity is not None
    run(one, range(1))
    wanted = int(one.capacity.most)
    one.capacity.size = wanted // 2
    (coarse,) = run(one, range(1, 2))
    assert not said and coarse.isfinite().all()
    run(one, range(2, one.config.occupancy.interval + 1))
    assert one.capacity.size > wanted and len(said) == 1


def test_a_resumed_run_is_the_run_that_was_interrupted():
    whole, first, second = scene(True), scene(True), scene(True)
    interval = whole.config.occupancy.interval
    expected = run(whole, range(interval + 4))
    run(first, range(interval - 2))
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
    assert first.capacity and second.capacity and first.capacity.size == second.capacity.size
    for one, other in zip(
        run(second, range(interval - 2, interval + 4)), expected[interval - 2 :], strict=True
    ):
        assert torch.equal(one, other)


def test_grouped_haze_is_for_every_device_that_it_is_chosen_on():
    assert scene(False).capacity is None
    wide = replace(config(), field=replace(config().field, blob_density=3.0))
    wanted = []
    for steps in (2, 4):
        one = Scene(replace(wide, render=replace(wide.render, step_size=0.02, haze_steps=steps)), CPU)
        assert one.capacity is not None
        run(one, range(1))
        wanted.append(int(one.capacity.most))
    assert 0 < wanted[1] < 0.8 * wanted[0]


def test_a_checkpoint_without_a_capacity_loads():
    one, other = scene(False), scene(True)
    other.load(one.tensors())
    assert other.capacity is not None and other.capacity.size > 0


def test_an_empty_view_moves_nothing_but_is_finite():
    one = scene(True)
    run(one, range(1))
    one.occupancy.occupied.zero_()
    before = one.field.grid.table.detach().clone()
    one.occupancy.config = replace(one.occupancy.config, interval=1000)
    (picture,) = run(one, range(1, 2))
    assert picture.isfinite().all() and one.field.grid.table.isfinite().all()
    assert one.descent.first_bad_step == torch.inf
    # Adam's momentum moves it, the gradient is zero.
    assert one.field.grid.table.grad is not None and not one.field.grid.table.grad.any()
    assert before.shape == one.field.grid.table.shape


def test_the_first_step_that_is_not_finite_is_remembered_in_place():
    one = scene(True)
    memory = one.descent.first_bad_step
    weight = torch.ones((), requires_grad=True)
    for step, value in ((3, 1.0), (5, torch.nan), (7, torch.inf), (8, 1.0)):
        one.descent.begin(step)
        one.descent.move(weight * value)
    assert memory is one.descent.first_bad_step and memory.item() == 5


@pytest.mark.parametrize("buffered", [False, True])
def test_weights_of_regularizers_rise_with_the_steps(buffered):
    one = scene(buffered)
    one.begin_descent(10)
    weights = one.config.regularizers
    assert one.rising.tolist() == pytest.approx([weights.opaque / 4, weights.entropy / 4])
