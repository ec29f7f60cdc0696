"""One switch between the Warp kernels and the plain torch reference, and Warp's set-up.

Warp (CPU and CUDA from one source) is used where it is installed and the tensors are float32;
everything else goes to the reference, which the tests compare the kernels with.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

Backend = Literal["auto", "warp", "torch"]

_backend: Backend = "auto"


def set_backend(backend: Backend) -> None:
    """Choose who computes from now on; `auto` is Warp where it is installed."""
    global _backend
    if backend == "warp" and not warp_is_installed():
        raise ValueError("The warp backend was asked for but is not installed: run pip install warp-lang.")
    _backend = backend


def uses_warp(tensor: Tensor) -> bool:
    """True when kernels on `tensor` run in Warp."""
    return _backend != "torch" and tensor.dtype == torch.float32 and warp_is_installed()


@functools.cache
def warp_is_installed() -> bool:
    return importlib.util.find_spec("warp") is not None


@functools.cache
def warp_module() -> ModuleType:
    """Warp, set up once: silent on stdout (which carries events), kernels cached per user."""
    import warp as wp

    wp.config.log_level = wp.LOG_ERROR
    if wp.config.kernel_cache_dir is None and "WARP_CACHE_PATH" not in os.environ:
        wp.config.kernel_cache_dir = str(kernel_cache_folder())
    wp.init()
    return wp


def kernel_cache_folder() -> Path:
    """Folder of this user for compiled kernels.

    On Windows the CUDA loader reads paths in the system's code page, so a profile folder with other
    letters is replaced by one in ProgramData, named by a hash of it.
    """
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
        if not str(local).isascii():
            shared = Path(os.environ.get("PROGRAMDATA", "C:/ProgramData"))
            return shared / "recdreamer" / hashlib.sha256(str(local).encode()).hexdigest()[:16] / "warp"
        return local / "recdreamer" / "warp"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "recdreamer" / "warp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recdreamer" / "warp"


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
