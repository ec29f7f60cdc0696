"""From what nvidia-smi prints on a machine to the build that is installed there: a dozen machines."""

from __future__ import annotations

import doctest
import importlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from recdreamer_extension.addon.setup import builds, hardware
from recdreamer_extension.addon.setup.builds import BUILDS, CUDA, choose, find_build, why_not
from recdreamer_extension.addon.setup.hardware import Card, Machine, parse_cards, parse_old_cards

LINUX = Machine("linux", "x86_64")
WINDOWS = Machine("windows", "x86_64")

MACHINES = {
    "RTX 5090 on Windows": (
        WINDOWS, "NVIDIA GeForce RTX 5090, 581.29, 12.0, 32607\r\n",
        "windows-cuda13", "NVIDIA GeForce RTX 5090 (32 GB, driver 581.29): PyTorch for CUDA 13.", "",
    ),
    "RTX 5070 with the driver that it came with": (
        WINDOWS, "NVIDIA GeForce RTX 5070, 572.16, 12.0, 12227\r\n",
        "windows-cpu", "NVIDIA GeForce RTX 5070 stays unused: it has driver 572.16, and CUDA 13 needs 580 or newer.",
        "Update the NVIDIA driver to 580 or newer, and look again.",
    ),
    "RTX 4090 on Linux": (
        LINUX, "NVIDIA GeForce RTX 4090, 580.95.05, 8.9, 24564\n",
        "linux-cuda13", "NVIDIA GeForce RTX 4090 (24 GB, driver 580.95.05)", "",
    ),
    "RTX 3060 with an old driver": (
        LINUX, "NVIDIA GeForce RTX 3060, 535.183.01, 8.6, 12288\n",
        "linux-cuda12", "PyTorch for CUDA 12.6.", "With an NVIDIA driver of version 580 or newer",
    ),
    "GTX 1080 Ti with a new driver": (
        LINUX, "NVIDIA GeForce GTX 1080 Ti, 580.95.05, 6.1, 11264\n",
        "linux-cuda12", "NVIDIA GeForce GTX 1080 Ti (11 GB, driver 580.95.05): PyTorch for CUDA 12.6.", "",
    ),
    "GTX 1060 on Windows": (
        WINDOWS, "NVIDIA GeForce GTX 1060 6GB, 566.36, 6.1, 6144\r\n",
        "windows-cuda12", "PyTorch for CUDA 12.6.", "",
    ),
    "Titan V": (
        LINUX, "NVIDIA TITAN V, 580.82.07, 7.0, 12288\n", "linux-cuda12", "PyTorch for CUDA 12.6.", "",
    ),
    "GTX 680": (
        LINUX, "NVIDIA GeForce GTX 680, 470.256.02, 3.0, 2048\n",
        "linux-cpu", "NVIDIA GeForce GTX 680 stays unused: it is too old for CUDA 12.6.", "",
    ),
    "RTX 2070 with a driver from 2020": (
        LINUX, "GeForce RTX 2070, 450.80.02, [N/A], 7982 MiB\n",
        "linux-cpu", "GeForce RTX 2070 stays unused: it has driver 450.80.02", "Update the NVIDIA driver",
    ),
    "two cards": (
        LINUX, "NVIDIA GeForce GTX 1070, 580.95.05, 6.1, 8192\nNVIDIA RTX A4000, 580.95.05, 8.6, 16376\n",
        "linux-cuda13",
        "NVIDIA RTX A4000 (16 GB, driver 580.95.05): PyTorch for CUDA 13. "
        "NVIDIA GeForce GTX 1070 stays unused: it is too old for CUDA 13.", "",
    ),
    "H100": (LINUX, "NVIDIA H100 80GB HBM3, 550.90.07, 9.0, 81559\n", "linux-cuda12", "CUDA 12.6", "580 or newer"),
    "laptop without a card": (WINDOWS, "", "windows-cpu", "no NVIDIA card was found.", ""),
    "a driver that is not loaded": (
        replace(
            LINUX,
            driver_problem="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver",
        ),
        "", "linux-cpu", "the NVIDIA driver does not answer (NVIDIA-SMI has failed", "Restart the computer",
    ),
    "WSL": (
        replace(LINUX, is_wsl=True), "NVIDIA GeForce RTX 4070, 581.15, 8.9, 12282\n",
        "linux-cuda13", "PyTorch for CUDA 13.", "",
    ),
    "WSL without a driver in Windows": (
        replace(LINUX, is_wsl=True), "", "linux-cpu", "no NVIDIA card was found inside WSL.", "",
    ),
    "Radeon with ROCm": (replace(LINUX, has_amd=True), "", "linux-cpu", "not for AMD's.", ""),
    "Mac with an M3": (Machine("macos", "arm64", (15, 1)), "", "macos-cpu", "not for Apple's GPU.", ""),
    "Mac with macOS 13": (Machine("macos", "arm64", (13, 6, 1)), "", None, "macOS 13.6.1 is too old", "Update macOS."),
    "Mac with an Intel processor": (
        Machine("macos", "x86_64", (14, 5)), "", None, "Intel processors", "Choose a Python",
    ),
    "Windows on ARM": (Machine("windows", "arm64"), "", None, "no builds for windows on arm64", "Choose a Python"),
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_the_build_for_a_machine(name):
    machine, output, expected, words, remedy = MACHINES[name]
    choice = choose(replace(machine, cards=parse_cards(output)))
    assert (choice.build and choice.build.name) == expected
    assert words in choice.sentence
    assert (remedy in choice.remedy) if remedy else not choice.remedy


def test_no_card_gets_a_build_without_kernels_for_it():
    """Over all generations and drivers: what is chosen has kernels for the card and runs on its driver."""
    capabilities = [(3, 0), (5, 2), (6, 1), (7, 0), (7, 5), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)]
    seen = set()
    for capability in capabilities:
        for driver in (390, 470, 525, 535, 560, 570, 580, 590):
            card = Card("card", (driver, 1), capability, 8192)
            for machine in (LINUX, WINDOWS):
                choice = choose(replace(machine, cards=(card,)))
                accelerator = choice.build.accelerator
                seen.add((accelerator, capability >= (10, 0)))
                assert accelerator == "cpu" or not why_not(card, accelerator)
                # The processor only where no build can use the card.
                assert accelerator != "cpu" or all(why_not(card, name) for name in CUDA)
    assert ("cuda13", True) in seen and ("cuda12", False) in seen and ("cuda12", True) not in seen


def test_a_card_that_is_too_new_or_too_old_is_refused_with_the_reason():
    assert why_not(Card("5090", (580, 1), (12, 0)), "cuda12") == "is too new for CUDA 12.6"
    assert why_not(Card("680", (580, 1), (3, 0)), "cuda12") == "is too old for CUDA 12.6"
    assert why_not(Card("?", (580, 1), None), "cuda13") == "does not tell its compute capability"


def test_warp_and_pytorch_agree_about_cuda():
    """Warp from 1.18 on has kernels for CUDA 13 only, so an older card needs an older Warp, too."""
    assert {row.warp for row in BUILDS if row.accelerator == "cuda12"} == {"1.17.0"}
    assert {row.warp for row in BUILDS if row.accelerator != "cuda12"} == {"1.19.0"}
    assert find_build("linux", "x86_64", "cuda12").torch_backend == "cu126"
    assert find_build("windows", "x86_64", "cuda13").torch_backend == "cu130"
    assert find_build("windows", "x86_64", "cpu").torch_backend == ""
    assert len({row.name for row in BUILDS}) == len(BUILDS)


def test_foreign_lines_are_skipped():
    output = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
    assert parse_cards(output) == ()
    assert parse_cards("name, driver_version, compute_cap, memory.total [MiB]\n") == ()


def test_an_old_tool_without_compute_capability():
    (card,) = parse_old_cards("GeForce GTX 970, 470.82.01, 4041\n")
    assert card == Card("GeForce GTX 970", (470, 82, 1), None, 4041)


def nvidia_smi(folder: Path, script: str) -> str:
    program = folder / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for the program")
@pytest.mark.parametrize(
    ("script", "cards", "problem"),
    [
        ("print('NVIDIA A10, 580.1, 8.6, 23028')", 1, ""),
        (
            "if 'compute_cap' in sys.argv[1]: sys.exit('Field \"compute_cap\" is not a valid field to query.')\n"
            "print('GeForce GTX 970, 470.82.01, 4041')",
            1,
            "",
        ),
        ("print('No devices were found'); sys.exit(6)", 0, "No devices were found"),
        ("sys.exit(9)", 0, "nvidia-smi ended with code 9"),
        ("import time; time.sleep(60)", 0, "nvidia-smi gave no answer within 1 s"),
    ],
)
def test_asking_the_driver(tmp_path, monkeypatch, script, cards, problem):
    program = nvidia_smi(tmp_path, script)
    monkeypatch.setattr(hardware, "find_nvidia_smi", lambda: program)
    monkeypatch.setattr(hardware, "TIMEOUT_S", 1.0)
    machine = hardware.detect()
    assert len(machine.cards) == cards
    assert machine.driver_problem == problem


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_is_the_same_after_json(name):
    machine, output, *_ = MACHINES[name]
    machine = replace(machine, cards=parse_cards(output))
    assert Machine.of(json.loads(json.dumps(asdict(machine)))) == machine


def test_the_room_runs_in_any_python_without_the_rest():
    """tools/ imports it from the checkout before anything is installed."""
    root = Path(hardware.__file__).parents[2]
    script = (
        "import sys; sys.modules['bpy'] = sys.modules['numpy'] = None\n"
        "from addon.setup import builds, hardware\nprint(builds.choose(hardware.detect()).sentence)\n"
        "assert not any(name.startswith('backend') for name in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{script}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == choose(hardware.detect()).sentence


MODULES = sorted(path.stem for path in Path(hardware.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_documentation(name):
    module = importlib.import_module(f"{hardware.__package__}.{name}")
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    found = [
        doctest.DocTestFinder().find(importlib.import_module(f"{hardware.__package__}.{name}"))
        for name in MODULES
    ]
    assert sum(bool(one.examples) for examples in found for one in examples) >= 10


def test_every_build_is_offered_where_it_belongs():
    for row in BUILDS:
        machine = Machine(row.system, row.processor, (14, 0) if row.system == "macos" else ())
        assert row in builds.builds_for(machine)
