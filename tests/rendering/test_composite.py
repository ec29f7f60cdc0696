"""Compositing: closed forms, finite differences, and the Warp kernels against the torch reference."""

import math

import pytest
import torch

from recdreamer.rendering.composite import composite, composite_reference
from recdreamer.rendering.march import Samples


def packed(counts: list[int], dtype: torch.dtype = torch.float32) -> Samples:
    """Random intervals; rays without a sample included."""
    generator = torch.Generator().manual_seed(0)
    lengths = 0.02 + 0.1 * torch.rand(sum(counts), generator=generator, dtype=dtype)
    t_ends = 3 + lengths.cumsum(0)
    rays = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    counts_tensor = torch.tensor(counts, dtype=torch.int32)
    return Samples(
        counts_tensor, rays.to(torch.int32), t_ends - lengths, t_ends, torch.zeros(len(rays), 3, dtype=dtype)
    )


def values(samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    generator, like = torch.Generator().manual_seed(1), samples.t_starts
    sigmas = 8 * torch.rand(len(like), generator=generator, dtype=like.dtype)
    rgbs = torch.rand(len(like), 3, generator=generator, dtype=like.dtype)
    return sigmas.requires_grad_(), rgbs.requires_grad_()


@pytest.mark.parametrize("function", [composite, composite_reference])
def test_two_half_opaque_samples(function):
    samples = Samples(
        torch.tensor([2], dtype=torch.int32),
        torch.zeros(2, dtype=torch.int32),
        torch.tensor([0.0, 1.0]),
        torch.tensor([1.0, 2.0]),
        torch.zeros(2, 3),
    )
    rgbs = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    weights, rgb, opacity, depth = function(math.log(2) * torch.ones(2), rgbs, samples)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(rgb, torch.tensor([[0.5, 0.25, 0]]))
    torch.testing.assert_close(opacity, torch.tensor([0.75]))
    torch.testing.assert_close(depth, torch.tensor([0.5 * 0.5 + 0.25 * 1.5]))


@pytest.mark.parametrize("function", [composite, composite_reference])
def test_weights_add_up_to_the_opacity(function):
    samples = packed([3, 0, 20, 1, 0])
    weights, _, opacity, _ = function(*values(samples), samples)
    sums = torch.zeros(5).index_add(0, samples.ray_indices, weights)
    torch.testing.assert_close(sums, opacity)
    assert opacity[1] == 0
    assert 0.5 < opacity[2] < 1


def test_reference_gradients_agree_with_finite_differences():
    samples = packed([3, 0, 5, 1], torch.float64)
    assert torch.autograd.gradcheck(lambda *inputs: composite_reference(*inputs, samples), values(samples))


def test_warp_equals_the_reference():
    samples = packed([3, 0, 30, 1, 0, 12])
    results = []
    for function in (composite, composite_reference):
        inputs = values(samples)
        outputs = function(*inputs, samples)
        generator = torch.Generator().manual_seed(2)
        upstream = [torch.randn(out.shape, generator=generator) for out in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, inputs, upstream)])
    assert "Composite" in type(results[0][0].grad_fn).__name__
    for warp, reference in zip(*results, strict=True):
        torch.testing.assert_close(warp, reference, atol=2e-6, rtol=1e-4)
    # The comparison can fail: gradients of a slightly denser medium are told apart.
    assert not torch.allclose(results[0][-2], 1.001 * results[1][-2], atol=2e-6, rtol=1e-4)


def test_gradient_of_one_output_alone():
    samples = packed([4, 6])
    grads = []
    for function in (composite, composite_reference):
        sigmas, rgbs = values(samples)
        grads.append(torch.autograd.grad(function(sigmas, rgbs, samples)[2].sum(), sigmas)[0])
    torch.testing.assert_close(*grads, atol=2e-6, rtol=1e-4)


def test_opaque_matter_hides_what_is_behind():
    samples = packed([4])
    sigmas, rgbs = torch.tensor([0.0, 1e4, 5.0, 5.0]), torch.eye(4, 3)
    weights, _, opacity, _ = composite(sigmas, rgbs, samples)
    torch.testing.assert_close(weights, torch.tensor([0.0, 1, 0, 0]))
    assert opacity.item() == pytest.approx(1)


def padded(samples: Samples, count: int) -> Samples:
    places = (samples.ray_indices, samples.t_starts, samples.t_ends, samples.xyz)
    blanks = [value.new_zeros(count, *value.shape[1:]) for value in places]
    return Samples(samples.counts, *map(torch.cat, zip(places, blanks, strict=True)), True)


@pytest.mark.parametrize("function", [composite, composite_reference])
def test_padding_has_no_weight_and_no_gradient(function):
    samples = packed([3, 0, 20, 1, 0])
    longer = padded(samples, 6)
    sigmas, rgbs = values(longer)
    weights, *sums = function(sigmas, rgbs, longer)
    expected_weights, *expected = function(sigmas[:24], rgbs[:24], samples)
    assert torch.equal(weights[:24], expected_weights) and not weights[24:].any()
    assert all(torch.equal(one, other) for one, other in zip(sums, expected, strict=True))
    loss = weights.square().sum() + sum(value.square().sum() for value in sums)
    grads = torch.autograd.grad(loss, (sigmas, rgbs))
    assert all(grad[:24].any() and not grad[24:].any() for grad in grads)


@pytest.mark.parametrize("function", [composite, composite_reference])
def test_a_ray_stops_behind_the_sample_that_makes_it_opaque(function):
    """Halves: after three samples the transmittance is 1/8, below 0.2; the fourth is hidden, whatever it is."""
    ends = torch.arange(1.0, 7.0)
    counts, rays = (
        torch.tensor([4, 2], dtype=torch.int32),
        torch.tensor([0, 0, 0, 0, 1, 1], dtype=torch.int32),
    )
    samples = Samples(counts, rays, ends - 1, ends, torch.zeros(6, 3))
    sigmas, rgbs = math.log(2) * torch.ones(6), torch.rand(6, 3)
    sigmas[3] = 9.0
    sigmas, rgbs = sigmas.requires_grad_(), rgbs.requires_grad_()
    weights, rgb, opacity, _ = function(sigmas, rgbs, samples, 0.2)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.25, 0.125, 0.0, 0.5, 0.25]))
    torch.testing.assert_close(opacity, torch.tensor([0.875, 0.75]))
    torch.testing.assert_close(rgb[0], (weights[:3, None] * rgbs[:3]).sum(0))
    grads = torch.autograd.grad(weights.sum() + rgb.square().sum(), (sigmas, rgbs))
    assert all(not grad[3].any() and grad[2].any() for grad in grads)


def test_warp_equals_the_reference_where_rays_stop():
    samples = padded(packed([30, 0, 20, 1, 0, 40]), 9)
    results = []
    for function in (composite, composite_reference):
        inputs = values(samples)
        outputs = function(*inputs, samples, 0.05)
        upstream = [torch.randn(out.shape, generator=torch.Generator().manual_seed(3)) for out in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, inputs, upstream)])
    assert (results[0][0] == 0).sum() > 20
    for warp, reference in zip(*results, strict=True):
        torch.testing.assert_close(warp, reference, atol=1e-5, rtol=1e-4)


def test_gradients_of_stopped_rays_agree_with_finite_differences():
    samples = padded(packed([6, 0, 8], torch.float64), 3)
    assert torch.autograd.gradcheck(
        lambda *inputs: composite_reference(*inputs, samples, 0.3), values(samples)
    )
