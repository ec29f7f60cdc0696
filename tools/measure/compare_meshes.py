"""Runs prompts × methods × seeds through all three stages, and compares the mesh after each stage with the true figure.

    python tools/measure/compare_meshes.py --out out/meshes --workers 2

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
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from recdreamer.evaluation.job_runs import METHODS, save_named_sheet
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically

STAGES = ("shape", "geometry", "texture")
FORMATS = {
    "Chamfer": ".4f", "F 2 %": ".3f", "normals": ".3f", "PSNR": ".1f", "one front": ".0%", "faces": ".0f",
    "tight": ".0%", "triangles": ".2f", "stretch": ".3f", "seam p99": ".4f", "seam max": ".3f", "s": ".0f",
}  # fmt: skip
"""Columns of the tables. Consistency is measured on whole runs only."""


def run(folder: Path, threads: int, judged: bool) -> None:
    """Run a job and evaluate its mesh, and for whole runs also the consistency of its field."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    recdreamer = [sys.executable, "-m", "recdreamer"]
    for command in (["run"], ["evaluate", "mesh"], *([["evaluate", "job"]] if judged else [])):
        with (folder / "tool-log.txt").open("a") as log:
            subprocess.run(
                [*recdreamer, *command, folder], env=environment, stdout=log, stderr=log, check=False
            )


def part_of(whole: Path, count: int) -> Path:
    """A job with the first `count` stages of a finished job, and their checkpoints."""
    folder = whole.with_name(f"{whole.name}_{count}")
    stages = STAGES[:count]
    if (whole / "templates").exists():  # Only USD has templates.
        shutil.copytree(whole / "templates", folder / "templates", dirs_exist_ok=True)
    for path in (whole / "checkpoints").glob("*-final"):
        if path.name.split("-")[0] in stages:
            shutil.copytree(path, folder / "checkpoints" / path.name, dirs_exist_ok=True)
    request = replace(JobFolder(whole).read_request(), stages=stages)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "job.json", request.to_json())
    return folder


def is_judged(folder: Path) -> bool:
    return "geometry" in report_of(folder)


def report_of(folder: Path) -> dict[str, Any]:
    path = folder / "result" / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def numbers_of(folder: Path) -> dict[str, float]:
    report = report_of(folder)
    found, mesh = report["geometry"], report["meshes"][0]
    best, numbers = found["best_yaw"], {}
    if "oracle" in report:
        numbers["one front"] = report["oracle"]["fronts"] == 1
    return numbers | {
        "Chamfer": best["chamfer"], "F 2 %": best["f_score"], "normals": best["normal_consistency"],
        "PSNR": best["psnr_db"], "faces": mesh["faces"], "tight": mesh["is_watertight"],
        "triangles": found["triangles"]["quality_mean"], "stretch": mesh["uv_stretch"]["l2"],
        "seam p99": mesh["seam_error"]["p99"], "seam max": mesh["seam_error"]["max"],
        "s": sum(report["seconds"].values()),
    }  # fmt: skip


def table_of(rows: dict[str, list[dict[str, float]]]) -> str:
    """Means of the columns of each group, in Markdown."""
    lines = [f"| | {' | '.join(FORMATS)} |", f"|{'---|' * (len(FORMATS) + 1)}"]
    for name, runs in rows.items():
        cells = []
        for column, form in FORMATS.items():
            values = [run[column] for run in runs if column in run]
            cells.append(format(fmean(values), form) if values else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def grouped(folders: list[Path], name_of: Callable[[Path, str], str]) -> dict[str, list[dict[str, float]]]:
    """Results of the runs, grouped by the name that `name_of` gives to a folder and its stages."""
    groups = defaultdict(list)
    for folder in folders:
        groups[name_of(folder, ", ".join(report_of(folder)["stages"]))].append(numbers_of(folder))
    return groups


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
            whole.mkdir(parents=True, exist_ok=True)
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
    tables = {
        "table.md": grouped(folders, lambda folder, stages: f"{folder.name}, {stages}"),
        "prompts.md": grouped(
            folders, lambda folder, stages: f"{'_'.join(folder.name.split('_')[:2])}, {stages}"
        ),
        "stages.md": grouped(folders, lambda folder, stages: f"{folder.name.split('_')[0]}, {stages}"),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        write_atomically(options.out / name, table_of(rows))
        print(f"{name}\n{table_of(rows)}")
    reports = {folder.name: report_of(folder) for folder in folders}
    write_atomically(options.out / "table.json", json.dumps(reports, indent=2))
    save_named_sheet({f.name: f / "result" / "mesh-sheet.png" for f in folders}, options.out / "sheet.png")


if __name__ == "__main__":
    main()
