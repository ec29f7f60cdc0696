"""The benchmark: methods × prompts × seeds, each run measured by every metric, in a folder that can be continued.

A run is a job folder of `job_runs.py` in OUT/runs. What is measured is collected in results.jsonl, tables.md and
report.html after every call, with the failed runs.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch

from recdreamer import __version__
from recdreamer.device import choose_device
from recdreamer.evaluation.bench_suites import Suite
from recdreamer.evaluation.bench_summary import as_markdown, reference_features, tables_of
from recdreamer.evaluation.job_runs import FIRST_STAGE, METHODS, prepare, read_row, run_all, templates_from
from recdreamer.evaluation.measure_result import recounted, surface_path
from recdreamer.evaluation.noise_reading import write_noise_readings
from recdreamer.evaluation.study_templates import write_templates
from recdreamer.presets import resolve
from recdreamer.shared.protocol import (
    BUILTIN_PRIOR,
    JobFolder,
    JobRequest,
    Quality,
    RequestError,
    Stage,
    write_atomically,
)
from recdreamer.shared.worlds import world_of

CPU_SECONDS = {
    "sds": 110.0, "debiased_sds": 115.0, "perp_neg": 140.0, "sds_bridge": 110.0, "vsd": 170.0, "esd": 185.0,
    "consdreamer": 110.0, "sdi": 520.0, "usd": 260.0, "usd_sdi": 600.0,
}  # fmt: skip
"""Of a first stage of 500 steps of four views with the embedded prior on one core, measured on two cores of 2026."""
GPU_SHARE = 0.3
"""Seconds on an H200 relative to a core, alone or beside up to fifteen others."""
MEASURING_S = 25.0


@dataclass(frozen=True)
class JanusBench:
    """What is run, and how."""

    out: Path
    suite: Suite
    prior: str
    device: str = "auto"
    workers: int = 1
    threads: int = 1
    quality: Quality = "final"
    is_whole: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    """Sources of templates, each a variant; see `template_folder`. By default the prior draws them."""
    reference_count: int = 12
    """Pictures of the prior for each prompt, to which FID compares (paper: 60)."""


@dataclass(frozen=True)
class BenchRun:
    method: str
    variant: str
    prompt: str
    seed: int
    folder: Path
    request: JobRequest
    made: str = ""
    """The source in `study_templates` of its templates, which are made when it is run."""

    @property
    def group(self) -> str:
        """The row of the tables that it belongs to."""
        return f"{self.method}, {self.variant}" if self.variant else self.method


def planned(bench: JanusBench) -> list[BenchRun]:
    """All runs: seeds vary slowest, so that an interrupted benchmark has every method and prompt."""
    suite, runs = bench.suite, []
    sources = bench.templates or suite.sources or ("",)
    cells = product(suite.seeds, suite.prompts, sources, suite.variants, suite.methods)
    for seed, prompt, source, variant, method in cells:
        made = source if source in suite.sources and not bench.templates else ""
        templates = templates_from(template_folder(source, prompt)) if source and not made else ()
        request = JobRequest(
            prompt,
            kind=suite.kind,
            seed=seed,
            prior=bench.prior,
            device=bench.device,
            quality=bench.quality,
            stages=get_args(Stage) if bench.is_whole else FIRST_STAGE,
            overrides=suite.settings | bench.settings | suite.variants[variant],
            **METHODS[method],
        )
        request.validate()
        request = replace(request, templates=templates)  # Still where they are; `prepare` copies them.
        named = source_name(source) or ("templates drawn" if suite.sources and not bench.templates else "")
        label = ", ".join(filter(None, (variant, named)))
        name = "_".join(filter(None, (method, _slug(label), _slug(prompt)[:40], str(seed))))
        runs.append(BenchRun(method, label, prompt, seed, bench.out / "runs" / name, request, made))
    if len({run.folder for run in runs}) < len(runs):
        raise RequestError("Two prompts of the benchmark begin alike.", "Make their first 40 letters differ.")
    return runs


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def template_folder(source: str, prompt: str) -> Path:
    """The folder of a prompt's templates in a source: {prompt}, {kind} and {color} in its path are filled in by words of
    the prompt; without them it is the subfolder of that name.

    >>> found = template_folder("blocks/{kind}-grey", "a red bear"), template_folder("tripo", "A sea turtle.")
    >>> tuple(map(Path.as_posix, found))
    ('blocks/bear-grey', 'tripo/a-sea-turtle')
    """
    words = _slug(prompt).split("-")
    if "{" not in source:
        return Path(source) / _slug(prompt)
    return Path(source.format(prompt=_slug(prompt), kind=words[-1], color=words[-2] if words[1:] else ""))


def source_name(source: str) -> str:
    """The last two parts of a source's path, without what is filled in.

    >>> source_name("blocks/solid/{kind}-grey")
    'templates solid grey'
    """
    last = " ".join(Path(source).parts[-2:])
    for filled in ("{prompt}", "{kind}", "{color}"):
        last = last.replace(filled, "")
    return f"templates {' '.join(_slug(last).split('-'))}" if source else ""


def estimate(bench: JanusBench, runs: Sequence[BenchRun]) -> str:
    """A sentence: how many runs are left, and about how long they take on this machine."""
    left = [run for run in runs if "seconds" not in read_row(run.folder)]
    done = {run.method: read_row(run.folder).get("seconds") for run in runs if run not in left}
    on_gpu = choose_device(bench.device).type == "cuda"
    share = (GPU_SHARE if on_gpu else 1.0) * (2 / 9 if bench.quality == "quick" else 1.0)
    steps = float((bench.suite.settings | bench.settings).get("optimize.num_steps", 500)) / 500
    seconds = sum(
        (done.get(run.method) or CPU_SECONDS[run.request.method] * share * steps) + MEASURING_S
        for run in left
    ) / max(1, min(bench.workers, len(left) or 1))
    known = (
        ""
        if bench.prior == BUILTIN_PRIOR
        else " The time of other priors than the embedded one is not known."
    )
    return f"{len(left)} of {len(runs)} runs are left, about {seconds / 60:.0f} min.{known}"


def bench_janus(bench: JanusBench) -> dict[str, Any]:
    """Run what is left and write the results. Returns the tables as numbers."""
    runs = planned(bench)
    for run in runs:
        prepare(run.folder, with_made_templates(bench, run))
    started = time.time()
    run_all([run.folder for run in runs], bench.workers, bench.threads, bench.device)
    if bench.suite.noise_renders and bench.prior == BUILTIN_PRIOR:
        extractor, device = resolve(runs[0].request).extractor, choose_device(bench.device)
        write_noise_readings(bench.out, bench.suite.prompts, extractor, device, bench.suite.noise_renders)
    _note_session(bench, time.time() - started)
    return collect(bench, runs)


def recount(bench: JanusBench, runs: Sequence[BenchRun]) -> str:
    """Count R of all finished runs again as this version counts, from what they have kept. Returns sentences that say
    of which ears were counted on the hull of pictures, and which have not enough for either; theirs stays as it was."""
    world = world_of(bench.prior)
    if world is None or bench.suite.kind == "particles":
        raise RequestError("Only objects of the embedded worlds are counted again.", "Leave out --recount.")
    finished = [run for run in runs if "failed" not in read_row(run.folder)]
    left, by_pictures = [], 0
    for run in finished:
        score = recounted(JobFolder(run.folder), run.prompt, world)
        if score is None:
            left.append(run.folder.name)
        else:
            by_pictures += score["ears_from"] == "pictures"
            write_atomically(run.folder / "row.json", json.dumps(read_row(run.folder) | score, indent=2))
    said = f"R of {len(finished) - len(left)} of {len(finished)} finished runs was counted again."
    if by_pictures:
        said += (
            f" Ears of {by_pictures} were counted on the hull of their pictures: they have kept no surface."
        )
    return f"{said} Not enough has been kept by {', '.join(left)}." if left else said


def with_made_templates(bench: JanusBench, run: BenchRun) -> JobRequest:
    """The run's request with the templates of its study, which are made once for all runs of a prompt."""
    if not run.made:
        return run.request
    folder = bench.out / "templates" / _slug(run.made) / _slug(run.prompt)
    write_templates(run.made, run.prompt, folder)
    return replace(run.request, templates=templates_from(folder))


def collect(bench: JanusBench, runs: Sequence[BenchRun]) -> dict[str, Any]:
    """Write results.jsonl, tables.md, tables.json and report.html from the runs that there are."""
    from recdreamer.evaluation.bench_report import write_report

    rows = [
        read_row(run.folder)
        | {"method": run.group, "prompt": run.prompt, "seed": run.seed, "folder": run.folder.name}
        for run in runs
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(bench.out / "results.jsonl", lines)
    reference = None
    if any("failed" not in row for row in rows):
        reference = reference_features(
            bench.out / "reference", bench.suite.prompts, bench.prior, choose_device(bench.device),
            bench.reference_count,
        )  # fmt: skip
    tables = tables_of(rows, bench.out / "runs", reference)
    facts = settings_of(bench, rows)
    write_atomically(bench.out / "tables.md", as_markdown(tables, facts, rows))
    found = {"facts": facts, "tables": [table.as_dict() for table in tables]}
    write_atomically(bench.out / "tables.json", json.dumps(found, indent=2))
    write_report(bench.out, bench.suite.name, rows, tables, facts)
    return found


def settings_of(bench: JanusBench, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What a reader needs to repeat it: command, versions, machine, time."""
    devices = sorted({row["device"] for row in rows if "device" in row})
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    # Before points were kept, ears were counted in one horizontal cut, which took some pairs for one.
    older = sum(
        "field_chamfer" in row
        and "ears_from" not in row
        and not surface_path(JobFolder(bench.out / "runs" / row["folder"])).exists()
        for row in rows
    )
    hulls = sum(row.get("ears_from") == "pictures" for row in rows)
    return {
        "suite": bench.suite.name,
        "what it asks": bench.suite.question,
        "prompts": "; ".join(bench.suite.prompts),
        "seeds": ", ".join(map(str, bench.suite.seeds)),
        "prior": bench.prior,
        "quality": bench.quality,
        "stages": "all" if bench.is_whole else "shape",
        "settings": json.dumps(bench.suite.settings | bench.settings),
        "runs": f"{len(rows)}, {sum('failed' in row for row in rows)} failed or not run",
        "ears counted by an earlier version": f"{older} runs" if older else "",
        "ears counted on the hull of pictures": f"{hulls} runs" if hulls else "",
        "devices": ", ".join(devices),
        "mean seconds of a run": f"{fmean(seconds):.0f}" if seconds else "",
        "versions": f"recdreamer {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def _note_session(bench: JanusBench, seconds: float) -> None:
    """Add a line to sessions.jsonl: a benchmark may be made in several calls, on several machines."""
    path = bench.out / "sessions.jsonl"
    line = {"at": time.strftime("%Y-%m-%d %H:%M"), "seconds": round(seconds), "workers": bench.workers,
            "threads": bench.threads, "machine": platform.machine()}  # fmt: skip
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
