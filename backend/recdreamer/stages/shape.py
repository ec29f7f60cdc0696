"""Stage 1: shape and colour of a radiance field, by score distillation."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.config import GenerateConfig
from recdreamer.distillation.methods import Guide
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.models.radiance import Particles, Scene
from recdreamer.parallel import team
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.report import Report
from recdreamer.shared.protocol import JobFolder
from recdreamer.stages.collapse import (
    ADVICE,
    ADVICE_FOR_OBJECT,
    COLLAPSES,
    DESCRIPTIONS,
    OF_OBJECT,
    REMEDIES,
    Collapse,
    cured,
    find_collapse,
    horizon,
    horizon_of_sides,
    look_at,
)
from recdreamer.stages.facing import lost_sides, read_around
from recdreamer.stages.run import Resumable, StageContext, run_stage, take_state_of_first
from recdreamer.start.starting_point import FROM_PROMPT, StartingPoint

STAGE = "shape"
COLLAPSE_TENSOR = "collapse"
"""Name of the tensor in a checkpoint: [index + 1 of the cured collapse, or 0; number of the checks made since]."""
NUM_CHECKS = 2
"""For an object, and later for its sides."""


class Collapsed(Exception):
    """The stage has lost its object or its sides for the first time."""

    def __init__(self, collapse: Collapse) -> None:
        super().__init__(collapse)
        self.collapse: Collapse = collapse


class WatchedParticles:
    """θ of the stage: the particles, and the outcome of their check for collapses."""

    def __init__(self, particles: Particles, cure: Collapse | None) -> None:
        self.particles = particles
        self.cure, self.checks = cure, 0

    def watch(
        self,
        step: int,
        num_steps: int,
        num_views: int,
        is_brought: bool,
        loses: Callable[[Scene], bool] | None,
        report: Report,
    ) -> None:
        """Check for an object a tenth of the way, and later for its sides. Raises Collapsed once, and then only warns.

        `is_brought`: the shape comes from an object, which may fill the scene. `loses` tells whether an object has lost
        its sides; None if no camera asks for one.
        """
        if self.checks == 0 and step >= horizon(num_steps):
            self._conclude(
                [find_collapse(look_at(scene)) for scene in self.particles.scenes],
                step,
                num_views,
                is_brought,
                report,
            )
        at_sides = horizon_of_sides(num_steps)
        if self.checks == 1 and loses is not None and at_sides is not None and step >= at_sides:
            verdicts: list[Collapse | None] = [
                "sides" if loses(scene) else None for scene in self.particles.scenes
            ]
            self._conclude(verdicts, step, num_views, is_brought, report)

    def _conclude(
        self, verdicts: list[Collapse | None], step: int, num_views: int, is_brought: bool, report: Report
    ) -> None:
        collapse: Collapse | None = None
        for verdict in verdicts:
            if verdict is not None and not (is_brought and verdict == "full"):
                collapse = verdict
        if team.share_of_views(num_views).is_split:
            collapse = _agreed(collapse)
        # Counted only after the check, so that a stage killed here repeats it on resume.
        if collapse and self.cure is None:
            raise Collapsed(collapse)
        self.checks += 1
        if collapse:
            advice = ADVICE_FOR_OBJECT if is_brought else ADVICE
            if (collapse == "sides") == (self.cure == "sides"):
                report.warning(f"{DESCRIPTIONS[collapse]} at step {step} again. It may come back; {advice}.")
            else:
                report.warning(f"{DESCRIPTIONS[collapse]} at step {step}. It may come back; {advice}.")

    def at(self, step: int) -> Scene:
        return self.particles.at(step)

    def cameras(self, step: int) -> Cameras | None:
        return self.particles.cameras(step)

    def shown(self) -> list[Scene]:
        return self.particles.shown()

    @property
    def first_bad_step(self) -> float:
        return self.particles.first_bad_step

    def tensors(self) -> dict[str, Tensor]:
        cure = 0 if self.cure is None else COLLAPSES.index(self.cure) + 1
        return self.particles.tensors() | {COLLAPSE_TENSOR: torch.tensor([cure, self.checks])}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.particles.load(tensors)
        self.checks = int(tensors[COLLAPSE_TENSOR][1]) if COLLAPSE_TENSOR in tensors else NUM_CHECKS


def shape_stage(
    job: JobFolder,
    config: GenerateConfig,
    prior: DiffusionPrior,
    guide: Guide,
    device: torch.device,
    report: Report,
    start: StartingPoint = FROM_PROMPT,
) -> tuple[Particles, float]:
    """Stage 1: shape and colour by score distillation. Returns the particles and the seconds of all runs.

    A stage that has lost its object after a tenth of its steps, or under pose control its sides half of the way,
    restarts once with other settings. A job that continues an earlier one is not checked, and a shape that comes from an
    object may fill the scene and keeps its sides.
    """
    store, fresh = CheckpointStore(job.checkpoints), _fresh_tensors(guide, config)
    remedies = OF_OBJECT if start.brings_a_shape else REMEDIES
    cure, context = _agreed(_cure_of(store)), StageContext(job, prior, device, report)
    loses = None if start.brings_a_shape else _sides_check(guide, config, prior.image_px)
    while True:
        own = config if cure is None else cured(config, cure)
        watched = WatchedParticles(Particles(own, device, start, report.warning), cure)

        def watch(step: int, watched: WatchedParticles = watched) -> None:
            if not start.goes_on:
                settings = config.optimize
                watched.watch(
                    step, settings.num_steps, settings.num_views, start.brings_a_shape, loses, report
                )

        try:
            seconds = run_stage(STAGE, context, own.step("shape"), guide, watched, watch)
        except Collapsed as collapsed:
            cure = collapsed.collapse
            report.warning(f"{DESCRIPTIONS[cure]}. The shape stage restarts with {remedies[cure]}.")
            again = WatchedParticles(Particles(cured(config, cure), device, start), cure)
            if team.rank() == 0:
                _restart(store, again.tensors() | fresh)
        else:
            return watched.particles, seconds


def skipped_shape(
    job: JobFolder, config: GenerateConfig, start: StartingPoint, device: torch.device
) -> Particles:
    """The particles of a job without a shape stage, saved so that a later job can continue it."""
    particles, store = Particles(config, device, start.unchanged()), CheckpointStore(job.checkpoints)
    saved = store.newest(STAGE) if team.rank() == 0 else None
    if saved is not None:
        particles.load(saved.tensors)
    elif team.rank() == 0:
        store.save(STAGE, 0, particles.tensors(), {"seconds": 0.0}, final=True)
    take_state_of_first(device, [particles])
    return particles


def _sides_check(guide: Guide, config: GenerateConfig, size_px: int) -> Callable[[Scene], bool] | None:
    """Whether an object has lost its sides, by the job's own classifier; None if nothing asks for them."""
    most = config.rectifier.lost_sides
    rectifier = next((each for each in guide.rectifiers if each.mode == "camera"), None)
    if rectifier is None or not most:
        return None
    return lambda scene: lost_sides(*read_around(scene, rectifier, config.cameras, size_px)) >= most


def _fresh_tensors(guide: Guide, config: GenerateConfig) -> dict[str, Tensor]:
    """The state of the branch and of the rectifiers before the first step."""
    branch, guidance = guide.denoiser.branch, config.guidance
    lora = branch and LoraTrainer(branch, guidance.lora_learning_rate, guidance.lora_warmup_steps)
    parts: list[Resumable] = [part for part in (lora, *guide.rectifiers) if part is not None]
    return {name: tensor.detach().clone() for part in parts for name, tensor in part.tensors().items()}


def _cure_of(store: CheckpointStore) -> Collapse | None:
    """The collapse after which the current stage was restarted."""
    checkpoint = store.newest(STAGE)
    number = (
        int(checkpoint.tensors[COLLAPSE_TENSOR][0])
        if checkpoint and COLLAPSE_TENSOR in checkpoint.tensors
        else 0
    )
    return COLLAPSES[number - 1] if number else None


def _agreed(collapse: Collapse | None) -> Collapse | None:
    """What the process of rank 0 found."""
    said = team.message(collapse or "")
    return next((each for each in COLLAPSES if each == said), None)


def _restart(store: CheckpointStore, tensors: dict[str, Tensor]) -> None:
    """Replace all checkpoints of the stage by one of step 0; the time so far still counts.

    The old ones are removed first, or the store would prune the new one as the oldest.
    """
    checkpoint = store.newest(STAGE)
    seconds = checkpoint.meta["seconds"] if checkpoint else 0.0
    for path in store.folder.glob(f"{STAGE}-*"):
        shutil.rmtree(path, ignore_errors=True)
    store.save(STAGE, 0, tensors, {"seconds": seconds})
