"""The command `recdreamer`: generate, run, templates, models, particles, evaluate, bench, doctor.

Each command imports only the modules that it needs, so that help is quick and `doctor` runs on a broken installation.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, get_args

import tyro

from recdreamer.cli.bench import Bench, run_bench
from recdreamer.cli.evaluate import Evaluate, run_evaluate
from recdreamer.cli.follow import follow
from recdreamer.cli.job_command import model_name, settings_of, validate, write_job
from recdreamer.cli.models import Models, run_models
from recdreamer.cli.settings import Settings
from recdreamer.cli.templates import Templates, run_templates
from recdreamer.cli.work import PROCESSES, WAIT_S, UntilStage, assist_job, work
from recdreamer.job.errors import explain
from recdreamer.job.process import stay_offline
from recdreamer.paths import given_path
from recdreamer.shared.device_lock import turn
from recdreamer.shared.parent_process import end_with_parent
from recdreamer.shared.protocol import (
    BUILTIN_PRIOR,
    JobRequest,
    Method,
    PoseMode,
    Quality,
    RequestError,
    Stage,
    Start,
)

if TYPE_CHECKING:
    from recdreamer.cluster.destination import Destination


@dataclass(frozen=True, kw_only=True)
class OnCluster:
    """Where to run; by default on this computer."""

    on: str = ""
    """HOST:PORT of a Ray cluster that runs the job instead of this computer, see docs/cluster.md."""
    gpus: float | None = None
    """GPUs of the cluster for the job, such as 0.25 or 1; by default what its image model needs."""
    storage: str = ""
    """URL of a storage that this computer and the nodes can write, such as file:///mnt/studio/recdreamer or
    s3://bucket/recdreamer. By default files travel through Ray."""
    allow_remote: bool = False
    """Let --on name another computer: neither token nor job is encrypted on the way there."""


@dataclass(frozen=True)
class Generate(OnCluster):
    """Make a textured mesh from a prompt. Repeat the command to resume an interrupted run."""

    prompt: str
    """What to make, for example "a red bear"."""
    out: Path
    """Job folder; the result is in OUT/result."""
    method: Method = "usd"
    pose_mode: PoseMode = "camera"
    """usd only: `camera` wants the class of each view's azimuth, `marginal` is the paper's rectifier."""
    quality: Quality = "standard"
    """quick: a draft. final: with Stable Diffusion, as many steps as in the publication of the method."""
    seed: int = 0
    templates: Path | None = None
    """Folder of pictures named front.png, back.png, left.png …; by default the prior draws its own."""
    prior: str = BUILTIN_PRIOR
    """builtin, a Stable Diffusion folder or .safetensors file, or a model from `recdreamer models list`."""
    device: str = "auto"
    stages: tuple[str, ...] = get_args(Stage)
    """Stages to run; a mesh is always made."""
    start: Start = "prompt"
    """Start from the prompt alone, the shape of an object, an object that is only painted, or an earlier job."""
    start_mesh: str = ""
    """File of the object: .npz as in protocol.py, .obj, .ply, .stl or .glb."""
    start_job: str = ""
    """Folder of the earlier job."""
    strength: float = 0.7
    """How far the result may depart from the object's shape, 0 to 1."""
    height_m: float = 1.0
    processes: int = 1
    """Processes that share the views of a step, each with a GPU or a core. 0: as many as fit."""
    set: Settings = field(default=())
    """Settings of the backend, for example optimize.num_steps=300."""


@dataclass(frozen=True)
class Run(OnCluster):
    """Run or resume a job folder. Shows progress on a terminal, and writes events as JSON lines to a pipe."""

    job: tyro.conf.Positional[Path]
    again: Stage | None = None
    """Repeat this stage and all later ones, or resume such a repeat. If it fails or is cancelled, the job stays as it
    was."""
    seed: int | None = None
    """Seed of the repeated stages; by default the seed of the job."""
    until: Stage | None = None
    """End when this stage is complete. Repeat the command without it to go on."""
    processes: int | None = None
    """Processes that share the views of a step in this run; by default as many as the job says."""


@dataclass(frozen=True)
class Particles2D:
    """Optimize 2D pictures instead of an object, to see how a method spreads poses (paper, App. E)."""

    prompt: str
    out: Path
    """Job folder: sheets/, particles.png, marginal.png, trace.json, result/report.json."""
    method: Method = "usd"
    n: int = 16
    """Number of pictures."""
    steps: int = 4000
    seed: int = 0
    learning_rate: float = 0.03
    """Adam's learning rate for the latents."""
    templates: Path | None = None
    prior: str = BUILTIN_PRIOR
    device: str = "auto"
    set: Settings = field(default=())
    """Settings of the backend; optimize.num_views is the number of pictures that a step moves."""


@dataclass(frozen=True)
class Doctor:
    """Check this installation. Every failure comes with its remedy."""

    folder: Path = Path()
    """Folder for jobs."""
    device: str = "auto"
    """Device of the jobs, on which kernels and a small job are run."""
    json: bool = False
    """One JSON object a line: check, is_ok, text, fix."""
    quick: bool = False
    """Leave out the small job."""


Command = (
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Templates, tyro.conf.subcommand("templates")]
    | Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Particles2D, tyro.conf.subcommand("particles")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code. Whatever goes wrong is one sentence and its remedy."""
    end_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A name may have letters that the terminal does not know.
            stream.reconfigure(errors="backslashreplace")
    # Hints of the library, at its import, would stand between the user and the one sentence.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    command = tyro.cli(Command, args=arguments, prog="recdreamer", config=(tyro.conf.OmitSubcommandPrefixes,))
    if not isinstance(command, Models):  # The one command that may fetch something.
        stay_offline()
    try:
        _exit(_run(command))
    except BrokenPipeError:  # Of "recdreamer … | head".
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        failure = explain(error)
        if failure.kind in UNEXPECTED:
            failure = explain(error, log=_write_log())
        print(f"{failure.message} {failure.hint}", file=sys.stderr)
        sys.exit(1)


def _exit(code: int) -> NoReturn:
    """End with a code; at once where a process was lost, as libraries would wait for it."""
    team = sys.modules.get("recdreamer.parallel.team")
    if team is not None and team.has_lost():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


UNEXPECTED = ("internal", "number", "install")
"""Kinds of failures whose traceback helps."""


def _write_log() -> str:
    """File with the traceback of the exception that is being handled, for a report."""
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="recdreamer-",
            suffix=".log",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as stream:
            traceback.print_exc(file=stream)
        return stream.name
    except OSError:
        return "no log (the disk of temporary files is full), the next try"


def _run(command: Generate | Run | Templates | Models | Particles2D | Evaluate | Bench | Doctor) -> int:
    match command:
        case Generate():
            check_cluster(command)
            prepare_job(command)
            return follow(given_path(command.out), on_cluster(command))
        case Run():
            if command.again is None and command.seed is not None:
                raise RequestError(
                    "A resumed job keeps its seed.",
                    "Choose the stage to repeat with the new seed: --again STAGE.",
                )
            if int(os.environ.get("RANK", "0") or 0):
                return assist_job(given_path(command.job).absolute())
            if command.processes is not None:
                os.environ[PROCESSES] = str(command.processes)
            return run_job(command)
        case Templates():
            with turn(command.do.device, wait_for_device):
                return run_templates(command)
        case Models():
            return run_models(command)
        case Particles2D():
            prepare_particles(command)
            return follow(given_path(command.out))
        case Evaluate():
            with turn(getattr(command.what, "device", "auto"), wait_for_device):
                return run_evaluate(command)
        case Bench():
            return run_bench(command)
        case Doctor():
            from recdreamer.cli.doctor import examine

            return examine(given_path(command.folder), command.device, command.json, command.quick)


def wait_for_device() -> None:
    """Say why nothing happens; whoever has started this shows its newest line."""
    print("Waiting: another job uses the device.", flush=True)
    time.sleep(WAIT_S)


def run_job(command: Run) -> int:
    """Run or resume a job folder, here or on a cluster. Returns the exit code of its worker."""
    if sys.stdout.isatty():
        check_cluster(command)
        again = () if command.again is None else ("--again", command.again)
        seed = () if command.seed is None else ("--seed", str(command.seed))
        until = () if command.until is None else ("--until", command.until)
        shared = () if command.processes is None else ("--processes", str(command.processes))
        return follow(given_path(command.job), (*again, *seed, *until, *shared, *on_cluster(command)))
    repeat = None if command.again is None else (command.again, command.seed)
    if command.on and command.until:
        raise RequestError("A job on a cluster runs to its end.", "Leave out --until, or --on.")
    if command.on:
        from recdreamer.cluster.submit import submit

        return submit(given_path(command.job), lambda: cluster_of(command), repeat)
    from recdreamer.job.worker import PAUSED, run

    if command.until is None:
        return run(given_path(command.job), work, repeat)
    part = UntilStage(command.until)
    code = run(given_path(command.job), part, repeat)
    return 0 if code == PAUSED and part.is_reached else code


def cluster_of(command: OnCluster) -> Destination:
    """The cluster that a command names. Raises RequestError if that cannot be one."""
    from recdreamer.cluster.destination import destination

    to = destination(command.on, command.gpus, command.storage, command.allow_remote)
    return replace(to, processes=command.processes if isinstance(command, Run) else None)


def check_cluster(command: OnCluster) -> None:
    """Raise RequestError if the options of a cluster cannot be met, before anything is written."""
    if command.on:
        cluster_of(command)
    elif command.gpus is not None or command.storage or command.allow_remote:
        raise RequestError(
            "There is no cluster to run on.", "Name it: --on HOST:PORT, or leave the options out."
        )


def on_cluster(command: OnCluster) -> tuple[str, ...]:
    """The options of the cluster, for the worker that `follow` starts."""
    if not command.on:
        return ()
    gpus = () if command.gpus is None else ("--gpus", str(command.gpus))
    storage = ("--storage", command.storage) if command.storage else ()
    return ("--on", command.on, *gpus, *storage, *(("--allow-remote",) if command.allow_remote else ()))


def prepare_job(command: Generate) -> JobRequest:
    """Write the job folder of a request, or reuse the one that exists. Raises RequestError, JobError and OSError."""
    request = JobRequest(
        prompt=command.prompt,
        method=command.method,
        pose_mode=command.pose_mode,
        quality=command.quality,
        seed=command.seed,
        prior=model_name(command.prior),
        device=command.device,
        stages=command.stages,
        start=command.start,
        start_job=str(given_path(command.start_job).absolute()) if command.start_job else "",
        strength=command.strength,
        height_m=command.height_m,
        overrides=({"processes": command.processes} if command.processes != 1 else {})
        | settings_of(command.set),
    )
    if not command.start_mesh:
        validate(request)  # Before anything is read.
    return write_job(command.out, request, command.templates, command.start_mesh)


def prepare_particles(command: Particles2D) -> JobRequest:
    """Write the job folder of 2D particles, or reuse the one that exists. Raises as `prepare_job`."""
    settings = {
        "optimize.num_particles": command.n,
        "optimize.num_steps": command.steps,
        "optimize.grid_learning_rate": command.learning_rate,
    }
    request = JobRequest(
        command.prompt,
        "particles",
        command.method,
        "marginal",
        seed=command.seed,
        prior=model_name(command.prior),
        device=command.device,
        overrides=settings | settings_of(command.set),
    )
    validate(request)
    return write_job(command.out, request, command.templates)
