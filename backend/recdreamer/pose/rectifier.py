"""The rectifying ratio r(x_t|y), in its two forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.pose.control import YawPosterior, wanted_classes
from recdreamer.pose.marginal import PoseMarginal
from recdreamer.shared.protocol import PoseMode, RequestError


def marginal_log_ratio(
    log_probs: Float[Tensor, "batch classes"],
    marginal: Float[Tensor, "batch classes"],
    target: Float[Tensor, "classes"] | Float[Tensor, "batch classes"],
) -> Float[Tensor, "batch"]:
    """log Σ_c f(c) / p̄_t(c|y) · p(c|x_t, y): Theorem 2 in its discrete form (paper, Sec. 3.3).

    One value for each sample: the released code averages the ratio over the batch before the logarithm.

    An undecided view where 0.8 of the views were fronts: 0.5 / 0.8 · 0.5 + 0.5 / 0.2 · 0.5 = 1.5625.

    >>> even, mostly_front = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.8, 0.2]])
    >>> round(marginal_log_ratio(even.log(), mostly_front, even).exp().item(), 4)
    1.5625
    """
    weights = target / marginal.clamp_min(1e-6)
    return torch.logsumexp(log_probs + weights.log(), dim=-1)


def camera_log_ratio(
    log_probs: Float[Tensor, "batch classes"], wanted: Float[Tensor, "batch classes"]
) -> Float[Tensor, "batch"]:
    """log Σ_c w_c(azimuth) · p(c|x_t, y): pose control (paper, C.5), blended between neighbouring classes.

    >>> log_probs, wanted = torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[0.5, 1.0]])
    >>> round(camera_log_ratio(log_probs, wanted).exp().item(), 4)
    0.65
    """
    return torch.logsumexp(log_probs + wanted.clamp_min(1e-12).log(), dim=-1)


def target_distribution(target: Mapping[str, float], labels: Sequence[str]) -> Float[Tensor, "classes"]:
    """f(c) in the order of `labels`, adding up to 1; empty is uniform. Raises RequestError.

    >>> target_distribution({"front": 3.0, "back": 1.0}, ("front", "left", "back")).tolist()
    [0.75, 0.0, 0.25]
    """
    if not target:
        return torch.full((len(labels),), 1 / len(labels))
    unknown = set(target) - set(labels)
    shares = torch.tensor([float(target.get(label, 0.0)) for label in labels])
    if unknown or bool((shares < 0).any()) or not 0 < float(shares.sum()) < float("inf"):
        raise RequestError(
            f"The target distribution {dict(target)} does not fit the pose classes {', '.join(labels)}.",
            "Give these classes shares of zero or more, at least one of them above zero.",
        )
    return shares / shares.sum()


@runtime_checkable
class Classifier(Protocol):
    """p(c|x) of pictures in [0, 1], with gradient: of poses, or of any attribute."""

    labels: tuple[str, ...]

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Log-probabilities; a generator perturbs the pictures."""
        ...


class Rectifier:
    """The rectifying ratio of clean estimates, and the running statistics that it depends on."""

    def __init__(
        self,
        classifier: Classifier,
        mode: PoseMode,
        class_azimuth_deg: Float[Tensor, "classes"] | None,
        num_intervals: int,
        n_ema: int,
        num_timesteps: int = 1000,
        target: Mapping[str, float] | None = None,
        device: torch.device | str = "cpu",
        name: str = "",
        yaw: YawPosterior | None = None,
    ) -> None:
        """`target` is f(c) by label, normalized here; None or empty is uniform. `name` identifies it in a checkpoint.
        With `yaw` each camera of the marginal form has its own target.

        Raises RequestError for unknown labels.
        """
        self.classifier, self.mode, self.class_azimuth_deg = classifier, mode, class_azimuth_deg
        self.key = f"{name}.marginal" if name else "marginal"
        self.marginal = PoseMarginal(len(classifier.labels), num_intervals, n_ema, num_timesteps).to(device)
        self.target = target_distribution(target or {}, classifier.labels).to(device)
        self.yaw = yaw
        self.is_running = True
        """False once the marginal is fixed."""

    def log_ratio(
        self,
        images: Float[Tensor, "batch 3 height width"],
        t: Int[Tensor, "batch"],
        azimuth_deg: Float[Tensor, "batch"] | None,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch classes"]]:
        """log r of decoded clean estimates, and the log p(c|x) behind it, both with gradient."""
        log_probs = self.classifier(images, generator)
        if self.mode == "camera":
            assert self.class_azimuth_deg is not None and azimuth_deg is not None
            wanted = wanted_classes(azimuth_deg, self.class_azimuth_deg)
            return camera_log_ratio(log_probs, wanted), log_probs
        target = self.target.expand_as(log_probs)
        if self.yaw is not None and azimuth_deg is not None:
            target = self.yaw.target(azimuth_deg)
        return marginal_log_ratio(log_probs, self.marginal.at(t), target), log_probs

    def observe(
        self,
        log_probs: Float[Tensor, "batch classes"],
        t: Int[Tensor, "batch"],
        azimuth_deg: Float[Tensor, "batch"] | None,
    ) -> None:
        """Update the yaw posterior and the running marginal with classified views (Alg. 1, line 5)."""
        if self.yaw is not None and azimuth_deg is not None:
            self.yaw.update(azimuth_deg, log_probs, self.marginal.at(t))
        if self.is_running:
            self.marginal.update(t, log_probs.exp())

    @torch.no_grad()
    def fix_marginal(self, estimates: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
        """Fix every interval's marginal from `estimates(t)`, clean estimates of the prior's own samples.

        This is the ablation of p(c|y) in Sec. 4.4.
        """
        intervals = len(self.marginal.probs)
        middles = ((torch.arange(intervals) + 0.5) * self.marginal.interval_length).long()
        for interval, t in enumerate(middles.to(self.marginal.probs.device)):
            self.marginal.probs[interval] = self.classifier(estimates(t), generator).exp().mean(0)
        self.is_running = False

    def tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint."""
        named = {self.key: self.marginal.probs}
        return named if self.yaw is None else named | {"yaw": self.yaw.log_evidence}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.marginal.probs.copy_(tensors[self.key])
        if self.yaw is not None and "yaw" in tensors:
            self.yaw.log_evidence.copy_(tensors["yaw"])
