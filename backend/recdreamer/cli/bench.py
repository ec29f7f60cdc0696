"""The command `recdreamer bench`: step, processes, field, janus."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, get_args

import tyro

from recdreamer.cli.settings import Settings, parse_setting
from recdreamer.evaluation.bench_tables import FieldTable
from recdreamer.paths import given_path
from recdreamer.shared.protocol import BUILTIN_PRIOR, Method, Quality, RequestError, Stage, write_atomically


@dataclass(frozen=True)
class BenchStep:
    """Time one step of each method, split by part, with FLOPs and peak memory; on a GPU also as written and recorded."""

    methods: tuple[Method, ...] = get_args(Method)
    """Methods of the job; the geometry stage uses `geometry.method` instead."""
    stage: Stage = "shape"
    prior: str = BUILTIN_PRIOR
    """builtin, a Stable Diffusion folder, or random-sd21: random weights of the size of Stable Diffusion 2.1."""
    steps: int = 10
    """Number of measured steps, after three warm-up steps."""
    device: str = "auto"
    precision: bool = False
    """Compare the gradients with those in float32 (on a GPU; takes the memory of both)."""
    out: Path | None = None
    """JSON file for the results."""
    set: Settings = field(default=())
    """Settings of the backend."""


@dataclass(frozen=True)
class BenchProcesses:
    """Time steps of one process and of several that share their views, in turns, and compare what both do."""

    processes: int = 2
    methods: tuple[Method, ...] = ("usd", "vsd")
    views: tuple[int, ...] = (4, 8)
    prior: str = BUILTIN_PRIOR
    """builtin, a Stable Diffusion folder, or random-sd21: random weights of the size of Stable Diffusion 2.1."""
    steps: int = 12
    """Number of measured steps of each kind."""
    field_steps: int = 50
    """Steps after which the fields are compared, for the first number of views; 0: leave it out."""
    device: str = "auto"
    precision: bool = False
    """Compare the gradients with those in float32."""
    out: Path | None = None
    """JSON file for the results."""
    set: Settings = field(default=())
    """Settings of the backend."""


@dataclass(frozen=True)
class BenchMemory:
    """Limit the memory to that of smaller cards, and show which way through a step each gets, and its peak."""

    cards: tuple[float, ...] = (6, 8, 12, 16, 24)
    """Sizes in GB."""
    methods: tuple[Method, ...] = ("usd",)
    views: int = 1
    """Views of a step."""
    prior: str = "random-sd21"
    device: str = "auto"
    out: Path | None = None
    """JSON file for the results."""
    set: Settings = field(default=())
    """Settings of the backend."""


@dataclass(frozen=True)
class BenchField:
    """Time the Warp kernels of fields, rays and meshes against plain torch, and against another version."""

    tables: tuple[FieldTable, ...] = get_args(FieldTable)
    against: Path | None = None
    """Folder `backend` of another checkout. It is timed in turns with this one, in a process of its own."""
    repeats: int = 7
    """Rounds per case, after a warm-up."""
    seconds: float = 4.0
    """Time limit per case; at least one round is measured."""
    device: str = "auto"
    threads: int = 1
    """Threads of torch; Warp uses one on a CPU."""
    out: Path | None = None
    """Folder for field.json, field.md and, if matplotlib is installed, field.png."""


@dataclass(frozen=True)
class BenchJanus:
    """Measure the consistency of methods on prompts and seeds. Repeat the command to continue or to collect again."""

    out: Path
    """Folder for the runs, results.jsonl, tables.md and report.html."""
    suite: str = "small"
    """small (two cores, 10 minutes), bar, methods, rivals, animals, paper, or a study of the paper: noisy, marginal,
    q-sampling, particles, control, clamp, jacobian, guided, templates, other-renders."""
    methods: tuple[str, ...] = ()
    """Instead of the suite's: sds, vsd, esd, debiased_sds, perp_neg, sds_bridge, consdreamer, sdi, usd-marginal,
    usd-camera, usd-sdi-marginal, usd-sdi-camera."""
    prompts: tuple[str, ...] = ()
    """Instead of the suite's; `paper` stands for the 22 of the paper, `eight` and `animals` for those of the embedded
    worlds."""
    seeds: tuple[int, ...] = ()
    variants: tuple[str, ...] = ()
    """Some of the suite's variants, by their names in its tables."""
    smoke: bool = False
    """One method, prompt and seed of the suite with a few small steps: whether all of it works, in minutes."""
    prior: str = ""
    """An embedded world, a Stable Diffusion folder, or a model from `recdreamer models list`; by default the suite's."""
    quality: Quality = "final"
    """`final`: with the steps that each method was published with."""
    whole: bool = False
    """All stages, not the first alone, which decides the shape."""
    workers: int = 1
    """Processes, spread over all GPUs."""
    threads: int = 1
    """Threads of each process."""
    device: str = "auto"
    templates: tuple[str, ...] = ()
    """Sources of templates to compare, for example of a turntable, of sketches, of another generator's renders: folders
    with a subfolder named after each prompt (a-red-bear), or with {prompt}, {kind} or {color} in their path."""
    reference: int = 12
    """Pictures of the prior for each prompt, to which FID compares (paper: 60)."""
    estimate: bool = False
    """Only say how long it would take."""
    collect: bool = False
    """Run nothing; write the tables and the report of what there is."""
    recount: bool = False
    """As `--collect`, but first count faces, backs and ears of the finished runs again, from what they have kept."""
    set: Settings = field(default=())
    """Settings of the backend for all runs."""


@dataclass(frozen=True)
class Bench:
    """Measure the speed of a distillation step or of the kernels, or the consistency of results."""

    what: (
        Annotated[BenchStep, tyro.conf.subcommand("step")]
        | Annotated[BenchProcesses, tyro.conf.subcommand("processes")]
        | Annotated[BenchMemory, tyro.conf.subcommand("memory")]
        | Annotated[BenchField, tyro.conf.subcommand("field")]
        | Annotated[BenchJanus, tyro.conf.subcommand("janus")]
    ) = field(default_factory=BenchStep)


def run_bench(command: Bench) -> int:
    """Raises RequestError and JobError."""
    match command.what:
        case BenchStep():
            bench_step_command(command.what)
        case BenchProcesses():
            return bench_processes_command(command.what)
        case BenchMemory():
            bench_memory_command(command.what)
        case BenchField():
            bench_field_command(command.what)
        case BenchJanus():
            bench_janus_command(command.what)
    return 0


def bench_step_command(command: BenchStep) -> None:
    from recdreamer.evaluation.bench_step import as_table, bench_step

    found = bench_step(
        command.methods, command.stage, command.prior, command.steps, command.device,
        dict(map(parse_setting, command.set)), command.precision,
    )  # fmt: skip
    print(as_table(found))
    print(f"{found['device']}, {found['threads']} thread(s), prior {found['prior']}, {found['stage']} stage")
    if command.out is not None:
        command.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(command.out, json.dumps(found, indent=2))


def bench_processes_command(command: BenchProcesses) -> int:
    from recdreamer.job.processes import assist, end_with_parent, rank_by_environment, see_own_gpu, shared

    see_own_gpu()
    from recdreamer.device import choose_device
    from recdreamer.evaluation.bench_processes import as_table, bench_processes

    device = choose_device(command.device)

    def measure() -> None:
        found = bench_processes(
            command.methods, command.views, command.prior, command.steps, command.field_steps, device,
            dict(map(parse_setting, command.set)), command.precision,
        )  # fmt: skip
        if found:
            print(as_table(found))
            print(f"{found['device']}, prior {found['prior']}")
            if command.out is not None:
                command.out.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(command.out, json.dumps(found, indent=2))

    if rank_by_environment():
        end_with_parent()
        return assist(device, measure)
    if not 1 < command.processes <= min(command.views):
        raise RequestError(
            f"{command.processes} processes cannot share steps of {min(command.views)} views.",
            "Give 2 processes or more, and at least as many views.",
        )
    # The same command, but for what only this process writes.
    with shared(sys.argv[1:], command.processes, device):
        measure()
    return 0


def bench_memory_command(command: BenchMemory) -> None:
    from recdreamer.device import choose_device
    from recdreamer.evaluation.bench_memory import as_table, bench_memory

    rows = bench_memory(
        command.cards, command.methods, command.views, command.prior, choose_device(command.device),
        dict(map(parse_setting, command.set)),
    )  # fmt: skip
    print(as_table(rows))
    if command.out is not None:
        command.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(command.out, json.dumps(rows, indent=2))


def bench_field_command(command: BenchField) -> None:
    import torch

    from recdreamer.device import choose_device
    from recdreamer.evaluation.bench_field import as_tables, bench_field, save

    torch.set_num_threads(command.threads)
    try:
        found = bench_field(
            command.tables, choose_device(command.device), command.repeats, command.seconds, command.against
        )
    except ValueError as error:
        raise RequestError(str(error), "See recdreamer bench field --help.") from error
    print(as_tables(found))
    if command.out is not None:
        print("\nWritten: " + ", ".join(map(str, save(found, command.out))))


def bench_janus_command(command: BenchJanus) -> None:
    from recdreamer.evaluation.bench_janus import JanusBench, bench_janus, collect, estimate, planned, recount
    from recdreamer.evaluation.bench_suites import prompts_of, suite_of

    suite = suite_of(command.suite).with_choices(
        command.methods, prompts_of(command.prompts), command.seeds, command.variants
    )
    suite = suite.smoke() if command.smoke else suite
    bench = JanusBench(
        given_path(command.out), suite, command.prior or suite.prior, command.device, command.workers, command.threads,
        command.quality, command.whole, dict(map(parse_setting, command.set)), command.templates, command.reference,
    )  # fmt: skip
    runs = planned(bench)
    print(estimate(bench, runs), flush=True)
    if command.estimate:
        return
    bench.out.mkdir(parents=True, exist_ok=True)
    if command.recount:
        print(recount(bench, runs), flush=True)
    if command.collect or command.recount:
        collect(bench, runs)
    else:
        bench_janus(bench)
    print((bench.out / "tables.md").read_text(encoding="utf-8"))
    print(f"Written: {bench.out / 'report.html'}")
