"""Prompts × methods × seeds through all three stages, and each mesh judged by the true figure after each stage.

    python tools/compare_meshes.py --out out/meshes --workers 2

A job folder for each run; beside it one for its first and one for its first two stages, which take over what the run
has made so far. What is finished is not repeated. Writes table.md, table.json and sheet.png.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from recdreamer.protocol import JobFolder, JobRequest, write_atomically

from compare_methods import METHODS, save_sheet

STAGES = ("shape", "geometry", "texture")
COLUMNS = (
    "run, stages", "Chamfer", "F 2 %", "normals", "PSNR", "fronts", "faces", "tight", "triangles", "stretch",
    "seam p99", "s",
)  # fmt: skip


def run(folder: Path, threads: int, judged: bool) -> None:
    """Run a job and judge its mesh; of a whole run, judge the consistency of its field, too."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    recdreamer = [sys.executable, "-m", "recdreamer"]
    for command in (["run"], ["evaluate", "mesh"], *([["evaluate", "job"]] if judged else [])):
        with (folder / "tool-log.txt").open("a") as log:
            subprocess.run(
                [*recdreamer, *command, folder], env=environment, stdout=log, stderr=log, check=False
            )


def part_of(whole: Path, count: int) -> Path:
    """A job of the first `count` stages of a finished one, with its checkpoints of these."""
    folder = whole.with_name(f"{whole.name}_{count}")
    stages = STAGES[:count]
    if (whole / "templates").exists():  # Other methods than USD have none.
        shutil.copytree(whole / "templates", folder / "templates", dirs_exist_ok=True)
    for path in (whole / "checkpoints").glob("*-final"):
        if path.name.split("-")[0] in stages:
            shutil.copytree(path, folder / "checkpoints" / path.name, dirs_exist_ok=True)
    request = replace(JobFolder(whole).read_request(), stages=stages)
    write_atomically(folder / "job.json", request.to_json())
    return folder


def is_judged(folder: Path) -> bool:
    return "geometry" in report_of(folder)


def report_of(folder: Path) -> dict[str, Any]:
    path = folder / "result" / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def row_of(folder: Path) -> tuple[str, ...]:
    report = report_of(folder)
    found, mesh = report["geometry"], report["meshes"][0]
    best = found["best_yaw"]
    return (
        f"{folder.name}, {', '.join(report['stages'])}", f"{best['chamfer']:.4f}", f"{best['f_score']:.3f}",
        f"{best['normal_consistency']:.3f}", f"{best['psnr_db']:.1f}",
        str(report.get("oracle", {}).get("fronts", "")), str(mesh["faces"]),
        "yes" if mesh["is_watertight"] else "no", f"{found['triangles']['quality_mean']:.2f}",
        f"{mesh['uv_stretch']['l2']:.3f}", f"{mesh['seam_error']['p99']:.4f}",
        f"{sum(report['seconds'].values()):.0f}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/meshes"))
    parser.add_argument(
        "--prompts", nargs="+", default=["a red bear", "a blue bird", "a yellow robot", "a purple rabbit"]
    )
    parser.add_argument("--methods", nargs="+", default=["usd-camera", "vsd"], choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    options = parser.parse_args()

    def launch(cell: tuple[str, int, str]) -> list[Path]:
        prompt, seed, method = cell
        whole = options.out / f"{method}_{prompt.replace(' ', '-')}_{seed}"
        if not (whole / "job.json").exists():
            request = replace(JobRequest(prompt, seed=seed, device=options.device), **METHODS[method])
            write_atomically(whole / "job.json", request.to_json())
        if not is_judged(whole):
            run(whole, options.threads, judged=True)
        parts = [part_of(whole, count) for count in (1, 2)] if is_judged(whole) else []
        for part in parts:
            if not is_judged(part):
                run(part, options.threads, judged=False)
        print(f"{whole.name}: {'done' if is_judged(whole) else 'failed, see its tool-log.txt'}", flush=True)
        return [*parts, whole]

    with ThreadPoolExecutor(options.workers) as pool:
        cells = product(options.prompts, options.seeds, options.methods)
        folders = [folder for found in pool.map(launch, cells) for folder in found if is_judged(folder)]
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(row_of(folder))} |" for folder in folders]
    write_atomically(options.out / "table.md", "\n".join(lines) + "\n")
    reports = {folder.name: report_of(folder) for folder in folders}
    write_atomically(options.out / "table.json", json.dumps(reports, indent=2))
    print("\n".join(lines))
    save_sheet({f.name: f / "result" / "mesh-sheet.png" for f in folders}, options.out / "sheet.png")


if __name__ == "__main__":
    main()
