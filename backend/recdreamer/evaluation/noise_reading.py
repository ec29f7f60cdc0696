"""How well poses are read from noisy pictures, p(c|x_t), and from their clean estimates (paper, Sec. 4.4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recdreamer.evaluation.classifier_accuracy import TIMESTEPS, far_from_borders
from recdreamer.evaluation.classifier_subjects import ClassifierBench
from recdreamer.evaluation.figurines import COLORS, KINDS, pose_class
from recdreamer.shared.protocol import write_atomically

INPUTS = ("clean estimate", "noisy picture")


def noise_readings(bench: ClassifierBench, prompts: Sequence[str], each: int) -> dict[str, Any]:
    """By input and timestep: `accuracy`, and `truth`, the mean probability of the true pose. 0.25 is chance.

    `each` true renders of every prompt at random azimuths are noised; those within BORDER_DEG of two poses are left out.
    The classifier has the templates that the prior draws. Prompts are those of figures without a hat.
    """
    sure: dict[tuple[str, int], list[Tensor]] = {(name, t): [] for name in INPUTS for t in TIMESTEPS}
    right: dict[tuple[str, int], list[Tensor]] = {key: [] for key in sure}
    schedule = bench.prior.schedule
    for prompt in prompts:
        color, kind = prompt.split()[-2:]
        subject = bench.subject(KINDS.index(kind), list(COLORS).index(color))
        classifier = bench.classifier(subject)
        azimuth_deg = 360 * torch.rand(each, generator=bench.generator, device=bench.device)
        azimuth_deg = azimuth_deg[far_from_borders(azimuth_deg)]
        truth = pose_class(azimuth_deg)
        with torch.no_grad():
            latents = bench.prior.encode(bench.photos(subject, azimuth_deg))
            text = subject.text.expand(len(latents), -1, -1)
            for step in TIMESTEPS:
                t = torch.full((len(latents),), step, device=bench.device)
                eps = torch.randn(latents.shape, generator=bench.generator, device=bench.device)
                latents_t = schedule.add_noise(latents, eps, t)
                clean = schedule.x0_hat(latents_t, bench.prior.eps(latents_t, t, text), t)
                for name, seen in zip(INPUTS, (clean, latents_t), strict=True):
                    probs = bench.probs(classifier, bench.prior.decode(seen))
                    right[name, step].append((probs.argmax(1) == truth).float())
                    sure[name, step].append(probs.gather(1, truth[:, None])[:, 0])

    def by_time(values: dict[tuple[str, int], list[Tensor]]) -> dict[str, list[float]]:
        return {name: [torch.cat(values[name, step]).mean().item() for step in TIMESTEPS] for name in INPUTS}

    return {"timesteps": list(TIMESTEPS), "accuracy": by_time(right), "truth": by_time(sure)}


def write_noise_readings(
    out: Path, prompts: Sequence[str], extractor: str, device: torch.device, each: int
) -> None:
    """Write readings.json; what is there stays."""
    path = out / "readings.json"
    if not path.exists():
        bench = ClassifierBench(out / "readings", device, extractor, seed=0)
        write_atomically(path, json.dumps(noise_readings(bench, prompts, each), indent=2))
