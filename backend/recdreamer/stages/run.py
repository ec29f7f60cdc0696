"""Run one stage of a job: optimize a model by distillation, with previews, checkpoints, progress and resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.config import StepConfig
from recdreamer.distillation.methods import LORA_METHODS, Guide
from recdreamer.job.checkpoint import Checkpoint, CheckpointStore
from recdreamer.models.model import Model, Pictured
from recdreamer.parallel import team
from recdreamer.pose.marginal import PoseMarginal
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.recorded_step import RecordedSteps
from recdreamer.report import JobError, Report
from recdreamer.shared.protocol import JobFolder
from recdreamer.shared.safe_files import reason_of
from recdreamer.stages.coarse_mesh import CoarseMeshes
from recdreamer.stages.previews import Previews


@runtime_checkable
class Resumable(Protocol):
    """A part of a stage that is saved in checkpoints."""

    def tensors(self) -> dict[str, Tensor]: ...

    def load(self, tensors: dict[str, Tensor]) -> None: ...


def run_steps(
    stage: str,
    store: CheckpointStore,
    config: StepConfig,
    device: torch.device,
    parts: Sequence[Resumable],
    run_step: Callable[[int], None],
    after_step: Callable[[int], None],
    check: Callable[[int], None] = lambda step: None,
) -> float:
    """Run the steps of a stage that are left after its newest checkpoint. Returns the seconds of all runs.

    Saves at intervals, at the end, and before any exception ends the run. `check(step)` raises if a state must not be
    saved. Of several processes, that of rank 0 reads and writes checkpoints, and all begin and end with its state; if
    the views of a step cannot be divided among them, it runs the steps alone.
    """
    num_steps, first_step, seconds_before = config.num_steps, 0, 0.0
    checkpoint = store.newest(stage) if team.rank() == 0 else None
    if checkpoint is not None:
        first_step, seconds_before = checkpoint.step, _taken_up(checkpoint, device, parts)
    share = team.share_of_views(config.num_views)
    if share.is_split:
        first_step = int(team.message(str(first_step)))
        take_state_of_first(device, parts)
    elif team.rank():
        first_step = num_steps
    started = last_save = time.monotonic()

    def seconds() -> float:
        return seconds_before + time.monotonic() - started

    def save(step: int) -> None:
        if team.rank():
            return
        team.check()
        check(step)
        tensors = state_of(parts)
        if team.count() > 1:
            # Waits for the device; what came after the loss of a process must not be saved.
            tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
            team.check()
        store.save(stage, step, tensors, {"seconds": seconds()}, final=step == num_steps)

    if team.count() > 1 and checkpoint is None and first_step < num_steps:
        save(first_step)  # There is something to resume from as soon as a process can be lost.
    for step in range(first_step, num_steps):
        run_step(step)
        try:
            after_step(step + 1)
        except BaseException:
            save(step + 1)
            raise
        if time.monotonic() - last_save > config.checkpoint_every_s:
            save(step + 1)
            last_save = time.monotonic()
    if first_step < num_steps:
        save(num_steps)
    take_state_of_first(device, parts)
    return seconds()


def state_of(parts: Sequence[Resumable]) -> dict[str, Tensor]:
    """All tensors of the parts of a stage."""
    return {name: tensor for part in parts for name, tensor in part.tensors().items()}


def take_state_of_first(device: torch.device, parts: Sequence[Resumable]) -> None:
    """Let all processes have the state of the one of rank 0."""
    if team.count() == 1:
        return
    tensors = team.same_tensors(state_of(parts) if team.rank() == 0 else None)
    for part in parts if team.rank() else ():
        part.load({name: tensor.to(device) for name, tensor in tensors.items()})


def _taken_up(checkpoint: Checkpoint, device: torch.device, parts: Sequence[Resumable]) -> float:
    """Load a checkpoint into the parts of its stage; returns its seconds. Raises JobError if it is not of this job."""
    try:
        tensors = {name: tensor.to(device) for name, tensor in checkpoint.tensors.items()}
        for part in parts:
            part.load(tensors)
        return float(checkpoint.meta["seconds"])
    except torch.OutOfMemoryError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise JobError(
            "checkpoint",
            f"The checkpoint of step {checkpoint.step} of {checkpoint.stage} is not of this job ({reason_of(error)}).",
            "Remove its folder from the job's checkpoints, then resume from the one before.",
        ) from error


def report_poses(report: Report, labels: Sequence[str], marginal: PoseMarginal) -> None:
    """Report the pose distribution."""
    report.pose_distribution(dict(zip(labels, marginal.overall().tolist(), strict=True)))


@runtime_checkable
class Theta(Protocol):
    """The parameters that a stage optimizes."""

    @property
    def first_bad_step(self) -> float: ...

    def at(self, step: int) -> Model:
        """The model that a step optimizes."""
        ...

    def cameras(self, step: int) -> Cameras | None:
        """The views of a step; None for random ones."""
        ...

    def shown(self) -> Sequence[Pictured]:
        """One row of the preview for each."""
        ...

    def tensors(self) -> dict[str, Tensor]: ...

    def load(self, tensors: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class StageContext:
    """What all stages of a job run with."""

    job: JobFolder
    prior: DiffusionPrior
    device: torch.device
    report: Report


def run_stage(
    name: str,
    context: StageContext,
    config: StepConfig,
    guide: Guide,
    theta: Theta,
    watch: Callable[[int], None] = lambda step: None,
    counted: tuple[int, int] | None = None,
) -> float:
    """Run the remaining steps of a stage. Returns the seconds of all its runs.

    `watch(step)` may raise to end the stage. If several runs are reported as one stage, `counted` has the number of
    steps before this run and in total. Raises JobError "non_finite", and, after a checkpoint, whatever `report`
    raises to cancel or to pause.
    """
    job, report = context.job, context.report
    branch = guide.denoiser.branch if guide.method in LORA_METHODS else None
    rectifiers, guidance = guide.rectifiers, config.guidance
    num_steps = config.num_steps
    steps_before, steps_in_all = counted or (0, num_steps)
    lora = branch and LoraTrainer(branch, guidance.lora_learning_rate, guidance.lora_warmup_steps)
    steps = RecordedSteps(config, context.prior, guide, lora, report.warning)
    previews = Previews(job.previews, name, config.preview_every, config.cameras, context.device)
    coarse = CoarseMeshes(job, config.coarse_cells, context.device)

    def after_step(step: int) -> None:
        team.check()
        if team.rank():
            watch(step)
            return
        if step % config.preview_every == 0 or step == num_steps:
            report.preview(previews.write(theta.shown(), step, is_last=step == num_steps))
            coarse.offer(theta.shown()[0])
            if rectifiers:
                report_poses(report, rectifiers[0].classifier.labels, rectifiers[0].marginal)
        report.progress(steps_before + step, steps_in_all)
        watch(step)

    def check(step: int) -> None:
        bad = theta.first_bad_step
        if bad <= step:
            raise JobError(
                "non_finite",
                f"The loss was not a finite number at step {bad:.0f}; the last good checkpoint was kept.",
                "Run the job again with a lower guidance scale or learning rate, or another seed.",
            )

    return run_steps(
        name,
        CheckpointStore(job.checkpoints),
        config,
        context.device,
        [part for part in (theta, lora, *rectifiers) if part is not None],
        lambda step: steps.run(step, theta.at(step), theta.cameras(step)),
        after_step,
        check,
    )


def particle_name(stage: str, index: int) -> str:
    """Name of a stage's run for one of several particles."""
    return f"{stage}_{index}" if index else stage
