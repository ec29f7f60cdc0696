"""The field in half precision against the same in single precision: values, gradients, and sums over many points."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from recdreamer.field import HashGrid, RadianceField, set_backend
from recdreamer.field.half_field_warp import RUN_POINTS, RUN_RESOLUTION, HalfField, make_kernels
from recdreamer.kernels import launch
from recdreamer.presets import EMBEDDED_FIELD

CONFIG = replace(EMBEDDED_FIELD, log2_table_size=13, max_resolution=256)
"""Dense and hashed levels, on both sides of the resolution at which runs end."""


@pytest.fixture(autouse=True)
def _warp():
    yield
    set_backend("warp")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fields(**settings) -> tuple[RadianceField, RadianceField]:
    """The same field in half and in single precision."""
    config = replace(CONFIG, **settings)
    half = RadianceField(replace(config, precision="half"), 0)
    single = RadianceField(replace(config, precision="single"), 0)
    with torch.no_grad():
        half.grid.table.normal_(0, 0.5, generator=seeded())
    single.load_state_dict(half.state_dict())
    return half, single


def along_rays(num_rays: int = 60) -> torch.Tensor:
    """Points one after another along rays, some outside the cube, as rendering brings them; no whole number of runs."""
    start = 2.2 * torch.rand(num_rays, 1, 3, generator=seeded(1)) - 1.1
    direction = F.normalize(torch.randn(num_rays, 1, 3, generator=seeded(2)), dim=-1)
    points = (start + direction * 0.01 * torch.arange(50)[:, None]).reshape(-1, 3)
    assert (len(points) - 3) % RUN_POINTS
    return points[:-3]


def grads_of(field: RadianceField, xyz: torch.Tensor, scale: float) -> list[torch.Tensor]:
    sigmas, rgbs = field(xyz)
    upstream = [scale * torch.randn(value.shape, generator=seeded(3)) for value in (sigmas, rgbs)]
    # Hidden points.
    for value in upstream:
        value[::3] = 0
    return list(torch.autograd.grad((sigmas, rgbs), list(field.parameters()), upstream))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return F.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0).item()


@pytest.mark.parametrize("features", [1, 2, 4])
def test_values_differ_by_the_rounding_of_halves(features):
    half, single = fields(features_per_level=features)
    for value, expected in zip(half(along_rays()), single(along_rays()), strict=True):
        torch.testing.assert_close(value, expected, atol=2e-3 * expected.abs().max().item(), rtol=0)
        assert not torch.equal(value, expected)
        assert value.dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("features", [1, 2, 4])
def test_gradients_agree_whatever_their_scale(features, scale):
    """1e-9 and 1e9 are beyond the range of halves."""
    half, single = fields(features_per_level=features)
    pairs = zip(grads_of(half, along_rays(), scale), grads_of(single, along_rays(), scale), strict=True)
    for grad, expected in pairs:
        assert cosine(grad, expected) > 0.999
        assert grad.norm().item() == pytest.approx(expected.norm().item(), rel=1e-2)


def test_a_small_step_against_the_gradient_has_the_slope_that_it_promises():
    """A finite difference in single precision along the gradient in half precision."""
    half, single = fields()
    xyz = along_rays()
    weights = [torch.rand(value.shape, generator=seeded(5)) for value in half(xyz)]

    def loss(field: RadianceField) -> torch.Tensor:
        return sum((w * value).sum() for w, value in zip(weights, field(xyz), strict=True))

    grads = torch.autograd.grad(loss(half), list(half.parameters()))
    slope = sum(grad.double().square().sum() for grad in grads).item()
    step = 1e-3 / slope**0.5
    ends = []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, grad in zip(single.parameters(), grads, strict=True):
                parameter.add_(sign * step * grad)
            ends.append(loss(single).item())
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("run", [1, RUN_POINTS])
@pytest.mark.parametrize("features", [1, 2, 4])
def test_the_scatter_is_the_transpose_of_the_encoding(features, run):
    """Exactly, for gradients that are halves: against autograd through the reference."""
    grid = HashGrid(4, features, 9, 4, 24, seeded())
    xyz = along_rays()
    grads = torch.randn(4 * features, len(xyz), generator=seeded(4)).half()
    grads[:, 5:9] = 0
    expected = torch.autograd.grad(grid.reference(xyz), grid.table, 0.5 * grads.float().T)[0]
    found = torch.zeros_like(grid.table)
    _, scatter = make_kernels(features)
    arguments = [xyz, grads, torch.tensor([0.5]), grid.level_weights, grid.layout]
    for first, last in ((0, 3), (3, 4)):
        launch(scatter, (last - first, -(-len(xyz) // run)), [*arguments, first, run, found])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_levels_that_are_not_shown_yet_get_no_gradient():
    half, _ = fields()
    half.grid.level_weights[3:] = 0
    grad = grads_of(half, along_rays(), 1.0)[0]
    start = half.grid.offsets[3]
    assert grad[:start].any() and not grad[start:].any()


def test_points_without_a_gradient_and_no_points_at_all():
    half, _ = fields()
    for xyz in (along_rays(), torch.zeros(0, 3)):
        sigmas, rgbs = half(xyz)
        grads = torch.autograd.grad((0 * sigmas).sum() + (0 * rgbs).sum(), list(half.parameters()))
        assert not any(grad.any() for grad in grads)


def test_a_gradient_that_is_not_finite_stays_so():
    half, _ = fields()
    grads = torch.autograd.grad((half(along_rays())[0] * torch.nan).sum(), list(half.parameters()))
    assert not any(grad.isfinite().all() for grad in grads[1:])


def test_sums_over_many_points_stay_within_range():
    """A hundred thousand equal gradients add up to more than a half can hold."""
    half, single = fields(num_levels=2)
    xyz = torch.zeros(100_000, 3) + 0.1
    results = [torch.autograd.grad(field(xyz)[0].sum(), list(field.parameters())) for field in (half, single)]
    assert max(grad.abs().max() for grad in results[1]) > 70_000
    for grad, expected in zip(*results, strict=True):
        torch.testing.assert_close(grad, expected, rtol=2e-2, atol=1e-2 * expected.abs().max().item())


def test_single_precision_is_for_the_cpu_and_for_gradients_of_positions():
    automatic = RadianceField(replace(CONFIG, precision="auto"), 0)
    half, _ = fields()
    xyz = along_rays()
    assert type(automatic(xyz)[0].grad_fn).__name__ != "HalfFieldBackward"
    assert type(half(xyz)[0].grad_fn).__name__ == f"{HalfField.__name__}Backward"
    xyz.requires_grad_()
    (normals,) = torch.autograd.grad(half(xyz)[0].sum(), xyz)
    assert normals.abs().max() > 0
    set_backend("torch")
    assert type(half(along_rays())[0].grad_fn).__name__ != "HalfFieldBackward"


def test_runs_shorten_what_is_written_only_where_samples_share_cells():
    """At the default step a cell of that resolution is as long as 1.5 samples."""
    assert 1.4 < 2 / RUN_RESOLUTION / 0.01 < 1.6
