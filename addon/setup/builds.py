"""Which builds of PyTorch and Warp fit a machine: one table, and the choice from it. No bpy here."""

from __future__ import annotations

from dataclasses import dataclass

from .hardware import Card, Machine

TURING, BLACKWELL = (7, 5), (10, 0)
"""Compute capabilities with which these generations begin."""


@dataclass(frozen=True)
class Build:
    """One row of the table: what is installed for an accelerator on a system."""

    system: str
    processor: str
    accelerator: str
    """"cuda13", "cuda12" or "cpu"."""
    torch: str
    """Version of PyTorch; with a local part where PyTorch's own index has it, else from PyPI."""
    warp: str

    @property
    def name(self) -> str:
        """Of its lock file.

        >>> find_build("linux", "x86_64", "cuda13").name
        'linux-cuda13'
        """
        return f"{self.system}-{self.accelerator}"

    @property
    def torch_backend(self) -> str:
        """uv's name of PyTorch's own index; empty for PyPI."""
        return self.torch.partition("+")[2]


@dataclass(frozen=True)
class Cuda:
    """What the builds for one CUDA version need of a card and its driver."""

    driver: int
    """The oldest series that runs them."""
    lowest: tuple[int, int]
    """The lowest compute capability that has kernels."""
    end: tuple[int, int]
    """The lowest compute capability above it that has none."""
    label: str


# PyTorch 2.13's own matrix (RELEASE.md): CUDA 12.6 has kernels from Maxwell to Hopper and none for Blackwell, CUDA
# 13.0 from Turing on. NVIDIA: CUDA 12.x runs from driver 525 on, CUDA 13.x from 580.
CUDA = {
    "cuda13": Cuda(580, TURING, (13, 0), "CUDA 13"),
    "cuda12": Cuda(525, (5, 0), BLACKWELL, "CUDA 12.6"),
}
# Warp 1.18 and later are built for CUDA 13 alone on PyPI; 1.17 is the last one for CUDA 12.
BUILDS = (
    Build("linux", "x86_64", "cuda13", "2.13.0", "1.19.0"),
    Build("linux", "x86_64", "cuda12", "2.13.0+cu126", "1.17.0"),
    Build("linux", "x86_64", "cpu", "2.13.0+cpu", "1.19.0"),
    Build("windows", "x86_64", "cuda13", "2.13.0+cu130", "1.19.0"),
    Build("windows", "x86_64", "cuda12", "2.13.0+cu126", "1.17.0"),
    Build("windows", "x86_64", "cpu", "2.13.0", "1.19.0"),
    Build("macos", "arm64", "cpu", "2.13.0", "1.19.0"),
)
"""PyPI has PyTorch for CUDA on Linux, and for the CPU on Windows and macOS; the others are in PyTorch's own index."""
MACOS = (14, 0)
"""The oldest macOS for which all packages have wheels."""


@dataclass(frozen=True)
class Choice:
    """What to install on a machine, and why."""

    build: Build | None
    """None if nothing runs here."""
    card: Card | None
    """The card that jobs will use."""
    sentence: str
    """What was found and what follows from it."""
    remedy: str = ""
    """What would make a better build possible; empty if nothing would."""


def find_build(system: str, processor: str, accelerator: str) -> Build | None:
    """The row of the table, if there is one."""
    wanted = (system, processor, accelerator)
    return next((row for row in BUILDS if (row.system, row.processor, row.accelerator) == wanted), None)


def builds_for(machine: Machine) -> tuple[Build, ...]:
    """All builds that can be installed here, whether or not a card can use them."""
    if machine.system == "macos" and machine.system_version < MACOS:
        return ()
    return tuple(row for row in BUILDS if (row.system, row.processor) == (machine.system, machine.processor))


def why_not(card: Card, accelerator: str) -> str:
    """Why the builds of a CUDA version do not run on a card, or why it cannot be said; empty if they do.

    >>> why_not(Card("GTX 1080", (580, 88), (6, 1)), "cuda13")
    'is too old for CUDA 13'
    """
    cuda = CUDA[accelerator]
    if card.capability is not None and not cuda.lowest <= card.capability < cuda.end:
        return f"is too {'old' if card.capability < cuda.lowest else 'new'} for {cuda.label}"
    if card.driver[0] < cuda.driver:
        return f"has driver {card.driver_text}, and {cuda.label} needs {cuda.driver} or newer"
    return "" if card.capability is not None else "does not tell its compute capability"


def unused(card: Card, accelerator: str) -> str:
    """
    >>> unused(Card("GTX 1080", (580, 88), (6, 1)), "cuda13")
    'GTX 1080 stays unused: it is too old for CUDA 13.'
    """
    return f"{card.name} stays unused: it {why_not(card, accelerator)}."


def choose(machine: Machine) -> Choice:
    """The build that fits the machine best."""
    possible = builds_for(machine)
    if not possible:
        return Choice(None, None, *_why_nothing_runs(machine))
    cpu = find_build(machine.system, machine.processor, "cpu")
    if machine.system == "macos":
        return Choice(
            cpu, None, "Jobs run on the CPU: the backend's kernels are for NVIDIA cards, not for Apple's GPU."
        )
    for accelerator, cuda in CUDA.items():
        able = [card for card in machine.cards if not why_not(card, accelerator)]
        if not able:
            continue
        best = max(able, key=lambda card: card.memory_mib)
        others = [card for card in machine.cards if card not in able]
        sentence = f"{_describe(best)}: PyTorch for {cuda.label}."
        sentence += "".join(f" {unused(card, accelerator)}" for card in others)
        build = find_build(machine.system, machine.processor, accelerator)
        # A newer driver is no cure for a card that is too old.
        newer = accelerator != "cuda13" and best.capability is not None and best.capability >= TURING
        remedy = "With an NVIDIA driver of version 580 or newer, newer builds can be used." if newer else ""
        return Choice(build, best, sentence, remedy)
    return Choice(cpu, None, *_why_no_card(machine))


def _describe(card: Card) -> str:
    return f"{card.name} ({card.memory_mib / 1024:.0f} GB, driver {card.driver_text})"


def _why_nothing_runs(machine: Machine) -> tuple[str, str]:
    own = "Choose a Python in which you have installed the backend yourself."
    if machine.system == "macos" and machine.processor == "arm64":
        version = ".".join(map(str, machine.system_version))
        return f"macOS {version} is too old: PyTorch needs macOS 14.", "Update macOS."
    if machine.system == "macos":
        return "PyTorch has no builds for Macs with Intel processors any more.", own
    return f"There are no builds for {machine.system} on {machine.processor}.", own


def _why_no_card(machine: Machine) -> tuple[str, str]:
    if machine.cards:
        card = max(machine.cards, key=lambda card: card.memory_mib)
        capability = card.capability or TURING
        accelerator = "cuda13" if capability >= BLACKWELL else "cuda12"
        needed = CUDA["cuda13" if card.capability and capability >= TURING else "cuda12"].driver
        can_be_cured = capability >= CUDA["cuda12"].lowest and card.driver[0] < needed
        remedy = f"Update the NVIDIA driver to {needed} or newer, and look again." if can_be_cured else ""
        return f"Jobs run on the CPU. {unused(card, accelerator)}", remedy
    is_wsl, problem = machine.is_wsl, machine.driver_problem
    if problem:
        return (
            f"Jobs run on the CPU: the NVIDIA driver{' inside WSL' if is_wsl else ''} does not answer ({problem}).",
            f"Restart the computer, or install the NVIDIA driver again{' in Windows' if is_wsl else ''}.",
        )
    if machine.has_amd:
        return "Jobs run on the CPU: the backend's kernels are for NVIDIA cards, not for AMD's.", ""
    return f"Jobs run on the CPU: no NVIDIA card was found{' inside WSL' if is_wsl else ''}.", ""
