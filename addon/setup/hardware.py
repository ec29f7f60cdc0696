"""What this machine has: system, processor and graphics cards. No bpy here."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

QUERY = ("--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader,nounits")
"""Arguments of nvidia-smi for `parse_cards`."""
TIMEOUT_S = 20.0
"""nvidia-smi wakes sleeping cards, which takes seconds."""
SYSTEMS = {"Linux": "linux", "Windows": "windows", "Darwin": "macos"}
MACHINES = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}
AMD = "0x1002"
"""PCI id of the vendor."""


@dataclass(frozen=True)
class Card:
    """One NVIDIA graphics card."""

    name: str
    driver: tuple[int, ...]
    """Version of its driver, as (580, 95, 5)."""
    capability: tuple[int, int] | None
    """Compute capability; None if the driver is too old to tell it."""
    memory_mib: int = 0

    @property
    def driver_text(self) -> str:
        """As NVIDIA writes it, with two digits at least: 580.95.05."""
        return ".".join(f"{part:02}" for part in self.driver)


@dataclass(frozen=True)
class Machine:
    """All that decides which build of PyTorch runs here."""

    system: str
    """"linux", "windows", "macos", or another system's own name."""
    processor: str
    """"x86_64", "arm64", or another one's own name."""
    system_version: tuple[int, ...] = ()
    """Of macOS, as (14, 5); empty elsewhere."""
    cards: tuple[Card, ...] = ()
    driver_problem: str = ""
    """What nvidia-smi said instead of listing cards; empty if it is missing or works."""
    has_amd: bool = False
    is_wsl: bool = False

    @staticmethod
    def of(values: dict[str, Any]) -> Machine:
        """From the values of `dataclasses.asdict`, also when they went through JSON. Raises KeyError and TypeError."""
        cards = tuple(
            Card(
                **card
                | {
                    "driver": tuple(card["driver"]),
                    "capability": card["capability"] and tuple(card["capability"]),
                }
            )
            for card in values["cards"]
        )
        return Machine(**values | {"system_version": tuple(values["system_version"]), "cards": cards})


def parse_cards(output: str) -> tuple[Card, ...]:
    """Cards in the output of nvidia-smi with `QUERY`; lines that are something else are skipped.

    >>> parse_cards("NVIDIA GeForce RTX 4090, 581.29, 8.9, 24564")
    (Card(name='NVIDIA GeForce RTX 4090', driver=(581, 29), capability=(8, 9), memory_mib=24564),)
    """
    cards = []
    for line in output.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) < 4 or not re.fullmatch(r"\d+(\.\d+)+", parts[1]):
            continue
        capability = re.fullmatch(r"(\d+)\.(\d+)", parts[2])
        memory = re.match(r"\d+", parts[3])
        cards.append(
            Card(
                name=parts[0],
                driver=numbers(parts[1]),
                capability=(int(capability[1]), int(capability[2])) if capability else None,
                memory_mib=int(memory[0]) if memory else 0,
            )
        )
    return tuple(cards)


def parse_old_cards(output: str) -> tuple[Card, ...]:
    """The same for drivers before 510, whose nvidia-smi knows no `compute_cap`: name, driver, memory."""
    lines = [line.rsplit(",", 2) for line in output.splitlines()]
    return parse_cards("\n".join(f"{a}, {b}, [N/A], {c}" for a, b, c in (x for x in lines if len(x) == 3)))


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version.

    >>> numbers("580.95.05")
    (580, 95, 5)
    """
    return tuple(int(part) for part in re.findall(r"\d+", version))


def detect() -> Machine:
    """This machine. Takes up to `TIMEOUT_S`, so never while drawing."""
    return with_cards(*_ask_nvidia())


def with_cards(cards: tuple[Card, ...], driver_problem: str = "") -> Machine:
    """This machine with the NVIDIA cards that were found."""
    system = SYSTEMS.get(platform.system(), platform.system())
    processor = platform.machine().lower()
    return Machine(
        system=system,
        processor=MACHINES.get(processor, processor),
        system_version=numbers(platform.mac_ver()[0]) if system == "macos" else (),
        cards=cards,
        driver_problem=driver_problem,
        has_amd=_has_amd(system),
        is_wsl="microsoft" in platform.release().lower(),
    )


def find_nvidia_smi() -> str | None:
    """The driver's own tool, in the places where drivers put it."""
    places = [
        Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvidia-smi.exe"),
        Path(os.environ.get("PROGRAMFILES", r"C:\Program Files"), "NVIDIA Corporation", "NVSMI", "nvidia-smi.exe"),
    ]  # fmt: skip
    if sys.platform != "win32":
        places = [Path("/usr/bin/nvidia-smi"), Path("/usr/lib/wsl/lib/nvidia-smi")]
    for place in places:
        if place.is_file():
            return str(place)
    found = shutil.which("nvidia-smi")
    return found if found and Path(found).is_absolute() else None


def _ask_nvidia() -> tuple[tuple[Card, ...], str]:
    program = find_nvidia_smi()
    if program is None:
        return (), ""
    code, output = _run([program, *QUERY])
    if code and "compute_cap" in output:
        code, output = _run([program, QUERY[0].replace("compute_cap,", ""), QUERY[1]])
        cards = parse_old_cards(output)
    else:
        cards = parse_cards(output)
    return (cards, "") if cards else ((), first_line(output) or f"nvidia-smi ended with code {code}")


def first_line(output: str) -> str:
    """The first line that says something, without its full stop."""
    return next((line.strip().rstrip(".") for line in output.splitlines() if line.strip()), "")


def _run(command: list[str]) -> tuple[int, str]:
    flags = {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            **flags,
        )
    except subprocess.TimeoutExpired:
        return 1, f"nvidia-smi gave no answer within {TIMEOUT_S:.0f} s"
    except OSError as error:
        return 1, error.strerror or str(error)
    return done.returncode, done.stdout + done.stderr


def main() -> None:
    """Print this machine as a JSON object."""
    print(json.dumps(asdict(detect())))


def _has_amd(system: str) -> bool:
    """Whether an AMD card drives a display here; known on Linux only."""
    if system == "linux":
        for vendor in Path("/sys/class/drm").glob("card*/device/vendor"):
            with suppress(OSError):
                if vendor.read_text().strip() == AMD:
                    return True
    return False
