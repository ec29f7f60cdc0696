"""The LoRA branch of VSD: the same network, trained on the renders and their cameras."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recdreamer.graphs import Scalar
from recdreamer.named_tensors import part
from recdreamer.parallel.team import added_grads
from recdreamer.parallel.view_shares import ALL_VIEWS, Share, drawn
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.grad_scale import GradScale
from recdreamer.prior.low_rank import LowRankUpdates

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Lesson:
    """Noised renders that the branch learns from, at a timestep of their own (Alg. 1, line 6; Eq. 8)."""

    latents_t: Float[Tensor, "batch c h w"]
    t: Int[Tensor, "batch"]
    text: Float[Tensor, "batch tokens width"]
    c2w: Float[Tensor, "batch 4 4"]
    target: Float[Tensor, "batch c h w"]
    """The output that would be right: eps or v."""

    def loss(self, output: Float[Tensor, "batch c h w"]) -> Float[Tensor, ""]:
        """Mean square of what is wrong in the branch's `output`."""
        return (output - self.target).square().mean()


class LoraBranch(nn.Module):
    """eps_phi(x_t, t, c, y): low-rank updates of the attention layers, the camera added to the time embedding.

    Shares all frozen weights with the pretrained model (ProlificDreamer, Sec. 3.3; layout and defaults of its
    released code: rank 4, camera matrix flattened through a two-layer network).
    """

    def __init__(self, prior: DiffusionPrior, rank: int, targets: tuple[str, ...], seed: int) -> None:
        """Raises RequestError if `targets` fit no layer."""
        super().__init__()
        self.prior = (prior,)  # in a tuple, so that the frozen weights are not registered as this module's
        unet = prior.unet
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.updates = LowRankUpdates(unet, rank, targets, "phi")
            width = unet.time_embedding.linear_2.out_features
            last = nn.Linear(width, width)
            self.camera = nn.Sequential(nn.Linear(16, width), nn.SiLU(), last)
            # The branch starts out as the pretrained model for every camera.
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.camera.to(unet.device)
        self._embedding: Tensor | None = None
        unet.time_embedding.register_forward_hook(self._add_camera)

    def trainable(self) -> dict[str, Tensor]:
        """What is trained, by peft's names: the factors of the updates, as views, and the camera network."""
        own = {f"camera.{name}": parameter.detach() for name, parameter in self.camera.named_parameters()}
        return self.updates.named(self.updates.values.detach()) | own

    def learning(self) -> list[nn.Parameter]:
        """The parameters that get a gradient."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _add_camera(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        return None if self._embedding is None else output + self._embedding.to(output.dtype)

    @contextmanager
    def _active(
        self,
        cameras: Float[Tensor, "batch 4 4"],
        of_branch: Bool[Tensor, "batch"] | None,
        has_camera: Bool[Tensor, "batch"] | None,
        scale: GradScale,
    ):
        embedding = scale.enter(self.camera(cameras.flatten(1)))
        self._embedding = embedding if has_camera is None else embedding * has_camera[:, None]
        dtype = self.prior[0].unet.dtype
        try:
            with self.updates.on(None if of_branch is None else of_branch.to(dtype), dtype, scale):
                yield
        finally:
            self._embedding = None

    def contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """For checkpointing: activations are computed again with the rows switched as in their own forward pass.

        By then other questions may have been asked, or none be asked at all. (The time embedding is not recomputed.)
        """
        return nullcontext(), self.updates.as_now()

    def output(
        self, latents_t: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"],
        text: Float[Tensor, "batch tokens width"], c2w: Float[Tensor, "batch 4 4"],
        of_branch: Bool[Tensor, "batch"] | None = None, has_camera: Bool[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch c h w"]:  # fmt: skip
        """The raw output, eps or v like the pretrained model's.

        Rows where `of_branch` is False are the pretrained model's, and rows where `has_camera` is False get no
        camera; None means True for all rows.
        """
        unet, scale = self.prior[0].unet, GradScale(self.prior[0].unet.dtype)
        with self._active(c2w, of_branch, has_camera, scale):
            output = unet(scale.enter(latents_t).to(unet.dtype), t, text.to(unet.dtype))
            return scale.leave(output.sample.float())

    def draw(
        self, latents: Float[Tensor, "batch c h w"], text: Float[Tensor, "batch tokens width"],
        c2w: Float[Tensor, "batch 4 4"], generator: torch.Generator, camera_dropout: float = 0.1,
    ) -> Lesson:  # fmt: skip
        """Noise renders at uniform timesteps; without their cameras at a rate of `camera_dropout`."""
        schedule, device = self.prior[0].schedule, latents.device
        t = drawn(partial(torch.randint, schedule.num_timesteps), (len(latents),), generator).to(device)
        eps = drawn(torch.randn, tuple(latents.shape), generator).to(device)
        is_kept = torch.rand((), generator=generator, device=generator.device) >= camera_dropout
        c2w = c2w * is_kept.to(c2w)
        return Lesson(schedule.add_noise(latents, eps, t), t, text, c2w, schedule.target_of(latents, eps, t))

    def loss(self, lesson: Lesson) -> Float[Tensor, ""]:
        """Denoising loss of a lesson (Eq. 8)."""
        return lesson.loss(self.output(lesson.latents_t, lesson.t, lesson.text, lesson.c2w))


class LoraTrainer:
    """The branch with its optimizer: one training step per distillation step (Alg. 1, line 6)."""

    def __init__(self, branch: LoraBranch, learning_rate: float, warmup_steps: int) -> None:
        self.branch, self.learning_rate, self.warmup_steps = branch, learning_rate, warmup_steps
        device = branch.updates.values.device
        self.rate = Scalar(learning_rate, device)
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            branch.parameters(), lr=self.rate.tensor, betas=(0.9, 0.999), capturable=on_gpu, fused=True
        )

    def begin(self, step: int) -> None:
        """Set the step's learning rate, which warms up linearly from zero; before a recorded step is replayed."""
        self.rate.set(self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps)))

    def draw(
        self, latents: Float[Tensor, "batch c h w"], text: Float[Tensor, "batch tokens width"],
        c2w: Float[Tensor, "batch 4 4"], generator: torch.Generator,
    ) -> Lesson:  # fmt: skip
        """What this step's renders have to teach."""
        return self.branch.draw(latents, text, c2w, generator)

    def grads(self, lesson: Lesson) -> tuple[Tensor, ...]:
        """The gradients of a lesson's loss."""
        return torch.autograd.grad(self.branch.loss(lesson), self.branch.learning())

    def learn(self, grads: Sequence[Tensor], step: int, share: Share = ALL_VIEWS) -> None:
        """One optimizer step along the gradients of a lesson's loss, which is the mean over the views of `share`."""
        self.begin(step)
        learning = self.branch.learning()
        for parameter, grad in zip(learning, grads, strict=True):
            parameter.grad = grad if not share.is_split else grad * share.weight
        added_grads(learning, share)
        self.optimizer.step()

    def step(
        self, latents: Float[Tensor, "batch c h w"], text: Float[Tensor, "batch tokens width"],
        c2w: Float[Tensor, "batch 4 4"], step: int, generator: torch.Generator,
    ) -> None:  # fmt: skip
        """Draw a lesson and learn it."""
        self.learn(self.grads(self.draw(latents, text, c2w, generator)), step)

    def tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint, in peft's layout: the optimizer's state of each matrix on its own."""
        named = {f"lora.{name}": tensor.clone() for name, tensor in self.branch.trainable().items()}
        states: list[dict[str, Tensor]] = []
        for parameter in self.branch.parameters():
            state = self.optimizer.state[parameter]
            parts = {key: self._matrices(parameter, state[key]) for key in MOMENTS if key in state}
            for index in range(len(self._matrices(parameter, parameter))):
                states.append({key: tensors[index] for key, tensors in parts.items()})
                if state:
                    states[-1]["step"] = state["step"]
        return named | {
            f"lora_optimizer.{index}.{key}": tensor.clone()
            for index, state in enumerate(states)
            for key, tensor in state.items()
        }

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`. Everything stays where it is in memory if it is there already."""
        for name, own in self.branch.trainable().items():
            own.copy_(tensors[f"lora.{name}"])
        saved, index = part("lora_optimizer", tensors), 0
        for parameter in self.branch.parameters():
            parts = self._matrices(parameter, parameter)
            state = self.optimizer.state[parameter]
            is_known = f"{index}.step" in saved
            if is_known:
                for key in MOMENTS:
                    state.setdefault(key, torch.zeros_like(parameter))
                    for offset, own in enumerate(self._matrices(parameter, state[key])):
                        own.copy_(saved[f"{index + offset}.{key}"])
                group = self.optimizer.param_groups[0]
                home = parameter.device if group["capturable"] else torch.device("cpu")
                state.setdefault("step", torch.zeros((), device=home)).copy_(saved[f"{index}.step"])
            index += len(parts)

    def _matrices(self, parameter: nn.Parameter, tensor: Tensor) -> list[Tensor]:
        """The matrices that `parameter` consists of, in a tensor like it."""
        updates = self.branch.updates
        return list(updates.named(tensor).values()) if parameter is updates.values else [tensor]
