"""One switch between the Warp kernels and the plain torch reference, and Warp's set-up.

Warp (CPU and CUDA from one source) is used where it can be imported and the tensors are float32;
everything else goes to the reference, which the tests compare the kernels with.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["auto", "warp", "torch"]

_backend: Backend = "torch"


def set_backend(backend: Backend) -> None:
    """Choose who computes from now on; `auto` is Warp where it is installed."""
    global _backend
    if backend == "warp" and not _warp_is_installed():
        raise ValueError(
            "The warp backend was asked for, but warp-lang is not installed: pip install warp-lang."
        )
    _backend = backend


def uses_warp(tensor: Tensor) -> bool:
    """True when kernels on `tensor` run in Warp."""
    return _backend != "torch" and tensor.dtype == torch.float32 and _warp_is_installed()


def _warp_is_installed() -> bool:
    return importlib.util.find_spec("warp") is not None
