"""Balances points in the plane with unbalanced classes: Theorem 1 by weights, Corollary 1 by a flow.

    python tools/measure/toy_points.py

Every density has a closed form here, that of the particles too: noise makes a Gaussian of each. Draws
docs/images/toy-points.png and prints the share of each class; needs Matplotlib.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

MEANS = torch.tensor([
    [[-1.3, 0.9], [0.0, 1.3], [1.3, 0.9]],
    [[-1.2, -0.9], [-0.5, -0.3], [-1.5, -0.2]],
    [[1.2, -0.9], [0.5, -0.4], [1.5, -0.2]],
])  # fmt: skip
"""Three Gaussians for each of three classes."""
DEVIATION = 0.16
SHARES = torch.tensor([0.70, 0.20, 0.10])
"""p(c)."""
TARGET = torch.full((3,), 1 / 3)
"""f(c)."""
COLORS = ("tab:blue", "tab:orange", "tab:green")


def log_classes(x_t: Tensor, sigma_t: Tensor) -> Tensor:
    """log p_t(x_t|c), (points, classes); alpha_t² + sigma_t² = 1."""
    alpha_t = (1 - sigma_t**2).sqrt()
    variance = alpha_t**2 * DEVIATION**2 + sigma_t**2
    square = (x_t[:, None, None] - alpha_t[..., None, None] * MEANS).square().sum(-1)
    parts = -square / (2 * variance[..., None]) - (2 * math.pi * variance[..., None]).log()
    return parts.logsumexp(-1) - math.log(MEANS.shape[1])


def log_p(x_t: Tensor, sigma_t: Tensor) -> Tensor:
    return (log_classes(x_t, sigma_t) + SHARES.log()).logsumexp(-1)


def log_r(x_t: Tensor, sigma_t: Tensor) -> Tensor:
    """log Σ_c f(c) / p(c) · p(c|x_t), the factor of Theorems 1 and 2."""
    posterior = (log_classes(x_t, sigma_t) + SHARES.log()).log_softmax(-1)
    return (posterior + (TARGET / SHARES).log()).logsumexp(-1)


def log_q(x_t: Tensor, sigma_t: Tensor, particles: Tensor) -> Tensor:
    """log q_t(x_t) of the particles up to a constant; the LoRA branch learns it, here it is exact."""
    alpha_t = (1 - sigma_t**2).sqrt()
    square = (x_t[:, None] - alpha_t[..., None] * particles).square().sum(-1)
    return (-square / (2 * sigma_t**2)).logsumexp(-1)


def sample(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points and their classes."""
    classes = torch.multinomial(SHARES, count, replacement=True, generator=generator)
    parts = torch.randint(MEANS.shape[1], (count,), generator=generator)
    noise = torch.randn(count, 2, generator=generator)
    return MEANS[classes, parts] + DEVIATION * noise, classes


def flow(is_usd: bool, count: int, num_steps: int, generator: torch.Generator) -> Tensor:
    """Particles that follow VSD, or USD, from a cloud of noise (Eq. 13)."""
    particles = torch.randn(count, 2, generator=generator)
    for step in range(num_steps):
        # From high to low noise: first the share of each class, then the positions within it.
        highest = 0.98 - 0.58 * step / num_steps
        sigma_t = 0.12 + (highest - 0.12) * torch.rand(count, 1, generator=generator)
        eps = torch.randn(count, 2, generator=generator)
        x_t = ((1 - sigma_t**2).sqrt() * particles + sigma_t * eps).requires_grad_()
        value = log_p(x_t, sigma_t) - log_q(x_t, sigma_t, particles)
        if is_usd:
            value = value + log_r(x_t, sigma_t)
        (towards,) = torch.autograd.grad(value.sum(), x_t)
        rate = 0.1 * (1 - step / num_steps)
        # Weighted by sigma_t², as ω(t), and limited, so that distant particles do not jump.
        particles = particles + rate * sigma_t**2 * towards.clamp(-10, 10)
    return particles


def shares_of(points: Tensor) -> Tensor:
    """Mean of p(c|x)."""
    joint = log_classes(points, torch.zeros(len(points), 1)) + SHARES.log()
    return joint.softmax(-1).mean(0)


def draw(panels: list[tuple[str, Tensor]], path: Path) -> None:
    """Plot each set of points on the density that it should follow."""
    from matplotlib.figure import Figure

    axis = torch.linspace(-2.2, 2.2, 160)
    grid = torch.cartesian_prod(axis, axis)
    clean = torch.zeros(len(grid), 1)
    plain = log_p(grid, clean)
    rectified = plain + log_r(grid, clean)
    figure = Figure(figsize=(9, 2.55), layout="constrained")
    for axes, (title, points), density in zip(
        figure.subplots(1, 4), panels, (plain, rectified, plain, rectified), strict=True
    ):
        field = density.exp().view(160, 160).T
        axes.imshow(
            field, cmap="Greys", vmax=2.5 * float(field.max()), origin="lower", extent=(-2.2, 2.2) * 2
        )
        classes = log_classes(points, torch.zeros(len(points), 1)).add(SHARES.log()).argmax(-1)
        axes.scatter(*points.T, s=4, color=[COLORS[c] for c in classes.tolist()], linewidths=0)
        shares = " / ".join(f"{100 * share:.0f}" for share in shares_of(points).tolist())
        axes.set_title(f"{title}\n{shares} %", fontsize=10)
        axes.set(xlim=(-2.2, 2.2), ylim=(-2.0, 2.0), xticks=[], yticks=[], aspect="equal")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, bbox_inches="tight", pad_inches=0.04)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/toy-points.png"))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    many, _ = sample(20 * options.count, generator)
    # Theorem 1: points of p, resampled by their weight r(x), are points of the rectified density.
    weights = log_r(many, torch.zeros(len(many), 1)).exp()
    again = many[torch.multinomial(weights, options.count, generator=generator)]
    panels = [
        ("samples of p", many[: options.count]),
        ("weighted by r (Theorem 1)", again),
        ("particles of VSD", flow(False, options.count, options.steps, generator)),
        ("particles of USD", flow(True, options.count, options.steps, generator)),
    ]
    for title, points in panels:
        print(f"{title}: {', '.join(f'{share:.3f}' for share in shares_of(points).tolist())}")
    draw(panels, options.out)


if __name__ == "__main__":
    main()
