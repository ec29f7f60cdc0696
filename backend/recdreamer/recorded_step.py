"""Algorithm 1 as a CUDA graph: from a step's picture to the gradient on its pixels.

What is recorded is `optimize_step` itself, with a picture in the place of θ. Rendering θ before it and moving θ after it
are recordings of their own (`models.recorded_scene`), because the number of their samples differs from step to step, and
with it the size of their buffers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.config import StepConfig
from recdreamer.device import step_seed
from recdreamer.distillation.methods import Guide
from recdreamer.graphs import CudaGraph, Recorder, Recording
from recdreamer.models.model import Model
from recdreamer.models.radiance import Scene
from recdreamer.models.recorded_scene import RecordedScene
from recdreamer.optimize import (
    Found,
    distill,
    drawn_cameras,
    drawn_timesteps,
    joined,
    optimize_step,
    settle,
)
from recdreamer.parallel.team import share_of_views
from recdreamer.parallel.view_shares import Share, StepGenerator
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.report import Warn, no_warn


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
        return _Inputs(rgb.detach().clone(), t.clone(), cameras.copied())

    def fill(self, rgb: Tensor, t: Tensor, cameras: Cameras) -> None:
        self.rgb.copy_(rgb.detach())
        self.t.copy_(t)
        self.cameras.fill(cameras)


Case = tuple[str, bool, int]


class RecordedSteps:
    """The steps of a stage. On a GPU each is recorded once per case, and replayed from then on.

    The first step of a case runs as it is written: it loads the kernels and creates the optimizer's state. The results
    are the same either way, so a resumed run is the run that was interrupted. What cannot be recorded runs as written
    to the end, after a warning.

    Where processes share the views, they talk between replays only: a graph that waits for a process that is gone
    would wait for ever. So lines 5 and 6 are not recorded then, nor where views go through the prior in parts.
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
        self.parts = self.share.parts(config.guidance.views_at_once)
        """The views that the prior sees at once; the pictures of all are rendered together."""
        if guide.rectifier_config.clamp == "released" and guide.rectifiers:
            self.parts = [self.share]  # Its limit is that of all views together.
            self.recorder = None if self.share.is_split else self.recorder
        self.is_whole = len(self.parts) == 1 and not self.share.is_split
        self.inputs: dict[int, _Inputs] = {}
        """By the number of views."""
        self.recordings: dict[Case, Recording | None] = {}
        """By case; None for those that ran once, and will be recorded the next time."""
        self.found: dict[Case, Found] = {}
        """What lines 5 and 6 need, by case; in the memory of a recording."""
        self.scene: RecordedScene | None = None
        """The θ of the latest step."""

    def run(self, step: int, model: Model, cameras: Cameras | None = None) -> None:
        """One step of Algorithm 1; `model` is θ, and `cameras`, those of all views, are drawn if none are given."""
        config, generator = self.config, self.generator
        generator.manual_seed(step_seed(config.seed, step))
        if cameras is not None and self.share.is_split:
            cameras = cameras.of(self.share)
        is_written = self.recorder is None or self._case(step, self.parts[0]) not in self.recordings
        if is_written and len(self.parts) == 1:
            self.recordings[self._case(step, self.share)] = None
            optimize_step(
                step, config, self.prior, model, self.guide, self.lora, cameras, generator=generator
            )
            return
        # As in `optimize_step`, up to the picture and its timesteps.
        if cameras is None:
            cameras = drawn_cameras(config, generator, self.share, model.device)
        theta = self._recorded(model)
        rendering = theta.render(cameras, step, generator)
        t = drawn_timesteps(step, config, self.prior.schedule, generator, self.share)
        grad = self._grad_in_parts(step, rendering.rgb, t, cameras)
        # The loss that follows a gradient on latents follows one on pixels as well.
        theta.descend(rendering, rendering.rgb, grad, step, generator)
        if not self.is_whole:
            settle(step, self.all_found, self.guide, self.lora)

    def _recorded(self, model: Model) -> Model:
        """θ as recordings, if that can be and if there is memory for it: recordings keep theirs from step to step."""
        if (
            not isinstance(model, Scene)
            or self.recorder is None
            or not self.is_whole
            or self.config.guidance.checkpointing
        ):
            return model
        if self.scene is None or self.scene.scene is not model:
            # Particles take turns, so that none of them comes to be recorded: their buffers would add up.
            self.scene = RecordedScene(model, self.recorder, self._warn)
        return self.scene

    def _warn(self, error: RuntimeError) -> None:
        reason = str(error).splitlines()[0][:200]
        self.warn(f"The GPU cannot replay the steps as a whole, so each takes longer ({reason}).")

    def _case(self, step: int, part: Share) -> Case:
        """What is decided before a step, and stuck in a recording: what is asked, whether the branch learns, and of how
        many views.
        """
        case = self.guide.case(step, step / self.config.num_steps)
        return case, self.lora is not None and step % self.config.guidance.lora_every == 0, part.size

    def _grad_in_parts(
        self, step: int, rgb: Float[Tensor, "views 3 height width"], t: Int[Tensor, "views"], cameras: Cameras
    ) -> Float[Tensor, "views 3 height width"]:
        """Lines 2 (from the encoder on) to 6, with as many views at once as the settings say."""
        if len(self.parts) == 1:
            grad = self._grad(step, self.share, rgb, t, cameras)
            if not self.is_whole:
                self.all_found = self.found[self._case(step, self.share)]
            return grad
        state, grads, found = self.generator.get_state(), [], []
        for part in self.parts:
            # Each part draws the numbers of all views, and keeps its own.
            self.generator.set_state(state)
            self.generator.share = part
            rows = slice(part.first - self.share.first, part.end - self.share.first)
            own = Cameras(*(getattr(cameras, each.name)[rows] for each in fields(cameras)))
            grads.append(self._grad(step, part, rgb[rows], t[rows], own).clone())
            found.append(self.found[self._case(step, part)].copied())
        self.generator.share = self.share
        self.all_found = joined(found, self.share)
        return torch.cat(grads)

    def _grad(
        self, step: int, part: Share, rgb: Float[Tensor, "views 3 height width"], t: Int[Tensor, "views"],
        cameras: Cameras,
    ) -> Float[Tensor, "views 3 height width"]:  # fmt: skip
        """Lines 2 (from the encoder on) to 6. All numbers that change with time are set before."""
        if part.size not in self.inputs:
            self.inputs[part.size] = _Inputs.like(rgb, t, cameras)
        inputs, case = self.inputs[part.size], self._case(step, part)
        inputs.fill(rgb, t, cameras)
        self.guide.begin(step / self.config.num_steps)
        if self.lora is not None:
            self.lora.begin(step)
        if self.recorder is None or case not in self.recordings:
            self.recordings[case] = None
            return self._pixel_grad(step, part, inputs)
        recording = self.recordings[case] or self._record(step, part)
        if recording is None:
            return self._pixel_grad(step, part, inputs)
        self.recordings[case] = recording
        recording.replay()
        assert recording.result is not None
        return recording.result

    def _pixel_grad(self, step: int, part: Share, inputs: _Inputs) -> Float[Tensor, "views 3 height width"]:
        """What is recorded. `step` only decides what is done: the rest of it is overwritten before each replay."""
        picture = Picture(inputs.rgb)
        found = distill(
            step, self.config, self.prior, picture, self.guide, self.lora, inputs.cameras, inputs.t, self.generator
        )  # fmt: skip
        if self.is_whole:
            settle(step, found, self.guide, self.lora)
        else:
            self.found[self._case(step, part)] = found
        assert picture.grad is not None
        return picture.grad

    def _record(self, step: int, part: Share) -> Recording | None:
        assert self.recorder is not None
        inputs, others = self.inputs[part.size], [one for one in self.recordings.values() if one is not None]
        try:
            return self.recorder(lambda: self._pixel_grad(step, part, inputs), [self.generator], *others[:1])
        except torch.OutOfMemoryError:
            raise  # The job can go on with less.
        except RuntimeError as error:
            self._warn(error)
            self.recorder = None
            return None
