"""Checks whether a job can run here. Each finding is one line, each failure comes with its remedy."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

MIN_DISK_MB = 500
MIN_MEMORY_MB = 3000


class Trouble(Exception):
    """A failed check: what is wrong, and what to do."""


def examine(folder: Path) -> int:
    """Print the findings. Returns 0 if a job can run here, else 1."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("Python", _python),
        ("PyTorch", _torch),
        ("device", _device),
        ("packages", _packages),
        ("kernels", _kernels),
        ("embedded prior", _prior),
        ("memory", _memory),
        ("caches", _caches),
        ("job folder", lambda: _folder(folder)),
    ]
    troubles = 0
    for name, check in checks:
        try:
            print(f"ok    {name}: {check()}", flush=True)
        except Trouble as trouble:
            troubles += 1
            print(f"FAIL  {name}: {trouble}", flush=True)
        except Exception as error:
            troubles += 1
            print(f"FAIL  {name}: {type(error).__name__}: {error}. Install the backend again.", flush=True)
    print("Everything is ready." if not troubles else f"{troubles} of {len(checks)} checks failed.")
    return int(troubles > 0)


def _python() -> str:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise Trouble(f"{platform.python_version()} is not supported. Use Python 3.11 to 3.13.")
    return f"{platform.python_version()} at {sys.executable}"


def _torch() -> str:
    import torch

    return torch.__version__


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU with {torch.get_num_threads()} threads (no CUDA GPU: fine for the embedded prior only)"
    free, total = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _packages() -> str:
    names = (
        "diffusers", "transformers", "peft", "safetensors", "xatlas", "fast-simplification", "pillow", "warp-lang",
    )  # fmt: skip
    missing = []
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise Trouble(f"Not installed: {', '.join(missing)}. Install the backend again.")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names[:3])


def _kernels() -> str:
    from recdreamer.kernels import warp_module

    try:
        warp = warp_module()
    except Exception as error:
        raise Trouble(f"Warp cannot be loaded ({error}). Install the backend again.") from error
    return f"Warp {warp.config.version} on {', '.join(str(device) for device in warp.get_devices())}"


def _prior() -> str:
    import torch

    from recdreamer.prior.diffusion import DiffusionPrior
    from recdreamer.protocol import BUILTIN_PRIOR

    prior = DiffusionPrior.load(BUILTIN_PRIOR, "cpu", torch.float32)
    return f"{sum(p.numel() for p in prior.unet.parameters()) / 1e6:.1f} M parameters, loads"


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return "unknown on this system"
    free_mb = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    total_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    if total_mb < MIN_MEMORY_MB:
        raise Trouble(f"This machine has only {total_mb:.0f} MB. A job needs about {MIN_MEMORY_MB} MB.")
    return f"{free_mb / 1000:.1f} of {total_mb / 1000:.1f} GB free"


def _caches() -> str:
    from recdreamer.cache import lasting_folder, why_not_writable

    try:
        folder = lasting_folder("warp")
        reason = why_not_writable(folder)
    except RuntimeError as error:
        folder, reason = "the home folder", str(error)
    if not reason:
        return str(folder)
    return (
        f"only for one run at a time, as {folder} cannot be written ({reason}): kernels are compiled anew in each. "
        "Set XDG_CACHE_HOME to a folder that can be written."
    )


def _folder(folder: Path) -> str:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"ok")
    except OSError as error:
        raise Trouble(
            f"{folder} cannot be written ({error.strerror}). Choose another data folder."
        ) from error
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb < MIN_DISK_MB:
        raise Trouble(
            f"Only {free_mb:.0f} MB are free on the disk of {folder}. A job needs about {MIN_DISK_MB} MB."
        )
    return f"{folder}, {free_mb / 1000:.1f} GB free"
