"""Time one rendering step of the radiance field, whole and by part.

    python tools/bench_field.py --views 4 --size-px 64

Prints medians in milliseconds on one CPU thread (or on `--device cuda`), for the soft blob that every
run starts with and for a solid body as in the middle of a run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "backend"))

from recdreamer.cameras import CameraConfig, camera_rays, sample_cameras
from recdreamer.field import FieldConfig, OccupancyConfig, OccupancyGrid, RadianceField, set_backend
from recdreamer.rendering import RenderConfig, render
from recdreamer.rendering.composite import composite
from recdreamer.rendering.march import march

SCENES = {
    "start": FieldConfig(),
    "middle": FieldConfig(blob_density=60.0, blob_radius=0.65),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", choices=("auto", "warp", "torch"), default="auto")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--log2-table-size", type=int, default=FieldConfig.log2_table_size)
    parser.add_argument("--step-size", type=float, default=RenderConfig.step_size)
    parser.add_argument("--segment-samples", type=int, default=RenderConfig.segment_samples)
    parser.add_argument("--occupancy-resolution", type=int, default=OccupancyConfig.resolution)
    args = parser.parse_args()
    set_backend(args.backend)
    torch.set_num_threads(1)
    for name, config in SCENES.items():
        bench(name, config, args)


def bench(name: str, config: FieldConfig, args: argparse.Namespace) -> None:
    """One scene: the parts on the samples of a real picture, then the whole step."""
    device, generator = torch.device(args.device), torch.Generator().manual_seed(0)
    config = replace(config, log2_table_size=args.log2_table_size)
    settings = RenderConfig(step_size=args.step_size, segment_samples=args.segment_samples)
    field = RadianceField(config, seed=0).to(device)
    occupancy = OccupancyGrid(OccupancyConfig(resolution=args.occupancy_resolution)).to(device)
    for _ in range(4):
        occupancy.update(field, 0, generator)
    cameras = sample_cameras(CameraConfig(), args.views, generator, device)
    background = torch.full((args.views, 3), 0.5, device=device)
    size = args.size_px
    rays_o, rays_d = (rays.reshape(-1, 3) for rays in camera_rays(cameras, size, size))
    shifts = torch.full_like(rays_o[:, 0], 0.5)
    begins = torch.zeros_like(shifts, dtype=torch.int32)

    def median_ms(run: Callable[[], object]) -> float:
        times_s = []
        for _ in range(args.repeats + 2):
            if device.type == "cuda":
                torch.cuda.synchronize()
            begin_s = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times_s.append(time.perf_counter() - begin_s)
        return 1e3 * statistics.median(times_s[2:])

    def forward_and_backward_ms(run: Callable[[], torch.Tensor], inputs: list[torch.Tensor]) -> list[float]:
        out = run()
        grad = torch.randn_like(out)
        backward = median_ms(lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True))
        return [median_ms(run), backward]

    def picture() -> torch.Tensor:
        return render(field, occupancy, cameras, size, size, background, settings, generator).rgb

    rendering = render(field, occupancy, cameras, size, size, background, settings)
    xyz, (samples, _) = rendering.xyz, march(rays_o, rays_d, occupancy, args.step_size, shifts, begins, 100)
    encoded = field.grid(xyz).detach().requires_grad_()
    sigmas, rgbs = (out.detach().requires_grad_() for out in field(samples.xyz))
    network = [*field.hidden.parameters(), *field.head.parameters()]
    rows = {
        "march": [median_ms(lambda: march(rays_o, rays_d, occupancy, args.step_size, shifts, begins, 100))],
        "hash grid": forward_and_backward_ms(lambda: field.grid(xyz), [field.grid.table]),
        "network": forward_and_backward_ms(
            lambda: torch.cat([values.view(len(xyz), -1) for values in field.decode(encoded, xyz)], dim=-1),
            [encoded, *network],
        ),
        "composite": forward_and_backward_ms(lambda: composite(sigmas, rgbs, samples)[1], [sigmas, rgbs]),
        "whole step": forward_and_backward_ms(picture, [field.grid.table, *network]),
        "occupancy update / 16": [median_ms(lambda: occupancy.update(field, 1600, generator)) / 16],
    }
    print(
        f"\n{name}: {args.views} views of {size} x {size} px on {device}, "
        f"{len(xyz) / len(rays_o):.1f} samples per ray "
        f"({len(samples.xyz) / len(rays_o):.1f} without early stop), "
        f"{100 * occupancy.share:.0f} % of the cells occupied"
    )
    print(f"  {'ms (median)':22}{'forward':>9}{'backward':>9}")
    for label, times in rows.items():
        print(f"  {label:22}" + "".join(f"{value:9.1f}" for value in times))


if __name__ == "__main__":
    main()
