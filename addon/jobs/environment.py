"""The backend's environment, seen from Blender: what fits, what is installed, installing and checking it. No bpy here."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...backend.recdreamer.shared.json_values import parse_json
from ...backend.recdreamer.shared.protocol import RequestError
from ..setup import builds, hardware, installation
from ..setup.builds import Build, Choice
from ..setup.hardware import Machine
from ..setup.report import Row
from ..setup.uv import interpreter_of
from .task import BACKEND, LOOK_S, Step, Task

AUTOMATIC = "auto"
"""The choice of hardware that follows the machine."""
NOT_INSTALLED = (
    "The backend is not installed yet.",
    "Press Install Backend in the preferences.",
    "not_installed",
)
OUTDATED = (
    "The backend is of another version of the extension.",
    "Press Update Backend in the preferences.",
    "outdated",
)
RUN_MODULE = """
import importlib, sys
sys.path.insert(0, sys.argv.pop(1))
importlib.import_module("backend.recdreamer.shared.parent_process").end_with_parent()
sys.exit(importlib.import_module(sys.argv.pop(1)).main())
"""


class Detection(Task):
    """What this machine has, found out in a process of its own: a sleeping card takes seconds to answer."""

    def __init__(self) -> None:
        self.machine: Machine | None = None
        super().__init__([Step("Looking at this computer", own_python("setup.hardware"))])

    def _hear(self, line: str) -> None:
        with suppress(KeyError, TypeError):
            self.machine = Machine.of(_object(line))
        super()._hear(line)


class Hardware:
    """This machine, when it is known."""

    def __init__(self) -> None:
        self.machine: Machine | None = None
        """None until it is known."""
        self._detection: Detection | None = None

    def poll(self) -> bool:
        """True once after the machine became known."""
        detection = self._detection
        if detection is None or not detection.poll() or detection.is_running:
            return False
        self._detection = None
        if self.machine is None:
            self.machine = detection.machine or hardware.with_cards((), detection.problem)
        return True

    @property
    def is_asking(self) -> bool:
        return self._detection is not None

    def ask(self) -> Machine | None:
        """The machine, if it is known; else begin to ask."""
        if self.machine is None and not self.is_asking:
            self._detection = Detection()
        return self.machine

    def wait(self) -> Machine:
        """The machine, waited for if it is not known."""
        while (machine := self.ask()) is None:
            self.poll()
            time.sleep(LOOK_S)
        return machine

    def forget(self) -> None:
        """Ask again the next time, such as after a new driver."""
        self.stop()
        self.machine = None

    def stop(self) -> None:
        """End what still asks."""
        if self._detection is not None:
            self._detection.cancel()
            self._detection.join()
            self._detection = None


def choose(machine: Machine, accelerator: str) -> Choice:
    """What Install Backend would install: what fits, or what the artist has chosen instead."""
    choice = builds.choose(machine)
    if accelerator == AUTOMATIC or choice.build is None:
        return choice
    build = builds.find_build(machine.system, machine.processor, accelerator)
    if build is None:
        return Choice(None, None, "There is no such build for this computer.", "Choose Automatic.")
    if accelerator == "cpu":
        return Choice(build, None, "PyTorch for the CPU, as chosen.")
    able = [card for card in machine.cards if not builds.why_not(card, accelerator)]
    label = builds.CUDA[accelerator].label
    if able:
        return Choice(build, able[0], f"{able[0].name}: PyTorch for {label}, as chosen.")
    reasons = [builds.unused(card, accelerator) for card in machine.cards]
    sentence = " ".join([f"No card here can use PyTorch for {label}.", *reasons])
    return Choice(build, None, sentence, "Choose Automatic.")


def find_interpreter(chosen: str, data_folder: Path) -> Path:
    """The interpreter that the artist chose, else that of the installed environment.

    Raises RequestError if it is missing or of another version. Fast enough for every redraw.
    """
    if chosen:
        if not Path(chosen).is_file():
            raise RequestError(
                f"The Python interpreter {chosen} does not exist.",
                "Choose another one in the preferences, or clear the field and press Install Backend.",
                "install",
            )
        return Path(chosen)
    status = installation.read_status(data_folder, builds.BUILDS)
    if status is None:
        raise RequestError(*NOT_INSTALLED)
    if not status.is_current:
        raise RequestError(*OUTDATED)
    return interpreter_of(installation.Places(data_folder).environment)


def run_command(interpreter: Path) -> list[str]:
    """The first words of every backend command line."""
    return [str(interpreter), "-m", "recdreamer"]


def own_python(module: str) -> list[str]:
    """The first words of a command line that runs a module of the add-on in Blender's own Python."""
    return [sys.executable, "-c", RUN_MODULE, str(BACKEND.parent), f"addon.{module}"]


class Install(Task):
    """The installation in a process of its own, with its progress."""

    def __init__(self, data_folder: Path, build: Build, wheels: Path | None = None) -> None:
        self.factor = 0.0
        """How far it is, 0 to 1."""
        self.stage = ""
        self._said = ""
        command = [*own_python("setup.__main__"), "--data", str(data_folder)]
        command += ["--backend", str(BACKEND), "--build", build.name]
        command += ["--wheels", str(wheels)] if wheels else []
        super().__init__([Step("Installing the backend", command)])

    @property
    def title(self) -> str:
        return self.stage or self.steps[0].title

    def _hear(self, line: str) -> None:
        message = _object(line)
        if "problem" in message:
            self._said = str(message["problem"])
        elif "title" in message:
            self.stage = str(message["title"])
            self.line = str(message["text"])
            self.factor = float(str(message["factor"]))
        else:
            super()._hear(line)

    def _why_failed(self, step: Step, line: str, code: int) -> str:
        return self._said or super()._why_failed(step, line, code)


class Diagnosis(Task):
    """The doctor, row by row."""

    def __init__(self, interpreter: Path, data_folder: Path, device: str) -> None:
        self.rows: tuple[Row, ...] = ()
        command = [
            *run_command(interpreter),
            "doctor",
            "--json",
            "--device",
            device,
            "--folder",
            str(data_folder),
        ]
        super().__init__([Step("Checking the backend", command)])

    def _hear(self, line: str) -> None:
        message = _object(line)
        if "check" in message:
            self.rows = (*self.rows, Row.of(message))
            self.line = self.rows[-1].check
        elif not self.rows:
            super()._hear(line)  # What keeps it from starting.

    def _why_failed(self, step: Step, line: str, code: int) -> str:
        failed = [row for row in self.rows if not row.is_ok]
        if failed:
            return f"{len(failed)} of {len(self.rows)} checks failed."
        return super()._why_failed(step, line, code)


def _object(line: str) -> dict[str, object]:
    """A line as a JSON object; empty if it is something else."""
    try:
        message = parse_json(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def install(data_folder: Path, choice: Choice, wheels: str = "") -> Install:
    """Install what was chosen into the data folder, from a folder of wheels if one is given. Raises RequestError."""
    if choice.build is None:
        raise RequestError(choice.sentence, choice.remedy)
    folder = Path(wheels) if wheels else None
    if folder is not None and not folder.is_dir():
        raise RequestError(
            f"The folder of wheels {folder} does not exist.", "Choose another one, or clear the field."
        )
    return Install(data_folder, choice.build, folder)


def why_offline(online_access: bool, is_forced: bool, wheels: str) -> str:
    """Why nothing can be downloaded now; empty if it can, or if it need not."""
    if online_access or wheels:
        return ""
    if is_forced:
        return "Blender was started offline. Start it without --offline-mode, or choose a folder of wheels."
    return "Installing needs a download. Allow Online Access in Preferences › System, or choose a folder of wheels."


def summary(rows: Sequence[Row]) -> str:
    """The end of a diagnosis in one sentence."""
    device = next((row.text for row in rows if row.check == "device"), "")
    return f"Everything is ready: {device}." if device else "Everything is ready."
