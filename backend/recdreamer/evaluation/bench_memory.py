"""Which way through a step a card of some size gets, and whether it fits: by a limit on torch's allocator."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from recdreamer.device import choose_dtype
from recdreamer.evaluation.bench_step import prepare
from recdreamer.models.radiance import Particles
from recdreamer.recorded_step import RecordedSteps
from recdreamer.report import JobError
from recdreamer.shared.protocol import Method
from recdreamer.stages.memory import GIB, fitted

CONTEXT_GIB = 0.5
"""Of CUDA itself and of a desktop, beside the 93 % of a card's memory that are usable."""
STEPS, WARM_UP_STEPS = 12, 4
"""The first steps run as written, or are recorded."""


def bench_memory(
    cards_gib: Sequence[float], methods: Sequence[Method], num_views: int, prior_name: str, device: torch.device,
    settings: dict[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    """For each card and method the way that was chosen, whether steps along it fit, their peak memory and time.

    A way that does not fit is followed by the next one, as in a job. Raises JobError without a GPU.
    """
    if device.type != "cuda":
        raise JobError("device", "The memory of a CPU is not measured.", "Choose a GPU.")
    if device.index is None:  # A limit of memory needs one.
        device = torch.device("cuda", torch.cuda.current_device())
    total = torch.cuda.get_device_properties(device).total_memory / GIB
    rows = []
    for card in cards_gib:
        torch.cuda.set_per_process_memory_fraction(min(1.0, (0.93 * card - CONTEXT_GIB) / total), device)
        for method in methods:
            row = _row(method, num_views, prior_name, device, settings)
            rows.append({"card_gib": card, "method": method} | row)
            print(rows[-1], flush=True)
    torch.cuda.set_per_process_memory_fraction(1.0, device)
    return rows


def _row(
    method: Method, num_views: int, prior_name: str, device: torch.device, settings: dict[str, Any]
) -> dict[str, Any]:
    said: list[str] = []
    settings = settings | {"optimize.num_views": num_views, "geometry.num_views": 1, "texture.num_views": 1}
    way: dict[str, Any] = {}
    for attempt in range(2):
        _free()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            return {"fits": True, "steps_down": attempt, "said": said} | _steps(
                method, prior_name, device, settings | way, said
            )
        except torch.OutOfMemoryError:
            pass
        if way:
            break
        way = {"guidance.views_at_once": 1, "guidance.checkpointing": True}
    return {"fits": False, "said": said}


def _steps(
    method: Method, prior_name: str, device: torch.device, settings: dict[str, Any], said: list[str]
) -> dict[str, Any]:
    subject = prepare(method, "shape", prior_name, device, choose_dtype(prior_name, device), settings)
    config = fitted(subject.config, subject.prior, said.append)
    if config.guidance.checkpointing:
        subject.guide.denoiser.enable_checkpointing()  # pyright: ignore[reportAttributeAccessIssue]
    steps = RecordedSteps(config.step("shape"), subject.prior, subject.guide, subject.lora, said.append)
    particles, walls = Particles(config, device), []
    for number in range(STEPS):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        steps.run(number, particles.at(number), particles.cameras(number))
        torch.cuda.synchronize(device)
        walls.append(1e3 * (time.perf_counter() - started))
    return {
        "views_at_once": config.guidance.views_at_once or config.optimize.num_views,
        "checkpointing": config.guidance.checkpointing,
        "peak_gib": round(torch.cuda.max_memory_allocated(device) / GIB, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved(device) / GIB, 2),
        "ms": round(statistics.median(walls[WARM_UP_STEPS:]), 1),
    }


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The measurement as a Markdown table.

    >>> print(as_table([{"card_gib": 8, "method": "usd", "fits": False, "said": []}]).splitlines()[-1])
    | 8 GB | usd | no | | | | | |
    """
    lines = [
        "| card | method | fits | views at once | computed again | peak GiB | reserved GiB | ms a step |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        start = f"| {row['card_gib']:g} GB | {row['method']} | "
        if not row["fits"]:
            lines.append(f"{start}no | | | | | |")
            continue
        fits = "yes" if not row["steps_down"] else "after a step down"
        lines.append(
            f"{start}{fits} | {row['views_at_once']} | {'yes' if row['checkpointing'] else 'no'} | "
            f"{row['peak_gib']:.1f} | {row['reserved_gib']:.1f} | {row['ms']:.0f} |"
        )
    return "\n".join(lines)


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
