"""A generation from request to result: the stages in order, each resumed from its newest checkpoint."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from recdreamer.catalog.entries import Kind
from recdreamer.catalog.locate import located
from recdreamer.config import GenerateConfig, as_json
from recdreamer.device import choose_device, choose_dtype, gpu_memory
from recdreamer.job.repeat import empty_result, repeated_seeds, take_result
from recdreamer.mesh import dress_mesh
from recdreamer.parallel import team
from recdreamer.pose.attribute_classifier import BUILTIN_FOLDER as CLASSIFIER_FOLDER
from recdreamer.pose.features import BUILTIN_FOLDER as EXTRACTOR_FOLDER
from recdreamer.prior.diffusion import BUILTIN_FOLDER as PRIOR_FOLDER
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.report import NullReport, Report
from recdreamer.shared.folder_lock import LOCK, STOP
from recdreamer.shared.protocol import USD_METHODS, JobFolder, Stage, write_atomically
from recdreamer.stages.guidance import prepare_guides
from recdreamer.stages.handover import JobRun, first_shapes, refined_shapes
from recdreamer.stages.memory import compact, fitted, most_views, stepped_down, ways
from recdreamer.stages.workpiece import Workpiece, face_front, paint_objects, workpieces_of
from recdreamer.start.prepare import prepare_start

SHARES = {"prepare": 3.0, "shape": 60.0, "geometry": 10.0, "texture": 20.0, "mesh": 7.0}
"""All stages in order, with their share of a job's time."""


def generate(job: JobFolder, config: GenerateConfig, report: Report) -> None:
    """Run a job to its result, or up to where `report` stops it.

    Writes config.json, previews/, checkpoints/ and result/. Raises JobError for expected trouble, Cancelled
    and Paused after a checkpoint.
    """
    run = prepare_run(job, config, report)
    # The other processes begin, as all that they need is in the folder now.
    team.message(json.dumps(run.seeds))
    pieces, lower = None, None
    try:
        pieces = run_stages(run)
    except torch.OutOfMemoryError:
        # Others would go on where this one begins again.
        lower = stepped_down(run.config) if run.device.type == "cuda" and team.count() == 1 else None
        if lower is None:
            raise
    if lower is not None:
        # Outside of the block above: the exception holds all that the step had.
        way = next(ways(lower)).words(most_views(lower))
        report.warning(f"The GPU ran out of memory. From the newest checkpoint on, {way}.")
        del run
        gc.collect()
        torch.cuda.empty_cache()
        compact()
        run = prepare_run(job, lower, report)
        pieces = run_stages(run)
    assert pieces is not None
    if run.has("texture"):
        run.begin("mesh")
    if run.start.may_turn:
        face_front(run, pieces)
    write_result(run, pieces)
    report.progress(100, 100)


def assist(job: JobFolder, config: GenerateConfig) -> None:
    """Share the views of a job that the process of rank 0 runs: the same stages, in a copy of what they need."""
    seeds = json.loads(team.message())
    with tempfile.TemporaryDirectory(prefix="recdreamer-") as folder:
        copy = JobFolder(Path(folder) / "job")
        shutil.copytree(job.root, copy.root, ignore=_not_needed)
        copy.previews.mkdir(exist_ok=True)
        run_stages(prepare_run(copy, config, NullReport(), seeds))


def _not_needed(folder: str, names: list[str]) -> set[str]:
    """What a job writes, and files that are being written: they have gone before they are copied."""
    job = JobFolder(Path(folder))
    written = (job.checkpoints, job.previews, job.result, job.events, job.log, job.state)
    unfinished = {name for name in names if name.startswith(".")}
    return {path.name for path in written} | {LOCK, STOP} | unfinished


def run_stages(run: JobRun) -> list[Workpiece]:
    """The stages that the job runs, up to the meshes and their colours."""
    # Stages 1 and 2: a level set for each particle.
    shapes = [] if run.start.is_only_painted else refined_shapes(run, first_shapes(run))
    # Meshes are extracted as a part of the stage that follows.
    run.begin("texture" if run.has("texture") else "mesh")
    pieces = workpieces_of(run, shapes) if run.has("texture") or team.rank() == 0 else []
    # Stage 3: colours on the finished meshes.
    if run.has("texture"):
        paint_objects(run, pieces)
    return pieces


def prepare_run(
    job: JobFolder, config: GenerateConfig, report: Report, seeds: dict[str, int] | None = None
) -> JobRun:
    """Load the prior, draw missing templates and set up the guides. `seeds` are those of the stages, if known."""
    device, begin = choose_device(config.device), announcer(config, report)
    write_atomically(job.root / "config.json", json.dumps(as_json(config), indent=2, ensure_ascii=False))
    begin("prepare")
    if seeds is None:
        seeds = stage_seeds(config, repeated_seeds(job, report.warning))
    # First, so that a start that cannot be used is reported before anything is loaded or drawn.
    start = prepare_start(job, config, device, lambda: report.progress(0, 1), report.warning)
    models = models_of(config)
    torch.manual_seed(config.seed)
    prior = DiffusionPrior.load(config.prior, device, choose_dtype(config.prior, device, config.precision))
    config = fitted(config, prior, report.warning)
    guides = prepare_guides(job, config, prior, report.warning)
    prior.free_text_encoder()
    return JobRun(job, config, report, begin, device, seeds, start, prior, guides, models)


def models_of(config: GenerateConfig) -> dict[str, Any]:
    """What is known of the pretrained models that the job uses, by what they are for.

    Raises JobError if one is missing or cannot be used, before any is loaded.
    """
    rectifier = config.rectifier
    wanted: list[tuple[Kind, str, Path | None]] = [("prior", config.prior, PRIOR_FOLDER)]
    if config.method in USD_METHODS:
        if rectifier.pose:
            wanted.append(("extractor", config.extractor, EXTRACTOR_FOLDER))
        if rectifier.tiny_decoder:
            wanted.append(("decoder", rectifier.tiny_decoder, None))
        if rectifier.attribute:
            wanted.append(("classifier", rectifier.attribute_classifier, CLASSIFIER_FOLDER))
    if config.optimize.tiny_encoder and "shape" in config.stages:
        wanted.append(("decoder", config.optimize.tiny_encoder, None))
    return {kind: {"name": name} | located(name, kind, builtin).as_json() for kind, name, builtin in wanted}


def stage_seeds(config: GenerateConfig, repeated: dict[str, int]) -> dict[str, int]:
    """The seed of each stage; a skipped stage has that of the stage before it."""
    seeds, seed = {}, config.seed
    for stage in get_args(Stage):
        seed = repeated.get(stage, config.seed) if stage in config.stages else seed
        seeds[stage] = seed
    return seeds


def write_result(run: JobRun, pieces: Sequence[Workpiece]) -> None:
    """Unwrap, bake and write each object and the report; the new result replaces the old one when it is complete."""
    started, summaries, folder, config = time.monotonic(), [], empty_result(run.job), run.config
    for index, piece in enumerate(pieces):
        summary = dress_mesh(
            piece.mesh,
            piece.shade,
            piece.normal_at,
            config.mesh,
            folder / f"particle-{index}" if index else folder,
            place=piece.place,
            seed=run.seeds["texture"],
            device=run.device,
            tick=run.tick,
            warn=run.report.warning,
        )
        summaries.append(summary | piece.facts)
    run.seconds["mesh"] = time.monotonic() - started
    result = {
        "prompt": config.prompt,
        "method": config.method,
        "seed": config.seed,
        "seeds": {stage: run.seeds[stage] for stage in config.stages},
        "stages": list(config.stages),
        "seconds": run.seconds,
        "gpu_memory": gpu_memory(run.device),
        "steps": config.optimize.num_steps,
        "device": str(run.device),
        "models": run.models,
        "meshes": summaries,
    }
    write_atomically(folder / "report.json", json.dumps(result, indent=2, ensure_ascii=False, default=str))
    take_result(run.job)


def announcer(config: GenerateConfig, report: Report) -> Callable[[str], None]:
    """A function that reports the beginning of a stage and its part of the job; skipped stages have no part."""
    names = ["prepare", *(stage for stage in SHARES if stage in config.stages), "mesh"]
    whole = sum(SHARES[name] for name in names)
    begins = {name: sum(SHARES[other] for other in names[:i]) / whole for i, name in enumerate(names)}

    def begin(name: str) -> None:
        span = begins[name], begins[name] + SHARES[name] / whole
        report.stage(name, names.index(name), len(names), span)

    return begin
