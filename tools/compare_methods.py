"""Run methods × prompts × seeds on the embedded world and judge them by the oracle.

    python tools/compare_methods.py --out out/compare --workers 2

Writes a job folder for each run, table.md, table.json and a contact sheet for each prompt. Runs that are
finished are not repeated. Only the first stage is run: it decides the geometry.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

METHODS = {
    **{name: {"method": name} for name in ("sds", "debiased_sds", "perp_neg", "sds_bridge", "vsd", "esd")},
    "usd-marginal": {"method": "usd", "pose_mode": "marginal"},
    "usd-camera": {"method": "usd", "pose_mode": "camera"},
}


class PrintReport:
    """Says now and then how far a run is."""

    def __init__(self, name: str) -> None:
        self.name, self.started = name, time.monotonic()

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None: ...

    def progress(self, step: int, total: int) -> None:
        if step % max(1, total // 5) == 0:
            print(f"{self.name}: {step}/{total} after {time.monotonic() - self.started:.0f} s", flush=True)

    def preview(self, path: Path) -> None: ...

    def pose_distribution(self, probs: dict[str, float]) -> None: ...

    def metric(self, name: str, value: float) -> None: ...

    def warning(self, message: str) -> None:
        print(f"{self.name}: {message}", flush=True)


def run_one(folder: Path) -> None:
    """The first stage of the job in `folder`, judged."""
    import torch

    from recdreamer.config import resolve
    from recdreamer.evaluation.judge import judge
    from recdreamer.generate import choose_device
    from recdreamer.guide import prepare_guide
    from recdreamer.prior.diffusion import DiffusionPrior
    from recdreamer.protocol import JobFolder
    from recdreamer.shape import shape_stage

    job, report = JobFolder(folder), PrintReport(folder.name)
    config = resolve(job.read_request())
    device = choose_device(config.device)
    prior = DiffusionPrior.load(config.prior, device, torch.float32)
    guide = prepare_guide(job, config, prior)
    _, seconds = shape_stage(job, config, prior, guide, device, report)
    found = judge(job).as_dict() | {
        "seconds": seconds,
        "steps": config.optimize.num_steps,
        "device": str(device),
    }
    (folder / "row.json").write_text(json.dumps(found, indent=2))
    print(f"{folder.name}: entropy {found['pose_entropy']:.3f} agreement {found['azimuth_agreement']:.2f} "
          f"({found['agreement_unrotated']:.2f}) fronts {found['fronts']} in {seconds:.0f} s", flush=True)  # fmt: skip


def main() -> None:
    from recdreamer.pose.templates import templates_in
    from recdreamer.protocol import JobRequest, write_atomically

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/compare"))
    parser.add_argument("--prompts", nargs="+", default=["a red bear", "a blue bird"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--set", nargs="*", default=[], help="settings, as optimize.num_steps=300", dest="settings"
    )
    parser.add_argument(
        "--variants", type=Path, help="JSON file: name -> settings, each run with every method"
    )
    parser.add_argument(
        "--templates",
        type=Path,
        nargs="*",
        default=[],
        help="folders, each with a folder of pictures for each prompt",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    parser.add_argument("--job", type=Path, help="run this one job folder and stop")
    options = parser.parse_args()
    if options.job:
        run_one(options.job)
        return

    common = {name: json.loads(value) for name, value in (item.split("=", 1) for item in options.settings)}
    variants = json.loads(options.variants.read_text()) if options.variants else {"": {}}
    folders = []
    cells = product(options.templates or [None], variants, options.prompts, options.seeds, options.methods)
    for source, variant, prompt, seed, method in cells:
        slug = prompt.replace(" ", "-")
        name = "_".join(filter(None, (source and source.name, variant, method, slug, str(seed))))
        request = JobRequest(prompt, seed=seed, device=options.device, overrides=common | variants[variant])
        templates = ()
        if source is not None:
            templates = tuple(
                replace(template, image=str((source / slug / template.image).absolute()))
                for template in templates_in(source / slug)
            )
        request = replace(request, templates=templates, **METHODS[method])
        folders.append(options.out / name)
        write_atomically(folders[-1] / "job.json", request.to_json())

    def launch(folder: Path) -> None:
        if not (folder / "row.json").exists():
            environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
            with (folder / "log.txt").open("w") as log:
                command = [sys.executable, __file__, "--job", folder]
                subprocess.run(command, env=environment, stderr=log, check=False)

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(launch, folders))
    write_tables(options.out, folders)


def write_tables(out: Path, folders: list[Path]) -> None:
    """table.md and table.json of all runs, and one sheet with the contact sheets of all."""
    rows = {f.name: json.loads((f / "row.json").read_text()) for f in folders if (f / "row.json").exists()}
    (out / "table.json").write_text(json.dumps(rows, indent=2))
    lines = ["| run | entropy / ln 4 | agreement | unrotated | fronts | s |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['pose_entropy']:.3f} | {row['azimuth_agreement']:.2f} | "
            f"{row['agreement_unrotated']:.2f} | {row['fronts']} | {row['seconds']:.0f} |"
        )
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    save_sheet({name: out / name / "result" / "contact-sheet.png" for name in rows}, out / "sheet.png")


def save_sheet(pictures: dict[str, Path], path: Path) -> None:
    """Pictures of one size, each under its name, one below another."""
    from PIL import Image, ImageDraw

    strips = [(name, Image.open(picture)) for name, picture in pictures.items()]
    if not strips:
        return
    width, height = strips[0][1].size
    sheet = Image.new("RGB", (width, (height + 14) * len(strips)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, strip) in enumerate(strips):
        draw.text((4, i * (height + 14) + 1), name, fill="black")
        sheet.paste(strip, (0, i * (height + 14) + 14))
    sheet.save(path)


if __name__ == "__main__":
    main()
