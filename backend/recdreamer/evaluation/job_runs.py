"""Runs many jobs of the embedded world, first stages or whole, and evaluates them; shared by the comparing tools.

A run is a job folder. A finished run has row.json, a failed one has failed.txt with the reason.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
import traceback
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recdreamer.report import NullReport

# Nothing that imports torch at the top: a worker chooses its threads and its GPU first.
if TYPE_CHECKING:
    import torch

    from recdreamer.config import GenerateConfig
    from recdreamer.prior.diffusion import DiffusionPrior
    from recdreamer.shared.protocol import JobFolder, JobRequest, Template

PLAIN_METHODS = ("sds", "debiased_sds", "perp_neg", "sds_bridge", "vsd", "esd", "consdreamer", "sdi")
METHODS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in PLAIN_METHODS},
    "usd-marginal": {"method": "usd", "pose_mode": "marginal"},
    "usd-camera": {"method": "usd", "pose_mode": "camera"},
    "usd-sdi-marginal": {"method": "usd_sdi", "pose_mode": "marginal"},
    "usd-sdi-camera": {"method": "usd_sdi", "pose_mode": "camera"},
}
"""Method and form by the name of a row. debiased_sds, perp_neg and consdreamer put the view into words."""


FIRST_STAGE = ("shape",)


class PrintReport(NullReport):
    """Prints the progress of a run now and then."""

    def __init__(self, name: str) -> None:
        self.name, self.started = name, time.monotonic()

    def progress(self, step: int, total: int) -> None:
        if step % max(1, total // 5) == 0:
            print(f"{self.name}: {step}/{total} after {time.monotonic() - self.started:.0f} s", flush=True)

    def warning(self, message: str) -> None:
        print(f"{self.name}: {message}", flush=True)


def parse_settings(items: Sequence[str]) -> dict[str, Any]:
    """`optimize.num_steps=300` as overrides of a job; a value that is not JSON is a string."""
    settings = {}
    for name, value in (item.split("=", 1) for item in items):
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def templates_from(folder: Path) -> tuple[Template, ...]:
    """The templates of a folder, as described in its templates.json, else by the names of its pictures."""
    from recdreamer.pose.templates import templates_in
    from recdreamer.shared.protocol import Template

    described = folder / "templates.json"
    if described.exists():
        found = [Template(**fields) for fields in json.loads(described.read_text(encoding="utf-8"))]
    else:
        found = templates_in(folder)
    return tuple(replace(template, image=str((folder / template.image).absolute())) for template in found)


def prepare(folder: Path, request: JobRequest) -> None:
    """Write the job folder, with copies of the templates' pictures.

    Exits if it has a different job, whose result would be mistaken for this one's.
    """
    from recdreamer.shared.protocol import write_atomically

    (folder / "templates").mkdir(parents=True, exist_ok=True)
    copied = []
    for index, template in enumerate(request.templates):
        copy = folder / "templates" / f"{index}{Path(template.image).suffix}"
        shutil.copyfile(template.image, copy)
        copied.append(replace(template, image=copy.relative_to(folder).as_posix()))
    request = replace(request, templates=tuple(copied))
    path = folder / "job.json"
    if path.exists() and path.read_text(encoding="utf-8") != request.to_json():
        raise SystemExit(f"{folder} has a run with other settings. Choose another --out.")
    write_atomically(path, request.to_json())


def run_all(folders: Sequence[Path], workers: int, threads: int, device: str) -> None:
    """Run the unfinished jobs in `workers` processes, spread over the GPUs, if any."""
    pending = deque(folder for folder in folders if not (folder / "row.json").exists())
    gpus = visible_gpus() if device in ("auto", "cuda") else []

    def serve(worker: int) -> None:
        context, first = multiprocessing.get_context("spawn"), (threads, gpu_of(worker, gpus))
        while pending:
            with ProcessPoolExecutor(1, context, _settle, first) as process:
                # A failure, such as a CUDA error, may have damaged the process, so a new one continues.
                while (folder := _take(pending)) and _attempt_in(process, folder):
                    pass

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(serve, range(min(workers, len(pending)))))


def visible_gpus() -> list[str]:
    """GPUs by their names in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def gpu_of(worker: int, gpus: Sequence[str]) -> str | None:
    """The GPU of a worker, round robin; None = torch's choice."""
    return gpus[worker % len(gpus)] if gpus else None


def _settle(threads: int, gpu: str | None) -> None:
    """Set up a new process before it imports torch."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def _take(pending: deque[Path]) -> Path | None:
    try:
        return pending.popleft()
    except IndexError:  # Another thread was quicker.
        return None


def _attempt_in(process: ProcessPoolExecutor, folder: Path) -> bool:
    try:
        return process.submit(attempt, folder).result()
    except BrokenProcessPool:
        _note_failure(folder, "Its process was killed, perhaps for lack of memory.")
        return False


def attempt(folder: Path) -> bool:
    """Run a job. If it fails, returns False, with the reason in failed.txt and details in log.txt."""
    (folder / "failed.txt").unlink(missing_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
        try:
            run_one(folder)
        except Exception as error:
            traceback.print_exc()
            _note_failure(folder, f"{type(error).__name__}: {error}")
            return False
    return True


def _note_failure(folder: Path, reason: str) -> None:
    line = " ".join(reason.split())
    (folder / "failed.txt").write_text(line, encoding="utf-8")
    print(f"{folder.name}: FAILED. {line}", flush=True)


def run_one(folder: Path) -> None:
    """Run and measure the job in `folder`: its first stage, or all of it if it has more. Writes row.json.

    Each job loads its own prior, because it adds its branch to the network.
    """
    import torch

    from recdreamer.device import choose_device
    from recdreamer.evaluation.measure_result import measure_result, peak_memory_gib
    from recdreamer.presets import resolve
    from recdreamer.shared.protocol import JobFolder

    job = JobFolder(folder)
    request = job.read_request()
    if request.kind == "particles":
        (folder / "row.json").write_text(json.dumps(_particles(job, request), indent=2))
        return
    config = resolve(request)
    device = choose_device(config.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run = _first_stage if config.stages == FIRST_STAGE else _whole
    prior, facts = run(job, config, device)
    facts |= {
        "peak_gib": peak_memory_gib(device), "steps": config.optimize.num_steps,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }  # fmt: skip
    found = facts | measure_result(job, config, prior, facts["yaw_deg"])
    (folder / "row.json").write_text(json.dumps(found, indent=2))
    scores = f"entropy {found['pose_entropy']:.3f} agreement {found['azimuth_agreement']:.2f}"
    front = f"({found['agreement_unrotated']:.2f}) fronts {found['fronts']}"
    print(f"{folder.name}: {scores} {front} in {found['seconds']:.0f} s", flush=True)


def _particles(job: JobFolder, request: JobRequest) -> dict[str, Any]:
    """2D particles: the oracle's count of their poses, and the share of those that the request wants."""
    from recdreamer.evaluation.particles_2d_job import particles_job

    particles_job(job, request, PrintReport(job.root.name))
    report = json.loads((job.result / "report.json").read_text(encoding="utf-8"))
    shutil.copyfile(job.root / "particles.png", job.result / "contact-sheet.png")
    _write_shares(job)
    found = {name: report[name] for name in ("seconds", "steps", "device")}
    if report["oracle"] is None:
        return found
    counts, wanted = report["oracle"]["counts"], request.overrides.get("rectifier.target", {})
    shares = {pose: counts.get(pose, 0) / report["particles"] for pose in wanted}
    return (
        found
        | {"pose_entropy": report["oracle"]["pose_entropy"], "counts_2d": counts}
        | ({"wanted_share": sum(shares.values())} if wanted else {})
    )


def _write_shares(job: JobFolder) -> None:
    """poses.json, as first stages have it, from the oracle's shares in the trace of 2D particles."""
    trace = job.root / "trace.json"
    if trace.exists():
        records = json.loads(trace.read_text(encoding="utf-8"))["records"]
        shares = [{"step": r["step"], **r["oracle"]["shares"]} for r in records if "oracle" in r]
        (job.root / "poses.json").write_text(json.dumps(shares))


def _first_stage(
    job: JobFolder, config: GenerateConfig, device: torch.device
) -> tuple[DiffusionPrior, dict[str, Any]]:
    import torch

    from recdreamer.device import choose_dtype
    from recdreamer.prior.diffusion import DiffusionPrior
    from recdreamer.stages.facing import yaw_of
    from recdreamer.stages.guidance import prepare_guide
    from recdreamer.stages.shape import shape_stage

    report = PrintReport(job.root.name)
    torch.manual_seed(config.seed)
    prior = DiffusionPrior.load(config.prior, device, choose_dtype(config.prior, device, config.precision))
    guide = prepare_guide(job, config, prior, report.warning)
    particles, seconds = shape_stage(job, config, prior, guide, device, report)
    yaw_deg = yaw_of(particles.scenes[0], guide.rectifiers, config.cameras, prior.image_px)
    return prior, {"yaw_deg": yaw_deg, "seconds": seconds}


def _whole(
    job: JobFolder, config: GenerateConfig, device: torch.device
) -> tuple[DiffusionPrior, dict[str, Any]]:
    from recdreamer.device import choose_dtype
    from recdreamer.evaluation.judge_mesh import judge_mesh
    from recdreamer.generate import generate
    from recdreamer.prior.diffusion import DiffusionPrior

    generate(job, config, PrintReport(job.root.name))
    report = json.loads((job.result / "report.json").read_text(encoding="utf-8"))
    facts: dict[str, Any] = {
        "is_watertight": report["meshes"][0]["is_watertight"],
        "yaw_deg": report["meshes"][0].get("yaw_deg", 0.0),
        "seconds": sum(report["seconds"].values()),
    }
    if mesh := judge_mesh(job).get("best_yaw"):
        facts |= {
            "chamfer": mesh["chamfer"], "f_score": mesh["f_score"],
            "normals": mesh["normal_consistency"], "psnr_db": mesh["psnr_db"],
        }  # fmt: skip
    return DiffusionPrior.load(
        config.prior, device, choose_dtype(config.prior, device, config.precision)
    ), facts


def read_row(folder: Path) -> dict[str, Any]:
    """The results of a run; `failed` with the reason if it is not finished."""
    if (folder / "row.json").exists():
        return json.loads((folder / "row.json").read_text(encoding="utf-8"))
    failed = folder / "failed.txt"
    return {"failed": failed.read_text(encoding="utf-8") if failed.exists() else "It was not run."}


def table_of(rows: dict[str, dict[str, Any]]) -> str:
    """A line for each run, in Markdown."""
    lines = ["| run | entropy / ln 4 | agreement | unrotated | fronts | s |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        if "failed" in row:
            lines.append(f"| {name} | failed: {row['failed'].replace('|', '/')} | | | | |")
            continue
        lines.append(
            f"| {name} | {row['pose_entropy']:.3f} | {row['azimuth_agreement']:.2f} | "
            f"{row['agreement_unrotated']:.2f} | {row['fronts']} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def save_contact_sheets(folders: Sequence[Path], path: Path) -> None:
    """Write the contact sheets of the finished runs, one below another."""
    finished = [folder for folder in folders if "failed" not in read_row(folder)]
    save_named_sheet({folder.name: folder / "result" / "contact-sheet.png" for folder in finished}, path)


def save_named_sheet(pictures: dict[str, Path], path: Path) -> None:
    """Write pictures of one size, each with its name, one below another."""
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
