"""Algorithm 1 as a CUDA graph: from a step's picture to the gradient on its pixels.

What is recorded is `optimize_step` itself, with a picture in the place of θ. Rendering θ before it and moving θ after it
are not part of the recording, because the number of their samples differs from step to step, and with it the size of
their buffers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.config import StepConfig
from recdreamer.device import step_seed
from recdreamer.distillation.methods import Guide
from recdreamer.graphs import CudaGraph, Recorder, Recording
from recdreamer.models.model import Model
from recdreamer.optimize import Found, distill, drawn_cameras, drawn_timesteps, optimize_step, settle
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.report import Warn, no_warn
from recdreamer.team import share_of_views
from recdreamer.view_shares import StepGenerator


class Picture:
    """Pixels in the place of θ. They do not move: their gradient is what Algorithm 1 would move them by."""

    def __init__(self, rgb: Float[Tensor, "views 3 height width"]) -> None:
        self.rgb, self.device = rgb.detach().requires_grad_(), rgb.device
        self.grad: Float[Tensor, "views 3 height width"] | None = None

    def render(self, cameras: Cameras, step: int, generator: torch.Generator) -> Picture:
        return self

    def descend(
        self,
        rendering: Picture,
        latents: Float[Tensor, "views c h w"],
        grad: Float[Tensor, "views c h w"],
        step: int,
        generator: torch.Generator,
    ) -> None:
        (self.grad,) = torch.autograd.grad(latents, self.rgb, grad)


@dataclass(frozen=True)
class _Inputs:
    """The memory from which a recording reads."""

    rgb: Float[Tensor, "views 3 height width"]
    t: Int[Tensor, "views"]
    cameras: Cameras

    @staticmethod
    def like(rgb: Tensor, t: Tensor, cameras: Cameras) -> _Inputs:
        copies = {field.name: getattr(cameras, field.name).clone() for field in fields(cameras)}
        return _Inputs(rgb.detach().clone(), t.clone(), replace(cameras, **copies))

    def fill(self, rgb: Tensor, t: Tensor, cameras: Cameras) -> None:
        self.rgb.copy_(rgb.detach())
        self.t.copy_(t)
        for field in fields(cameras):
            getattr(self.cameras, field.name).copy_(getattr(cameras, field.name))


class RecordedSteps:
    """The steps of a stage. On a GPU each is recorded once per case, and replayed from then on.

    The first step of a case runs as it is written: it loads the kernels and creates the optimizer's state. The results
    are the same either way, so a resumed run is the run that was interrupted. What cannot be recorded runs as written
    to the end, after a warning.

    Where processes share the views, they talk between replays only: a graph that waits for a process that is gone
    would wait for ever. So lines 5 and 6 are not recorded then.
    """

    def __init__(
        self,
        config: StepConfig,
        prior: DiffusionPrior,
        guide: Guide,
        lora: LoraTrainer | None,
        warn: Warn = no_warn,
        recorder: Recorder | None = None,
    ) -> None:
        """`recorder` is chosen by the device if none is given: none on a CPU."""
        self.config, self.prior, self.guide, self.lora, self.warn = config, prior, guide, lora, warn
        on_gpu = prior.device.type == "cuda"
        self.recorder: Recorder | None = CudaGraph if recorder is None and on_gpu else recorder
        # One for all steps, because recordings draw from it.
        self.generator = StepGenerator(prior.device)
        self.generator.share = self.share = share_of_views(config.num_views)
        if self.share.is_split and guide.rectifier_config.clamp == "released" and guide.rectifiers:
            self.recorder = None  # Its limit is that of all views together.
        self.inputs: _Inputs | None = None
        self.recordings: dict[tuple[str, bool], Recording | None] = {}
        """By case; None for those that ran once, and will be recorded the next time."""
        self.found: dict[tuple[str, bool], Found] = {}
        """What lines 5 and 6 need, by case; in the memory of a recording."""

    def run(self, step: int, model: Model, cameras: Cameras | None = None) -> None:
        """One step of Algorithm 1; `model` is θ, and `cameras`, those of all views, are drawn if none are given."""
        config, generator = self.config, self.generator
        generator.manual_seed(step_seed(config.seed, step))
        if cameras is not None and self.share.is_split:
            cameras = cameras.of(self.share)
        case = self._case(step)
        if self.recorder is None or case not in self.recordings:
            self.recordings[case] = None
            optimize_step(
                step, config, self.prior, model, self.guide, self.lora, cameras, generator=generator
            )
            return
        # As in `optimize_step`, up to the picture and its timesteps.
        if cameras is None:
            cameras = drawn_cameras(config, generator, self.share, model.device)
        rendering = model.render(cameras, step, generator)
        t = drawn_timesteps(step, config, self.prior.schedule, generator, self.share)
        grad = self._grad(step, rendering.rgb, t, cameras)
        # The loss that follows a gradient on latents follows one on pixels as well.
        model.descend(rendering, rendering.rgb, grad, step, self.generator)
        if self.share.is_split:
            settle(step, self.found[case], self.guide, self.lora)

    def _case(self, step: int) -> tuple[str, bool]:
        """What is decided before a step, and stuck in a recording: what is asked, and whether the branch learns."""
        case = self.guide.case(step, step / self.config.num_steps)
        return case, self.lora is not None and step % self.config.guidance.lora_every == 0

    def _grad(
        self, step: int, rgb: Float[Tensor, "views 3 height width"], t: Int[Tensor, "views"], cameras: Cameras
    ) -> Float[Tensor, "views 3 height width"]:
        """Lines 2 (from the encoder on) to 6. All numbers that change with time are set before."""
        if self.inputs is None:
            self.inputs = _Inputs.like(rgb, t, cameras)
        self.inputs.fill(rgb, t, cameras)
        self.guide.begin(step / self.config.num_steps)
        if self.lora is not None:
            self.lora.begin(step)
        case = self._case(step)
        recording = self.recordings[case] or self._record(step)
        if recording is None:
            return self._pixel_grad(step, self.inputs)
        self.recordings[case] = recording
        recording.replay()
        assert recording.result is not None
        return recording.result

    def _pixel_grad(self, step: int, inputs: _Inputs) -> Float[Tensor, "views 3 height width"]:
        """What is recorded. `step` only decides what is done: the rest of it is overwritten before each replay."""
        picture = Picture(inputs.rgb)
        found = distill(
            step, self.config, self.prior, picture, self.guide, self.lora, inputs.cameras, inputs.t, self.generator
        )  # fmt: skip
        if self.share.is_split:
            self.found[self._case(step)] = found
        else:
            settle(step, found, self.guide, self.lora)
        assert picture.grad is not None
        return picture.grad

    def _record(self, step: int) -> Recording | None:
        assert self.recorder is not None and self.inputs is not None
        inputs, others = self.inputs, [one for one in self.recordings.values() if one is not None]
        try:
            return self.recorder(lambda: self._pixel_grad(step, inputs), [self.generator], *others[:1])
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            self.warn(f"The GPU cannot replay the steps as a whole, so each takes longer ({reason}).")
            self.recorder = None
            return None
