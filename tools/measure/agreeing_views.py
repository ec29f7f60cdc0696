"""Why views of one object must be asked together: 24 views that follow ∇ log r, with one target and with a target each.

    python tools/measure/agreeing_views.py --out docs/images/agreeing-views.png

No pictures: each view is four logits, as if it could become anything. Left the paper's marginal form, right the inferred
yaw; below the running marginal, which is content with both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from recdreamer.pose.control import YawPosterior
from recdreamer.pose.marginal import PoseMarginal
from recdreamer.pose.rectifier import marginal_log_ratio

AZIMUTH_DEG = torch.arange(0, 360, 15.0)
CLASSES_DEG = torch.tensor([0.0, 90.0, 180.0, 270.0])
NAMES = ("front", "right", "back", "left")
COLORS = torch.tensor([[0.86, 0.24, 0.20], [0.95, 0.75, 0.20], [0.22, 0.42, 0.78], [0.25, 0.66, 0.42]])


def followed(is_inferred: bool, seed: int, num_steps: int, views_per_step: int = 4) -> tuple[Tensor, Tensor]:
    """The reading of all views, and the running marginal, after each step: (steps, 24, 4), (steps, 4)."""
    generator = torch.Generator().manual_seed(seed)
    logits = (0.3 * torch.randn(len(AZIMUTH_DEG), 4, generator=generator)).requires_grad_()
    marginal, yaw = PoseMarginal(4, num_intervals=1, n_ema=30), YawPosterior(CLASSES_DEG, memory=100)
    t, read, running = torch.zeros(views_per_step, dtype=torch.long), [], []
    for _ in range(num_steps):
        seen = torch.randperm(len(AZIMUTH_DEG), generator=generator)[:views_per_step]
        log_probs, before = logits[seen].log_softmax(-1), marginal.at(t)
        target = torch.full_like(before, 0.25)
        if is_inferred:
            target = yaw.target(AZIMUTH_DEG[seen])
            yaw.update(AZIMUTH_DEG[seen], log_probs, before)
        (grad,) = torch.autograd.grad(marginal_log_ratio(log_probs, before, target).sum(), logits)
        marginal.update(t, log_probs.exp())
        with torch.no_grad():
            logits += 0.3 * grad
        read.append(logits.detach().softmax(-1))
        running.append(marginal.probs[0].clone())
    return torch.stack(read), torch.stack(running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/agreeing-views.png"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    figure, axes = plt.subplots(
        2, 2, figsize=(9, 4.2), sharex=True, height_ratios=(3, 1), constrained_layout=True
    )
    for column, (is_inferred, title) in enumerate(
        ((False, "one target for all"), (True, "the yaw inferred"))
    ):
        read, running = followed(is_inferred, options.seed, options.steps)
        axes[0, column].imshow(
            (read @ COLORS).transpose(0, 1),
            aspect="auto",
            extent=(0, options.steps, 360, 0),
            interpolation="nearest",
        )
        axes[0, column].set(title=title, yticks=range(0, 361, 90))
        for index, name in enumerate(NAMES):
            axes[1, column].plot(running[:, index], color=COLORS[index].tolist(), label=name, linewidth=1)
        axes[1, column].set(ylim=(0, 0.7), xlabel="steps of four views")
    axes[0, 0].set_ylabel("azimuth of the view")
    axes[1, 0].set_ylabel("running p̄")
    axes[1, 1].legend(ncols=4, fontsize=7, frameon=False, loc="upper right")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
