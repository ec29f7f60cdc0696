"""One switch between the Warp kernels and the plain torch reference, and Warp's setup.

Warp (CPU and CUDA from one source) computes float32 tensors. Other types go to the reference, which the tests
compare the kernels with.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from recdreamer.cache import cache_folder

Backend = Literal["auto", "warp", "torch"]

_backend: Backend = "auto"


def set_backend(backend: Backend) -> None:
    """Select the implementation from now on; `auto` is Warp where it is installed."""
    global _backend
    if backend == "warp" and not warp_is_installed():
        raise ValueError("The warp backend is not installed: run pip install warp-lang.")
    _backend = backend


def uses_warp(tensor: Tensor) -> bool:
    """True when kernels on `tensor` run in Warp."""
    return _backend != "torch" and tensor.dtype == torch.float32 and warp_is_installed()


@functools.cache
def warp_is_installed() -> bool:
    return importlib.util.find_spec("warp") is not None


@functools.cache
def warp_module() -> ModuleType:
    """Warp, set up once: silent on stdout, which carries events, and with a kernel cache per user."""
    import warp as wp

    wp.config.log_level = wp.LOG_ERROR
    if wp.config.kernel_cache_dir is None and "WARP_CACHE_PATH" not in os.environ:
        wp.config.kernel_cache_dir = str(cache_folder("warp"))
    wp.init()
    return wp


def launch(kernel: Any, dim: Sequence[int] | int, arguments: Sequence[Any]) -> None:
    """Run a Warp kernel on contiguous tensors, on their device and torch's current stream.

    A tensor one axis longer than the kernel's array (a row per vector) is passed as vectors.
    """
    wp = warp_module()
    device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
    passed = []
    for argument, parameter in zip(arguments, kernel.adj.args, strict=True):
        if isinstance(argument, Tensor):
            # Cheap descriptors, not arrays: Warp neither owns the memory nor sees torch's gradients.
            argument = wp.from_torch(argument.detach(), dtype=parameter.type.dtype, return_ctype=True)
        passed.append(argument)
    stream = wp.stream_from_torch(device) if device.type == "cuda" else None
    wp.launch(kernel, dim, inputs=passed, device=wp.device_from_torch(device), stream=stream)
