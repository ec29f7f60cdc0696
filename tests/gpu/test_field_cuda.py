"""The Warp kernels on CUDA against the torch reference on the CPU: values and gradients."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from recdreamer.cameras import CameraConfig, camera_rays, orbit, sample_cameras
from recdreamer.field import HashGrid, OccupancyConfig, OccupancyGrid, RadianceField, set_backend
from recdreamer.graphs import CudaGraph
from recdreamer.models.radiance import Scene
from recdreamer.models.recorded_scene import RecordedScene
from recdreamer.presets import EMBEDDED_FIELD, EMBEDDED_RENDER, resolve
from recdreamer.rendering import Background, random_backgrounds, render
from recdreamer.rendering.composite import composite, composite_reference
from recdreamer.rendering.march import Samples, march, march_reference
from recdreamer.shared.protocol import JobRequest

from .no_waits import no_waits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


@pytest.fixture(autouse=True)
def _warp():
    set_backend("warp")
    yield
    set_backend("warp")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("features", [1, 2, 4])
def test_hash_grid(features):
    grid = HashGrid(4, features, 9, 4, 24, seeded())
    with torch.no_grad():
        grid.table.normal_(generator=seeded())
    xyz = 2.4 * torch.rand(5000, 3, generator=seeded()) - 1.2
    upstream = torch.randn(5000, 4 * features, generator=seeded())
    expected = grid.reference(xyz)
    expected_grad = torch.autograd.grad(expected, grid.table, upstream)[0]
    grid = grid.cuda()
    encoded = grid(xyz.cuda())
    grad = torch.autograd.grad(encoded, grid.table, upstream.cuda())[0]
    torch.testing.assert_close(encoded.cpu(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grad.cpu(), expected_grad, atol=1e-3, rtol=1e-3)


def test_march():
    rays_o = torch.tensor([[0.0, -4.0, 0.0]]).expand(2000, 3).contiguous()
    targets = 2.4 * torch.rand(2000, 3, generator=seeded()) - 1.2
    rays_d = torch.nn.functional.normalize(targets - rays_o, dim=-1)
    occupancy = OccupancyGrid(OccupancyConfig(resolution=8))
    occupancy.occupied.copy_(torch.rand(8, 8, 8, generator=seeded()) < 0.5)
    shifts, begins = torch.rand(2000, generator=seeded()), torch.zeros(2000, dtype=torch.int32)
    reference, goes_on = march_reference(rays_o, rays_d, occupancy, 0.05, shifts, begins, 10)
    samples, warp_goes_on = march(
        rays_o.cuda(), rays_d.cuda(), occupancy.cuda(), 0.05, shifts.cuda(), begins.cuda(), 10
    )
    # A sample on a cell border may fall to either side in float32.
    same = samples.counts.cpu() == reference.counts
    assert same.float().mean() > 0.98
    assert (warp_goes_on.cpu()[same] == goes_on[same]).float().mean() > 0.98


def test_composite():
    counts = torch.randint(0, 20, (500,), generator=seeded(), dtype=torch.int32)
    rays = torch.arange(500, dtype=torch.int32).repeat_interleave(counts)
    lengths = 0.1 * torch.rand(len(rays), generator=seeded())
    t_ends = 3 + 0.01 * lengths.cumsum(0)
    samples = Samples(counts, rays, t_ends - lengths, t_ends, torch.zeros(len(rays), 3))
    on_cuda = Samples(*(value.cuda() for value in vars(samples).values() if isinstance(value, torch.Tensor)))
    sigmas = (8 * torch.rand(len(rays), generator=seeded())).requires_grad_()
    rgbs = torch.rand(len(rays), 3, generator=seeded()).requires_grad_()
    expected = composite_reference(sigmas, rgbs, samples)
    outputs = composite(sigmas.cuda(), rgbs.cuda(), on_cuda)
    upstream = [torch.randn(out.shape, generator=seeded()) for out in expected]
    expected_grads = torch.autograd.grad(expected, (sigmas, rgbs), upstream)
    grads = torch.autograd.grad(outputs, (sigmas, rgbs), [value.cuda() for value in upstream])
    for value, reference in zip([*outputs, *grads], [*expected, *expected_grads], strict=True):
        torch.testing.assert_close(value.cpu(), reference, atol=1e-5, rtol=1e-4)


def scene(device: str) -> tuple[RadianceField, OccupancyGrid]:
    field = RadianceField(replace(EMBEDDED_FIELD, log2_table_size=12), 0)
    with torch.no_grad():
        field.grid.table.normal_(0, 0.3, generator=seeded())
    return field.to(device), OccupancyGrid(OccupancyConfig()).to(device)


def test_a_whole_picture_and_its_gradient():
    results = []
    for device, backend in [("cuda", "warp"), ("cuda", "torch"), ("cpu", "torch")]:
        set_backend(backend)
        field, occupancy = scene(device)
        cameras = sample_cameras(CameraConfig(), 3, seeded(), device)
        grounds = random_backgrounds(3, seeded(), device, (0.4, 1.0), 0.1)
        rendering = render(field, occupancy, cameras, 24, 24, grounds, EMBEDDED_RENDER, seeded())
        (rendering.rgb.square().sum() + rendering.weights.square().sum()).backward()
        grads = [value.grad for value in field.parameters()]
        results.append([value.cpu() for value in [rendering.rgb, rendering.opacity, *grads]])
    warp, *others = results
    for other in others:
        for value, reference in zip(warp, other, strict=True):
            scale = reference.abs().max().item()
            torch.testing.assert_close(value, reference, atol=5e-3 * scale, rtol=0)


def test_kernels_run_on_torchs_current_stream():
    field, occupancy = scene("cuda")
    cameras, grounds = sample_cameras(CameraConfig(), 2, seeded(), "cuda"), torch.zeros(2, 3, device="cuda")
    # No graph of the other stream is kept alive, which torch would warn of.
    with torch.no_grad():
        expected = render(field, occupancy, cameras, 32, 32, grounds, EMBEDDED_RENDER).rgb
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # Work that the kernels must wait for, on this stream alone.
        busy = torch.randn(4000, 4000, device="cuda")
        for _ in range(10):
            busy = busy @ busy / 4000
        moved = grounds + 0 * busy[0, 0].nan_to_num(0)
        rgb = render(field, occupancy, cameras, 32, 32, moved, EMBEDDED_RENDER).rgb
        rgb.sum().backward()
    stream.synchronize()
    torch.testing.assert_close(rgb, expected, atol=1e-5, rtol=0)


def test_occupancy_update_and_a_learned_background():
    field, occupancy = scene("cuda")
    for step in range(0, 256, 16):
        occupancy.update(field, step, torch.Generator().manual_seed(step))
    assert 0.05 < occupancy.share < 0.9
    rays_d = torch.nn.functional.normalize(torch.randn(1, 8, 8, 3, device="cuda"), dim=-1)
    assert Background(0).cuda()(rays_d).device.type == "cuda"


def test_the_field_in_half_precision():
    """Values and gradients on CUDA against single precision on the CPU, at scales beyond the range of halves."""
    config = replace(EMBEDDED_FIELD, log2_table_size=13, max_resolution=256)
    start = torch.rand(300, 1, 3, generator=seeded()) * 2 - 1
    steps = 0.01 * torch.arange(40)[:, None] * torch.nn.functional.normalize(start, dim=-1)
    xyz = (start - steps).reshape(-1, 3)
    for scale in (1e-9, 1.0, 1e9):
        results = []
        for device, precision in (("cpu", "single"), ("cuda", "half"), ("cuda", "single")):
            field = RadianceField(replace(config, precision=precision), 0)
            with torch.no_grad():
                field.grid.table.normal_(0, 0.5, generator=seeded())
            field.to(device)
            values = field(xyz.to(device))
            upstream = [scale * torch.randn(value.shape, generator=seeded()).to(device) for value in values]
            grads = torch.autograd.grad(values, list(field.parameters()), upstream)
            results.append([value.detach().cpu() for value in (*values, *grads)])
        expected, *others = results
        for found in others:
            for value, reference in zip(found, expected, strict=True):
                cosine = torch.nn.functional.cosine_similarity(value.flatten(), reference.flatten(), dim=0)
                assert cosine > 0.999
                assert (value.norm() / reference.norm() - 1).abs() < 0.01


@pytest.mark.parametrize("share", [1.2, 0.6])
def test_buffers_of_a_fixed_size(share):
    """The same samples as on the CPU, also where they do not fit and lie farther apart."""
    from recdreamer.rendering.march_buffered import march_buffered

    cameras = sample_cameras(CameraConfig(), 2, seeded(), "cpu")
    rays = [values.reshape(-1, 3) for values in camera_rays(cameras, 24, 24)]
    occupancy, shifts = (
        OccupancyGrid(OccupancyConfig(resolution=8)),
        torch.rand(2 * 24**2, generator=seeded()),
    )
    occupancy.occupied.copy_(torch.rand(8, 8, 8, generator=seeded()) < 0.5)
    capacity = int(share * int(march_buffered(*rays, occupancy, 0.05, shifts, 1)[1]))
    expected, wanted = march_buffered(*rays, occupancy, 0.05, shifts, capacity)
    on_cuda = [values.cuda() for values in rays]
    samples, wanted_there = march_buffered(*on_cuda, occupancy.cuda(), 0.05, shifts.cuda(), capacity)
    assert abs(int(wanted_there) - int(wanted)) < 0.01 * int(wanted)
    assert (samples.counts.cpu() == expected.counts).float().mean() > 0.98
    assert len(samples.xyz) == capacity and not samples.xyz[int(samples.counts.sum()) :].any()


def small_scene(device: str = "cuda", **overrides: Any) -> Scene:
    small = {"optimize.render_px": 32, "optimize.num_steps": 200, "field.log2_table_size": 14}
    request = JobRequest("x", prior="any", overrides=small | overrides)
    return Scene(resolve(request), torch.device(device))


def one_step(
    scene: Scene, step: int, generator: torch.Generator | None = None, theta: Any = None
) -> torch.Tensor:
    """A step towards gray. `theta` may be a recording of the scene, which needs the same generator in all steps."""
    theta, generator = theta or scene, (generator or torch.Generator("cuda")).manual_seed(step)
    cameras = sample_cameras(scene.config.cameras, 1, generator, scene.device)
    rendering = theta.render(cameras, step, generator)
    rgb = rendering.rgb
    theta.descend(rendering, rgb, 0.05 * (rgb.detach() - 0.4), step, generator)
    return rgb.detach()


@pytest.mark.parametrize(
    ("azimuth_probs", "start_size"), [([], 1024 * 32**2), ([0.1, 0.6, 0.15, 0.15], 1024)]
)
def test_no_step_waits_not_even_where_occupancy_and_capacity_change(azimuth_probs, start_size):
    """Buffers that are far too large shrink, and those that are far too small grow."""
    scene = small_scene(**{"cameras.azimuth_probs": azimuth_probs})
    assert scene.capacity is not None
    scene.capacity.size = start_size
    for step in range(2):
        one_step(scene, step)
    torch.cuda.synchronize()
    with no_waits():
        # While all cells of the occupancy are due, and later.
        for step in (*range(2, 36), *range(143, 146)):
            one_step(scene, step)
    assert 8 * 32**2 < scene.capacity.size < 512 * 32**2
    assert scene.descent.first_bad_step == torch.inf


def looks_before_and_after(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Views around the field before and after it moved towards grey, with the same draws on every device.

    Without regularizers: smoothness draws from the samples in their order, which differs.
    """
    names = ("sparsity", "opaque", "entropy", "smoothness", "color_smoothness")
    off = {f"regularizers.{name}": 0.0 for name in names}
    sizes = {"optimize.render_px": 16, "render.step_size": 0.02, "optimize.background": "plain"}
    scene = small_scene(device, **off, **sizes)
    around = orbit(4, scene.config.cameras, torch.device(device))
    before = scene.picture(around, 32, brightness=1.0)
    for step in range(40):
        one_step(scene, step, torch.Generator())
    return before.cpu(), scene.picture(around, 32, brightness=1.0).cpu()


def test_steps_on_cuda_move_the_field_like_those_on_the_cpu():
    """Half precision, buffers and an optimizer in one kernel, against single precision in segments."""
    (start, expected), (other_start, found) = (looks_before_and_after(device) for device in ("cpu", "cuda"))
    torch.testing.assert_close(other_start, start, atol=1e-2, rtol=0)
    moved = (expected - start).abs().mean()
    assert moved > 0.05 and (expected - 0.4).abs().mean() < (start - 0.4).abs().mean()
    assert (found - expected).abs().mean() < 0.05 * moved


def test_recorded_steps_are_the_steps():
    """Recorded anew whenever the buffers change their size, and as near to written steps as those to themselves."""
    written, again, recorded = scenes = [small_scene() for _ in range(3)]
    for scene in scenes:
        assert scene.capacity is not None
        scene.capacity.size = 4096  # They grow.
    troubles: list[RuntimeError] = []
    theta, generator = RecordedScene(recorded, CudaGraph, troubles.append), torch.Generator("cuda")
    around = orbit(4, written.config.cameras, torch.device("cuda"))
    start, sizes, replayed = written.picture(around, 32), set(), 0
    for step in range(80):
        expected, found = one_step(written, step), one_step(recorded, step, generator, theta)
        one_step(again, step)
        sizes.add(theta.size)
        replayed += theta.view is not None
        # Sums of floats in any order, and Adam's division by tiny gradients.
        torch.testing.assert_close(found, expected, atol=5e-2, rtol=0)
    assert not troubles and isinstance(theta.view, CudaGraph) and isinstance(theta.move, CudaGraph)
    assert len(sizes) > 1 and replayed > 60
    expected, repeated, found = (scene.picture(around, 32) for scene in (written, again, recorded))
    moved = (expected - start).abs().mean()
    assert moved > 0.05
    assert (found - expected).abs().mean() < 5 * (repeated - expected).abs().mean() + 1e-3 * moved
    assert recorded.descent.first_bad_step == torch.inf
