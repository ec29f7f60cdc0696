"""Device, precision and random generators of a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from recdreamer.parallel.view_shares import Share, StepGenerator
from recdreamer.report import JobError
from recdreamer.shared.protocol import DEVICES
from recdreamer.shared.safe_files import printable, reason_of
from recdreamer.shared.worlds import world_of

Precision = Literal["auto", "bfloat16", "float16", "single"]


def choose_dtype(prior: str, device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """The named precision; `auto` is bfloat16 on a GPU, or float16 on one without it (Turing).

    Embedded priors stay in float32, as they are too small to gain from halves; and so does everything on a CPU.
    """
    if device.type == "cuda" and precision != "auto":
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "single": torch.float32}[precision]
    if device.type != "cuda" or world_of(prior) is not None:
        return torch.float32
    is_old = torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0)
    return torch.float16 if is_old else torch.bfloat16


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises JobError if the named device cannot be used here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reason = ""
    if DEVICES.fullmatch(name):
        try:
            torch.zeros(1, device=name)
            return torch.device(name)
        except (RuntimeError, AssertionError) as error:
            reason = f": {reason_of(error)}"
    raise JobError(
        "device",
        f"The device {printable(name)[:40]!r} cannot be used: {what_is_here()}.",
        f"Choose 'auto' or 'cpu'{f' (torch says{reason})' if torch.cuda.is_available() and reason else ''}.",
    )


def what_is_here() -> str:
    """The devices of this machine, in words."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = ", ".join(f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(count))
    return f"this machine has a CPU and {gpus or 'no CUDA GPU'}"


def gpu_memory(device: torch.device) -> dict[str, int]:
    """Bytes that this process has taken of a GPU at most, and those of the whole GPU; empty for a CPU."""
    if device.type != "cuda":
        return {}
    total = torch.cuda.get_device_properties(device).total_memory
    return {"peak": torch.cuda.max_memory_reserved(device), "total": total}


@contextmanager
def tensor_floats(is_on: bool) -> Iterator[None]:
    """Let matrix products of float32 use a GPU's tensor cores, with 10 bits of fraction instead of 23 (TF32).

    >>> with tensor_floats(True):
    ...     torch.backends.cuda.matmul.allow_tf32
    True
    >>> torch.backends.cuda.matmul.allow_tf32
    False
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before or is_on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def step_seed(seed: int, step: int) -> int:
    """The seed of all randomness of one step, the same with or without a restart in between.

    >>> step_seed(2, 5)
    2000011
    """
    return (seed * 1_000_003 + step) % (1 << 63)


def step_generator(seed: int, step: int, device: torch.device, share: Share | None = None) -> StepGenerator:
    """A source of random numbers seeded for one step, of which this process has a share of the views, or all."""
    generator = StepGenerator(device=device)
    generator.manual_seed(step_seed(seed, step))
    if share is not None:
        generator.share = share
    return generator
