"""Warp's set-up, and the switch between its kernels and the plain torch reference.

Warp (CPU and CUDA from one source) is required. Some kernels have a reference in plain torch: tests compare both,
`recdreamer bench field` times both, and the reference takes the tensors that are not float32.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from recdreamer.cache import cache_folder

Backend = Literal["warp", "torch"]

_backend: Backend = "warp"


def set_backend(backend: Backend) -> None:
    """Switch between the kernels and the reference, for tests and benchmarks."""
    global _backend
    _backend = backend


def kernels_are_on() -> bool:
    """False once a test or a benchmark asked for the reference."""
    return _backend == "warp"


def uses_warp(tensor: Tensor) -> bool:
    """True if `tensor` goes to a Warp kernel, False if it goes to the reference."""
    return _backend == "warp" and tensor.dtype == torch.float32


@functools.cache
def warp_module() -> ModuleType:
    """Warp, set up once: silent on stdout, which carries events, and with a kernel cache per user."""
    import warp as wp

    wp.config.log_level = wp.LOG_ERROR
    if wp.config.kernel_cache_dir is None and "WARP_CACHE_PATH" not in os.environ:
        wp.config.kernel_cache_dir = str(cache_folder("warp"))
    wp.init()
    return wp


def launch(kernel: Any, dim: Sequence[int] | int, arguments: Sequence[Any], block_dim: int = 256) -> None:
    """Run a Warp kernel on contiguous tensors, on their device and torch's current stream.

    A tensor one axis longer than the kernel's array (a row per vector) is passed as vectors. Empty tensors are fine.
    """
    if math.prod((dim,) if isinstance(dim, int) else dim) == 0:
        return
    wp = warp_module()
    device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
    passed = []
    for argument, parameter in zip(arguments, kernel.adj.args, strict=True):
        if isinstance(argument, Tensor):
            if argument.numel() == 0:
                # Torch calls any strides of an empty tensor contiguous, Warp does not.
                argument = argument.new_empty(argument.shape)
            # Cheap descriptors, not arrays: Warp neither owns the memory nor sees torch's gradients.
            argument = wp.from_torch(argument.detach(), dtype=parameter.type.dtype, return_ctype=True)
        passed.append(argument)
    stream = None
    if device.type == "cuda":
        stream = _stream(device, torch.cuda.current_stream(device).cuda_stream)
    wp.launch(
        kernel, dim, inputs=passed, device=wp.device_from_torch(device), stream=stream, block_dim=block_dim
    )


def launch_tiled(
    kernel: Any, dim: Sequence[int], arguments: Sequence[Any], block_dim: int, device: torch.device
) -> None:
    """Like `launch`, with a block of threads for each index, and the thread's number as one index more.

    A CPU has one thread per block.
    """
    block_dim = block_dim if device.type == "cuda" else 1
    launch(kernel, [*dim, block_dim], arguments, block_dim)


@functools.lru_cache(maxsize=64)
def _stream(device: torch.device, handle: int) -> Any:
    """One object per stream: each new one would create an event, also while a graph is recorded."""
    wp = warp_module()
    return wp.Stream(wp.device_from_torch(device), cuda_stream=handle)
