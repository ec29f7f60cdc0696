"""Optimizer and loss by which every stage follows a gradient on the latents."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.parallel.team import added_grads
from recdreamer.parallel.view_shares import ALL_VIEWS, Share


@runtime_checkable
class Pictured(Protocol):
    """A model that can be pictured."""

    def picture(
        self, cameras: Cameras, size_px: int, brightness: float = 0.8
    ) -> Float[Tensor, "views 3 size_px size_px"]: ...


@runtime_checkable
class Rendered(Protocol):
    """The result of `Model.render`."""

    @property
    def rgb(self) -> Float[Tensor, "views 3 height width"]: ...


@runtime_checkable
class Model(Protocol):
    """θ of a stage: it renders itself and follows a gradient on the latents of its renders."""

    device: torch.device

    def render(self, cameras: Cameras, step: int, generator: torch.Generator) -> Rendered: ...

    def descend(
        self,
        rendering: Any,
        latents: Float[Tensor, "views c h w"],
        grad: Float[Tensor, "views c h w"],
        step: int,
        generator: torch.Generator,
    ) -> None:
        """`rendering` is the result of `render`."""
        ...


class Descent:
    """An optimizer whose rates fall along a cosine, and that records the first non-finite loss."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, num_steps: int, final_rate: float, device: torch.device
    ) -> None:
        """`final_rate` is the final share of the learning rates."""
        self.optimizer, self.num_steps, self.final_rate = optimizer, num_steps, final_rate
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.first_bad_step = torch.full((), torch.inf, device=device)
        """The first step with a non-finite loss; kept on the device, so that no step waits for it."""
        self.now = torch.zeros((), device=device)
        """The present step."""

    def step(self, loss: Float[Tensor, ""], step: int, share: Share = ALL_VIEWS) -> None:
        """One optimizer step down `loss`; none if nothing that may change was in view."""
        self.begin(step)
        self.move(loss, share)

    def begin(self, step: int) -> None:
        """Set the numbers that change with time; before `move`, or before a recording of it is replayed."""
        self.now.fill_(step)
        left = 0.5 + 0.5 * math.cos(math.pi * step / self.num_steps)
        left = self.final_rate + (1 - self.final_rate) * left
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(left * rate)
            else:
                group["lr"] = left * rate

    def move(self, loss: Float[Tensor, ""], share: Share = ALL_VIEWS) -> None:
        """The optimizer step alone; a CUDA graph may record this.

        `loss` is the mean over the views of `share`; other processes have the rest of it.
        """
        if not loss.requires_grad and not share.is_split:
            return
        first = torch.minimum(self.first_bad_step, self.now)
        self.first_bad_step.copy_(torch.where(torch.isfinite(loss.detach()), self.first_bad_step, first))
        self.optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:
            (loss if not share.is_split else loss * share.weight).backward()
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        if added_grads(parameters, share):
            self.optimizer.step()


def field_optimizer(
    named: Iterable[tuple[str, Tensor]], grid_rate: float, network_rate: float
) -> torch.optim.Adam:
    """Adam as in Instant NGP, with one rate for hash grids (by their names) and one for everything else.

    The update is one kernel, also on a CPU, where it takes a tenth of the time. On a GPU the rates are tensors, so that a
    CUDA graph may record it.
    """
    grid, network = [], []
    for name, parameter in named:
        (grid if "grid" in name else network).append(parameter)
    on_gpu = all(parameter.is_cuda for parameter in (*grid, *network))
    groups: list[dict[str, Any]] = [
        {"params": grid, "lr": grid_rate},
        {"params": network, "lr": network_rate},
    ]
    for group in groups if on_gpu else ():
        group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
    return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, capturable=on_gpu, fused=True)


def distillation_loss(
    latents: Float[Tensor, "views c h w"], grad: Float[Tensor, "views c h w"]
) -> Float[Tensor, ""]:
    """A loss whose gradient on the latents (or on pictures) is grad / views exactly, under any loss scale.

    Exactly, too, where `grad` is far smaller than what it belongs to: its value is no distance to anything.

    >>> picture = torch.full((2, 3, 1, 1), 0.5, requires_grad=True)
    >>> distillation_loss(picture, torch.full_like(picture, 3e-9)).backward()
    >>> picture.grad.unique().tolist() == [torch.tensor(1.5e-9).item()]
    True
    """
    return (latents * grad.detach()).sum() / len(latents)
