"""Trains the oracle on balanced pictures that no other part is trained on."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from recdreamer.evaluation.figurines import Photos, pose_class
from recdreamer.evaluation.oracle import Oracle

from augment import degrade
from common import FitConfig, fit


def train_oracle(photos: Photos, num_steps: int, batch: int, folder: Path, seed: int) -> Oracle:
    device = photos.images.device
    torch.manual_seed(seed)
    oracle = Oracle().to(device)
    pose = pose_class(photos.azimuth_deg)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pose), (batch,), generator=generator, device=device)
        logits = oracle(degrade(photos.images[rows].float() / 255, generator))
        targets = (pose[rows], photos.kind[rows], photos.color[rows], photos.hat[rows])
        return sum(F.cross_entropy(guess, target) for guess, target in zip(logits, targets, strict=True))

    return fit("oracle", oracle, loss_of, FitConfig(num_steps), folder, seed)


@torch.no_grad()
def oracle_accuracy(oracle: Oracle, photos: Photos) -> dict[str, float]:
    """Accuracy on held-out pictures."""
    logits = [oracle(chunk.float() / 255) for chunk in photos.images.split(256)]
    pose, kind, color, hat = (torch.cat(parts).argmax(-1) for parts in zip(*logits, strict=True))
    return {
        "pose": (pose == pose_class(photos.azimuth_deg)).float().mean().item(),
        "kind": (kind == photos.kind).float().mean().item(),
        "color": (color == photos.color).float().mean().item(),
        "hat": (hat == photos.hat).float().mean().item(),
    }
