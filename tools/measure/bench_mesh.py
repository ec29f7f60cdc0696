"""Times the steps from a field to the files of a textured mesh, and measures the peak memory.

    python tools/measure/bench_mesh.py --faces 10000 30000 100000 --texture-px 1024 2048 4096

Prints a Markdown table. Every row runs in a process of its own, whose largest resident size is the peak: Python and its
libraries, which need a third of a GiB, are in it. The figure is a bumpy one of nine balls, looked up in a grid, so
that the field itself costs little; `--normal-map` bakes its normals too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "backend"))

STEPS = ("extract", "unwrap", "bake", "normals", "report", "write")
BALLS = (
    (0.45, 0.0, 0.0, -0.3), (0.32, 0.0, -0.05, 0.4), (0.14, 0.22, 0.0, 0.68), (0.14, -0.22, 0.0, 0.68),
    (0.16, 0.5, -0.1, -0.1), (0.16, -0.5, -0.1, -0.1), (0.2, 0.25, -0.1, -0.75), (0.2, -0.25, -0.1, -0.75),
    (0.1, 0.0, -0.38, 0.35),
)  # fmt: skip
"""Radius and centre, in scene units: body, head, ears, arms, feet, nose."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--texture-px", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument(
        "--resolution", type=int, default=256, help="marching cubes cells along the longest side"
    )
    parser.add_argument("--normal-map", action="store_true")
    parser.add_argument("--json", action="store_true", help="run one case here and print it as JSON")
    args = parser.parse_args()
    if args.json:
        print(json.dumps(measure(args.faces[0], args.texture_px[0], args.resolution, args.normal_map)))
        return
    columns = ("faces", "texture px", *(f"{step} s" for step in STEPS), "all s", "CPU s", "peak GiB")
    quality = ("islands", "use", "L2", "worst angle", "seam p99", "seam max")
    print("| " + " | ".join((*columns, *quality)) + " |")
    print("|" + "---:|" * len((*columns, *quality)))
    for faces in args.faces:
        for size_px in args.texture_px:
            print_row(run_alone(faces, size_px, args.resolution, args.normal_map))


def run_alone(faces: int, size_px: int, resolution: int, normal_map: bool) -> dict:
    """One case in a fresh process."""
    command = [sys.executable, __file__, "--json", "--faces", str(faces), "--texture-px", str(size_px)]
    command += ["--resolution", str(resolution)] + ["--normal-map"] * normal_map
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_row(case: dict) -> None:
    seconds = case["seconds"]
    cells = [f"{case['faces']:,}", str(case["texture_size_px"])]
    cells += [f"{seconds[step]:.1f}" for step in STEPS]
    cells += [f"{sum(seconds.values()):.1f}", f"{case['cpu_s']:.1f}", f"{case['peak_gib']:.2f}"]
    cells += [str(case["uv_islands"]), f"{case['texture_use']:.0%}", f"{case['uv_stretch']['l2']:.3f}"]
    cells += [f"{case['uv_stretch']['angle_max']:.2f}"]
    cells += [f"{case['seam_error'][name]:.4f}" for name in ("p99", "max")]
    print("| " + " | ".join(cells) + " |", flush=True)


def measure(faces: int, size_px: int, resolution: int, normal_map: bool) -> dict:
    """Report of one mesh with seconds per step, CPU seconds and the peak of this process."""
    import torch

    from recdreamer.mesh import (
        MeshConfig,
        bake_color,
        bake_normal_map,
        extract_mesh,
        find_surface,
        level_set_normals,
        mesh_report,
        normal_map_size,
        stand_on_origin,
        unwrap,
        write_mesh,
    )
    from recdreamer.mesh.extract import cell_size

    density = figure_density()

    def shade(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        return (0.5 + 0.3 * torch.sin(12 * points) + 0.1 * normals).clamp(0, 1)

    config = MeshConfig(resolution=resolution, target_faces=faces, texture_size_px=size_px)
    laps = [time.perf_counter()]
    cpu = time.process_time()
    level = find_surface(density, config)
    mesh = extract_mesh(density, config, level=level)
    laps.append(time.perf_counter())
    mesh, islands = unwrap(mesh, config)
    laps.append(time.perf_counter())
    texture = bake_color(mesh, shade, texture_size_px=size_px)
    laps.append(time.perf_counter())
    normals = None
    if normal_map:
        normal_at = level_set_normals(density, level.threshold, cell_size(level, config))
        normals = bake_normal_map(mesh, normal_at, texture_size_px=normal_map_size(config)).tiles
    laps.append(time.perf_counter())
    mesh = stand_on_origin(mesh, 1.8)
    report = mesh_report(mesh, texture)
    laps.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        write_mesh(Path(folder), mesh, texture.tiles, normals)
    laps.append(time.perf_counter())
    seconds = dict(zip(STEPS, (end - begin for begin, end in itertools.pairwise(laps)), strict=True))
    used = {"seconds": seconds, "cpu_s": time.process_time() - cpu, "peak_gib": peak_gib()}
    return report | used | {"uv_islands": islands}


def peak_gib() -> float:
    """Peak resident size of this process, or of its parent, which imports almost nothing."""
    import resource

    per_gib = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_gib


def figure_density():
    """Density of the figure at points of the cube [-1, 1]^3."""
    import torch

    axis = torch.linspace(-1, 1, 160)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = torch.full_like(x, -torch.inf)
    for radius, a, b, c in BALLS:
        distance = torch.sqrt((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2)
        inside = torch.logaddexp(inside, 30 * (radius - distance))
    inside /= 30
    inside += 0.012 * torch.sin(25 * x) * torch.sin(23 * y) * torch.sin(27 * z)
    volume = (80 * torch.sigmoid(inside / 0.02))[None, None]

    def density(xyz: torch.Tensor) -> torch.Tensor:
        grid = xyz.reshape(1, -1, 1, 1, 3)
        return torch.nn.functional.grid_sample(volume, grid, align_corners=True).reshape(-1)

    return density


if __name__ == "__main__":
    main()
