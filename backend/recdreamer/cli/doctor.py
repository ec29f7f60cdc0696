"""Checks whether a job can run here. Each finding is one row with a sentence of its own, each failure has its remedy."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

MIN_DISK_MB = 500
MIN_MEMORY_MB = 3000
MIN_GPU_MIB = 2000
MAX_PATH = 110
"""Characters of a job folder on Windows, whose paths have 260 by default."""
TINY_JOB = {
    "optimize.num_steps": 6,
    "optimize.num_views": 2,
    "optimize.render_px": 32,
    "geometry.num_steps": 2,
    "geometry.render_px": 32,
    "geometry.resolution": 24,
    "texture.num_steps": 2,
    "texture.render_px": 32,
    "mesh.resolution": 24,
    "mesh.target_faces": 400,
    "mesh.texture_size_px": 64,
}
"""Every stage, in seconds."""

Fix = Literal["", "install", "data_folder"]
"""What a front end can do about a failure: nothing, install the backend again, choose another folder."""


class Trouble(Exception):
    """A failed check: what is wrong, and what to do."""

    def __init__(self, sentence: str, fix: Fix = "install") -> None:
        super().__init__(sentence)
        self.fix: Fix = fix


@dataclass(frozen=True)
class Finding:
    """One row of the examination."""

    check: str
    is_ok: bool
    text: str
    fix: Fix = ""


def examine(folder: Path, device: str = "auto", as_json: bool = False, quick: bool = False) -> int:
    """Print the findings as text, or as a JSON object a line. Returns 0 if a job can run here, else 1.

    `device` is that of the jobs. `quick` leaves out the job.
    """
    checks: list[tuple[str, Callable[[], str]]] = [
        ("Python", _python),
        ("packages", _packages),
        ("PyTorch", _torch),
        ("device", lambda: _device(device)),
        ("kernels", lambda: _kernels(device)),
        ("embedded prior", _prior),
        ("memory", _memory),
        ("caches", _caches),
        ("job folder", lambda: _folder(folder)),
    ]
    if not quick:
        checks.append(("small job", lambda: _job(device)))
    failed = 0
    for name, check in checks:
        try:
            finding = Finding(name, True, check())
        except Trouble as trouble:
            finding = Finding(name, False, str(trouble), trouble.fix)
        except Exception as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
            finding = Finding(
                name, False, f"{type(error).__name__}: {reason}. Install the backend again.", "install"
            )
        failed += not finding.is_ok
        text = f"{'ok   ' if finding.is_ok else 'FAIL '} {name}: {finding.text}"
        print(json.dumps(asdict(finding)) if as_json else text, flush=True)
    if not as_json:
        print("Everything is ready." if not failed else f"{failed} of {len(checks)} checks failed.")
    return int(failed > 0)


def _python() -> str:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise Trouble(f"{platform.python_version()} is not supported. Use Python 3.11 to 3.13.")
    return f"{platform.python_version()} at {sys.executable}"


def _packages() -> str:
    names = (
        "torch", "diffusers", "transformers", "peft", "safetensors", "xatlas", "fast-simplification", "pillow",
        "warp-lang",
    )  # fmt: skip
    missing = []
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise Trouble(f"Not installed: {', '.join(missing)}. Install the backend again.")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names[1:4])


def _torch() -> str:
    import torch

    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    return f"{torch.__version__.partition('+')[0]} {build}"


def chosen_device(device: str) -> str:
    """ "cuda" or "cpu" of the jobs' device. Raises Trouble if a job could not use it, or is not meant to."""
    import torch

    if device == "cpu":
        return "cpu"
    if torch.version.cuda is None:
        if device == "auto":
            return "cpu"
        raise Trouble(
            "PyTorch is installed for the CPU alone. Install the backend for the NVIDIA GPU, or choose the CPU."
        )
    if torch.cuda.is_available():
        return "cuda"
    if device != "auto" and not device.startswith("cuda"):
        return device
    raise Trouble(
        f"PyTorch is installed for CUDA {torch.version.cuda}, but finds no NVIDIA GPU that it can use. Update the "
        "NVIDIA driver and restart, or install the backend for another build."
    )


def usable_device(device: str) -> str:
    """The same for the checks that use it; its own check says why it cannot be used."""
    try:
        return chosen_device(device)
    except Trouble as trouble:
        raise Trouble("Not tried, because the device cannot be used. Solve that first.", "") from trouble


def _device(device: str) -> str:
    import torch

    if chosen_device(device) != "cuda":
        return f"CPU with {torch.get_num_threads()} threads, which is enough for the embedded prior only"
    name = torch.cuda.get_device_name()
    major, minor = torch.cuda.get_device_capability()
    # Kernels run on later cards of the same generation; those in PTX ("compute_90") on all later ones.
    built = [
        (kind, int(number) // 10, int(number) % 10)
        for kind, number in re.findall(r"(sm|compute)_(\d+)", " ".join(torch.cuda.get_arch_list()))
    ]
    fits = any(
        (kind == "sm" and one == major and two <= minor)
        or (kind == "compute" and (one, two) <= (major, minor))
        for kind, one, two in built
    )
    if not fits:
        raise Trouble(
            f"{name} has compute capability {major}.{minor}, for which this build of PyTorch (CUDA "
            f"{torch.version.cuda}) has no kernels. Install the backend again with the build that fits."
        )
    free, total = torch.cuda.mem_get_info()
    if total < MIN_GPU_MIB * 2**20:
        raise Trouble(f"{name} has only {total / 2**30:.1f} GiB of memory. Choose the CPU as device.", "")
    return f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _kernels(device: str) -> str:
    """A product of matrices by PyTorch, and a hash grid by Warp, on the device itself."""
    import torch

    try:
        from recdreamer.kernels import warp_module

        warp = warp_module()
    except Exception as error:
        raise Trouble(f"Warp cannot be loaded ({error}). Install the backend again.") from error
    name = usable_device(device)
    if name == "cuda" and not warp.get_cuda_devices():
        raise Trouble(
            f"Warp {warp.config.version} cannot use the GPU. Update the NVIDIA driver, or install the backend again "
            "with the build that fits."
        )
    started = time.monotonic()
    values = torch.full((64, 64), 0.5, device=name)
    if abs((values @ values).sum().item() - 64**3 / 4) > 1:
        raise Trouble(
            "PyTorch computes wrong values on this device. Update its driver, or choose another device.", ""
        )
    from recdreamer.field import FieldConfig, RadianceField

    field = RadianceField(FieldConfig(num_levels=1), 0).to(name)
    sigmas, _ = field(torch.zeros(4, 3, device=name))
    sigmas.sum().backward()
    if not torch.isfinite(sigmas).all():
        raise Trouble(
            "Warp computes wrong values on this device. Update its driver, or choose another device.", ""
        )
    return f"PyTorch and Warp {warp.config.version} compute on {name} ({time.monotonic() - started:.1f} s)"


def _prior() -> str:
    import torch

    from recdreamer.prior.diffusion import DiffusionPrior
    from recdreamer.shared.protocol import BUILTIN_PRIOR

    prior = DiffusionPrior.load(BUILTIN_PRIOR, "cpu", torch.float32)
    return f"{sum(p.numel() for p in prior.unet.parameters()) / 1e6:.1f} M parameters, loads"


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return "unknown on this system"
    free_mb = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    total_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    if total_mb < MIN_MEMORY_MB:
        raise Trouble(f"This machine has only {total_mb:.0f} MB. A job needs about {MIN_MEMORY_MB} MB.", "")
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
    if os.name == "nt" and len(str(folder)) > MAX_PATH:
        raise Trouble(
            f"The path {folder} has {len(str(folder))} characters, too many for Windows. Choose a shorter data folder.",
            "data_folder",
        )
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"ok")
    except OSError as error:
        raise Trouble(
            f"{folder} cannot be written ({error.strerror}). Choose another data folder.", "data_folder"
        ) from error
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb < MIN_DISK_MB:
        raise Trouble(
            f"Only {free_mb:.0f} MB are free on the disk of {folder}. A job needs about {MIN_DISK_MB} MB.",
            "data_folder",
        )
    return f"{folder}, {free_mb / 1000:.1f} GB free"


def _job(device: str) -> str:
    """All stages of a tiny job with the embedded prior; by a method that draws no templates first."""
    from recdreamer.cli.work import generate_job
    from recdreamer.report import JobError, NullReport
    from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically

    name = usable_device(device)
    request = JobRequest(prompt="a red bear", method="sds", quality="quick", device=name, overrides=TINY_JOB)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="recdreamer-") as folder:
        job = JobFolder(Path(folder, "job"))
        job.root.mkdir()
        write_atomically(job.request, request.to_json())
        try:
            generate_job(job, request, NullReport())
        except JobError as error:
            raise Trouble(f"{error.message} {error.hint}", "") from error
        if not (job.result / "mesh.npz").is_file():
            raise Trouble("A small job ended without a mesh. Install the backend again.")
    return f"finished on {name} in {time.monotonic() - started:.0f} s"
