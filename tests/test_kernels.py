"""The switch between Warp and its reference, and how Warp behaves inside the worker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recdreamer import kernels
from recdreamer.field import set_backend

BACKEND = Path(__file__).parents[1] / "backend"
# One hash encoding, forward and backward, in a process of its own.
SCRIPT = """
import torch
from recdreamer.field import FieldConfig, RadianceField
sigmas, _ = RadianceField(FieldConfig(num_levels=1), 0)(torch.zeros(4, 3))
sigmas.sum().backward()
"""


def test_the_reference_takes_doubles_and_whatever_a_test_sends_to_it(monkeypatch):
    import torch

    monkeypatch.setattr(kernels, "_backend", "warp")
    assert kernels.uses_warp(torch.zeros(1))
    assert not kernels.uses_warp(torch.zeros(1, dtype=torch.float64))
    set_backend("torch")
    assert not kernels.uses_warp(torch.zeros(1))


def test_stdout_stays_empty_and_a_cache_folder_of_any_name_works(tmp_path):
    cache = tmp_path / "Jürgen Žižka 猫"
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(BACKEND)}
    environment.pop("WARP_CACHE_PATH", None)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    if sys.platform == "linux":
        assert list((cache / "recdreamer" / "warp").rglob("*.o"))


def test_all_kernels_compile_for_cuda_without_a_device(tmp_path):
    """Warp brings NVRTC along, so what would fail on an artist's graphics card fails here first."""
    wp = kernels.warp_module()
    architectures = wp.get_cuda_supported_archs()
    if not architectures:
        pytest.skip("this build of Warp has no CUDA compiler")
    import torch

    from recdreamer.field.hash_grid_warp import make_kernels
    from recdreamer.prior import fused_kernels
    from recdreamer.rendering import composite_warp, march_warp

    fused = vars(fused_kernels.make_kernels(torch.bfloat16)).values()
    unique = [kernel.module for kernel in (*make_kernels(2), *fused)]
    for module in (march_warp, composite_warp, fused_kernels, *unique):
        (ptx,) = wp.compile_aot_module(module, arch=architectures[0], module_dir=tmp_path, use_ptx=True)
        assert ".visible .entry" in ptx.read_text(encoding="utf-8")
