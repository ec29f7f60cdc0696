"""That nothing waits for the GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def no_waits() -> Iterator[None]:
    """Inside, whatever waits for the GPU raises RuntimeError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That this is a prototype.
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
