"""The training loop of all parts of the embedded prior: seeded, resumable, with an average of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FitConfig:
    num_steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    ema_decay: float = 0.999
    checkpoint_every_s: float = 60.0
    time_limit_s: float | None = None
    """Ends the training, with its learning-rate schedule, after this many seconds even if steps are left."""


def fit(
    name: str,
    model: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    config: FitConfig,
    folder: Path,
    seed: int,
) -> nn.Module:
    """Train `model` on `loss_of(generator)` and leave in it the moving average of its weights.

    A checkpoint in `folder` is taken up again, a finished one is only loaded. Each step draws from its own
    seed, so that an interrupted run sees the data that an uninterrupted one sees.
    """
    device = next(model.parameters()).device
    path = folder / f"{name}.pt"
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )  # fmt: skip
    average = [parameter.detach().clone() for parameter in model.parameters()]
    first_step = 0
    if path.exists():
        saved = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average = [tensor.to(device) for tensor in saved["average"]]
        first_step = saved["step"]

    def save(step: int) -> None:
        temporary = path.with_suffix(".tmp")
        torch.save(
            {
                "step": step,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
            },
            temporary,
        )
        temporary.replace(path)

    parameters = list(model.parameters())
    generator = torch.Generator(device=device)
    started = last_save = time.monotonic()
    running = torch.zeros((), device=device)
    report_every = max(1, config.num_steps // 20)
    print(f"[{name}] {sum(p.numel() for p in parameters) / 1e6:.2f} M parameters, "
          f"steps {first_step} to {config.num_steps} on {device}", flush=True)  # fmt: skip
    model.train()
    for step in range(first_step, config.num_steps):
        generator.manual_seed(seed * 1_000_003 + step)
        rate = config.learning_rate * min(1.0, (step + 1) / config.warmup_steps)
        progress = step / config.num_steps
        if config.time_limit_s is not None:
            progress = max(progress, (time.monotonic() - started) / config.time_limit_s)
            if progress >= 1:
                print(f"[{name}] time is up at step {step}, loss {running.item():.4f}", flush=True)
                break
        rate *= 0.5 + 0.5 * math.cos(math.pi * progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        # An average over fewer steps than its memory would retain the random start.
        decay = min(config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - decay)
        running.lerp_(loss.detach(), 0.02 if step else 1.0)
        if (step + 1) % report_every == 0:
            speed = (step + 1 - first_step) / (time.monotonic() - started)
            print(f"[{name}] step {step + 1}/{config.num_steps} loss {running.item():.4f} "
                  f"{speed:.2f} it/s, {(config.num_steps - step - 1) / speed:.0f} s left", flush=True)  # fmt: skip
        if time.monotonic() - last_save > config.checkpoint_every_s:
            save(step + 1)
            last_save = time.monotonic()
    save(config.num_steps)
    with torch.no_grad():
        for parameter, smooth in zip(parameters, average, strict=True):
            parameter.copy_(smooth)
    return model.eval()
