"""Noise estimates of the pretrained model and of its LoRA branch, several questions in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint, noop_context_fn

from recdreamer.prior.diffusion import DiffusionPrior, TinyDecoder
from recdreamer.prior.lora import Lesson, LoraBranch
from recdreamer.prior.schedule import NoiseSchedule


@dataclass(frozen=True)
class Question:
    """A request for a noise estimate given a text; `of_branch` asks the LoRA branch, with camera `c2w` or none."""

    text: Float[Tensor, "batch tokens width"]
    of_branch: bool = False
    c2w: Float[Tensor, "batch 4 4"] | None = None


class Denoiser:
    """eps_pretrain(x_t, t, y) and eps_phi(x_t, t, c, y), which share frozen weights."""

    def __init__(
        self, prior: DiffusionPrior, branch: LoraBranch | None = None, decoder: TinyDecoder | None = None
    ) -> None:
        self.prior, self.branch, self.decoder = prior, branch, decoder or prior

    @property
    def schedule(self) -> NoiseSchedule:
        return self.prior.schedule

    def enable_checkpointing(self) -> None:
        """Recompute the activations of the U-Net and of the autoencoder in backward passes instead of keeping them."""
        contexts = noop_context_fn if self.branch is None else self.branch.contexts
        # The U-Net draws no random numbers, and saving the generators' state would wait for the device.
        self.prior.unet.enable_gradient_checkpointing(
            partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        )
        for part in {self.prior.vae, getattr(self.decoder, "model", self.prior.vae)}:
            part.enable_gradient_checkpointing(
                partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
            )

    def decode(self, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
        return self.decoder.decode(latents)

    def ask(
        self, latents_t: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"], *questions: Question
    ) -> list[Float[Tensor, "batch c h w"]]:
        """One estimate per question; all are rows of one batch, and the branch is switched on row by row."""
        rows = len(questions)
        latents_t, t = latents_t.repeat(rows, 1, 1, 1), t.repeat(rows)
        return list(self.schedule.eps_of(self._output(latents_t, t, questions), latents_t, t).chunk(rows))

    def ask_beside(
        self, latents_t: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"], question: Question, lesson: Lesson
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, ""]]:  # fmt: skip
        """The estimate for a question, and the branch's loss of a lesson, in one forward pass.

        Each row keeps to itself, so that a backward pass of both gives the gradients of each, exactly.
        """
        learner = Question(lesson.text, True, lesson.c2w)
        rows = torch.cat([latents_t, lesson.latents_t]), torch.cat([t, lesson.t])
        output, learnt = self._output(*rows, (question, learner)).chunk(2)
        return self.schedule.eps_of(output, latents_t, t), lesson.loss(learnt)

    def _output(
        self, latents_t: Float[Tensor, "rows c h w"], t: Int[Tensor, "rows"], questions: tuple[Question, ...]
    ) -> Float[Tensor, "rows c h w"]:
        """The network's raw output for a batch of rows for each question."""
        text = torch.cat([question.text for question in questions])
        if not any(question.of_branch for question in questions):
            return self.prior.output(latents_t, t, text)
        assert self.branch is not None
        batch = len(latents_t) // len(questions)
        # Filled on the device: copying a list there would make the host wait.
        rows_of = lambda flags: torch.cat([torch.full((batch,), flag, device=t.device) for flag in flags])  # noqa: E731
        of_branch = rows_of([question.of_branch for question in questions])
        has_camera = rows_of([question.c2w is not None for question in questions])
        nowhere = torch.zeros(batch, 4, 4, device=t.device)
        c2w = torch.cat([nowhere if question.c2w is None else question.c2w for question in questions])
        return self.branch.output(latents_t, t, text, c2w, of_branch, has_camera)
