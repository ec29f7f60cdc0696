"""The Warp kernels on CUDA against the torch reference on the CPU: values and gradients."""

from dataclasses import replace

import pytest
import torch

from recdreamer.cameras import CameraConfig, sample_cameras
from recdreamer.field import HashGrid, OccupancyConfig, OccupancyGrid, RadianceField, set_backend
from recdreamer.presets import EMBEDDED_FIELD, EMBEDDED_RENDER
from recdreamer.rendering import Background, random_backgrounds, render
from recdreamer.rendering.composite import composite, composite_reference
from recdreamer.rendering.march import Samples, march, march_reference

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
    on_cuda = Samples(*(value.cuda() for value in vars(samples).values()))
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
