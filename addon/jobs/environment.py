"""Find, create and check the Python environment of the backend. No bpy here."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ...backend.recdreamer.protocol import RequestError
from .client import worker_environment
from .task import BACKEND, Step, Task

PYTHON_VERSIONS = ((3, 11), (3, 12), (3, 13))
"""Versions for which the backend's dependencies have wheels."""

SPACE_GB = {"cpu": 4, "cuda": 12}
"""Disk space of a finished environment plus its downloads."""

TORCH_INDEX = {
    "cpu": "https://download.pytorch.org/whl/cpu",
    # PyPI has CUDA builds for Linux; those for Windows are only in PyTorch's own index.
    "cuda": "https://download.pytorch.org/whl/cu126" if sys.platform == "win32" else "",
}


def interpreter_of(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def own_environment(data_folder: Path) -> Path:
    """Location of the environment that Install Backend creates."""
    return data_folder / "backend"


def find_interpreter(chosen: str, data_folder: Path) -> Path:
    """The interpreter that the artist chose, else that of the installed environment.

    Raises RequestError if the file is missing. Fast enough for every redraw.
    """
    if chosen:
        if not Path(chosen).is_file():
            raise RequestError(
                f"The Python interpreter {chosen} does not exist.",
                "Choose another one in the preferences, or clear the field and press Install Backend.",
            )
        return Path(chosen)
    interpreter = interpreter_of(own_environment(data_folder))
    if not (interpreter.is_file() and _marker(data_folder).is_file()):
        raise RequestError("The backend is not installed yet.", "Press Install Backend in the preferences.")
    return interpreter


def run_command(interpreter: Path) -> list[str]:
    """The first words of every backend command line."""
    return [str(interpreter), "-m", "recdreamer"]


def probe(interpreter: str, timeout_s: float = 20.0) -> tuple[int, int] | None:
    """Version of a Python that can create virtual environments, or None."""
    code = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
    try:
        output = subprocess.run(
            [interpreter, "-c", code],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
            stdin=subprocess.DEVNULL,
            cwd=BACKEND,
            env=worker_environment(BACKEND),
        ).stdout.split()
        return int(output[0]), int(output[1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def find_base_python() -> str:
    """A Python to create the environment with: the system's, else Blender's own.

    The system's comes first because Blender's is removed together with that Blender version.
    Raises RequestError if none fits.
    """
    names = [f"python{major}.{minor}" for major, minor in reversed(PYTHON_VERSIONS)]
    for candidate in (*(shutil.which(name) for name in names), sys.executable):
        # A relative one lies in the working folder, which may be anybody's.
        if candidate and Path(candidate).is_absolute() and probe(candidate) in PYTHON_VERSIONS:
            return candidate
    raise RequestError(
        "No Python from 3.11 to 3.13 with venv and pip was found.",
        "Install one, or choose a Python that has the backend installed.",
    )


def diagnose(interpreter: Path) -> Task:
    """Run the backend's `doctor`, which checks all its dependencies."""
    return Task([_doctor(interpreter)])


def install(data_folder: Path, device: str, base_python: str | None = None) -> Task:
    """Create the environment: venv, pip install of the bundled backend, doctor. Raises RequestError.

    `device` is "cpu" or "cuda" and selects the build of PyTorch.
    """
    free_gb = shutil.disk_usage(data_folder).free / 1e9
    if free_gb < SPACE_GB[device]:
        raise RequestError(
            f"The backend needs {SPACE_GB[device]} GB, but only {free_gb:.1f} GB are free in {data_folder}.",
            "Free some space, or choose another data folder.",
        )
    base_python = base_python or find_base_python()
    # pip builds in the source folder, and the extension's folder may be read-only.
    source = Path(tempfile.mkdtemp(prefix="recdreamer-"))
    shutil.copytree(BACKEND, source / "backend", ignore=shutil.ignore_patterns("__pycache__", "builtin"))
    environment = own_environment(data_folder)
    python = interpreter_of(environment)
    pip = [str(python), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check"]
    index = ["--extra-index-url", TORCH_INDEX[device]] if TORCH_INDEX[device] else []
    return Task(
        [
            Step("Creating the Python environment", [base_python, "-m", "venv", "--clear", str(environment)]),
            Step("Downloading and installing", [*pip, *index, str(source / "backend")]),
            _doctor(python),
        ],
        marker=_marker(data_folder),
        clean_up=source,
        log=data_folder / "install.log",
    )


def _marker(data_folder: Path) -> Path:
    """A file written last, so that an interrupted installation does not count as complete."""
    return own_environment(data_folder) / "recdreamer-is-ready"


def _doctor(interpreter: Path) -> Step:
    return Step("Checking the backend", [*run_command(interpreter), "doctor"])
