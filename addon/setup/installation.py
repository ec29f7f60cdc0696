"""Install the backend into the data folder: uv, a Python, an environment, its packages, a check. No bpy here.

`python -m addon.setup` runs it in a process of its own. All that it writes is in the data folder, and every step finds
what an earlier, interrupted run has left.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from . import fetch_uv, locks
from .builds import Build
from .progress import ByteProgress, missing
from .remedies import SetupError, explain
from .tree_sizes import tree_size
from .uv import child_environment, interpreter_of, uv_program

PREFERRED = tuple(reversed(locks.PYTHONS))
OWN_PYTHON = "3.12"
"""The version that uv brings where there is none that fits."""
SPARE = 1.1
"""Disk space that is asked for, relative to what will be written."""
WATCH_S = 0.5
LINE_BIT_S = 100e6
"""Speed of a network, for the time that is told before the press."""
MAX_OUTPUT = 200_000
"""Characters of a step's output that are searched for its error."""
LOG = "install.log"
ESTIMATES = {
    "linux-cpu": (192_000_000, 720_000_000),
    "linux-cuda12": (2_800_000_000, 5_500_000_000),
    "windows-cuda13": (1_920_000_000, 3_600_000_000),
    "windows-cuda12": (2_600_000_000, 4_700_000_000),
}
"""Bytes of the wheels, and of their files, that PyTorch's own index has and that were not measured for the lock."""

Say = Callable[[str, str, float], None]
"""Takes a title, a text, and how far the whole installation is (0 to 1)."""


@dataclass(frozen=True)
class Places:
    """Where everything is in the data folder."""

    data: Path

    @property
    def environment(self) -> Path:
        return self.data / "backend"

    @property
    def setup(self) -> Path:
        """uv, its Pythons, and what it has fetched."""
        return self.data / "setup"

    @property
    def cache(self) -> Path:
        return self.setup / "cache"

    @property
    def log(self) -> Path:
        return self.data / LOG

    @property
    def marker(self) -> Path:
        """Written last, so that an interrupted installation does not count."""
        return self.environment / "recdreamer-is-ready"


def sizes(build: Build) -> tuple[int, int, bool]:
    """Bytes to fetch, bytes on the disk, and whether all of them were measured."""
    pins = [pin for pin in locks.read_lock(locks.lock_file(build)) if OWN_PYTHON in pin.pythons]
    download, unpacked = sum(pin.download for pin in pins), sum(pin.unpacked for pin in pins)
    if locks.is_complete(pins):
        return download, unpacked, True
    extra = ESTIMATES[build.name]
    return download + extra[0], unpacked + extra[1], False


def describe_size(build: Build) -> str:
    """How much it is, in words.

    >>> from .builds import find_build
    >>> describe_size(find_build("linux", "x86_64", "cuda13"))
    'Downloads 3.0 GB (4 min at 100 Mbit/s), takes 5.5 GB on the disk'
    """
    download, unpacked, is_measured = sizes(build)
    minutes = f"{max(download * 8 / LINE_BIT_S / 60, 1):.0f} min at {LINE_BIT_S / 1e6:.0f} Mbit/s"
    size = f"{'' if is_measured else 'about '}{unpacked / 1e9:.1f} GB on the disk"
    return f"Downloads {'' if is_measured else 'about '}{download / 1e9:.1f} GB ({minutes}), takes {size}"


@dataclass(frozen=True)
class Status:
    """What is installed in a data folder."""

    build: str
    """Name of the build."""
    is_current: bool
    """Whether it is what this version of the extension would install."""


def read_status(data: Path, builds: Sequence[Build]) -> Status | None:
    """What is installed, or None; fast enough for every redraw. `builds` are those that this version knows."""
    places = Places(data)
    try:
        text = places.marker.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if not interpreter_of(places.environment).is_file():
        return None
    try:
        marker = json.loads(text)
        name, lock = str(marker["build"]), marker["lock"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Status("", False)  # Of a version before there were locks.
    build = next((build for build in builds if build.name == name), None)
    return Status(name, build is not None and locks.fingerprint(build) == lock)


class Installation:
    """One run of the installation."""

    def __init__(self, data: Path, build: Build, backend: Path, say: Say, wheels: Path | None = None) -> None:
        """`backend` is the folder of the bundled package, `wheels` a folder that replaces the network."""
        self.places, self.build, self.backend, self.say, self.wheels = (
            Places(data),
            build,
            backend,
            say,
            wheels,
        )
        self.environment = child_environment(self.places.setup)
        self.uv = uv_program(self.places.setup)
        self._log: TextIO | None = None

    def run(self) -> None:
        """Do all steps. Raises SetupError with the first real error and its remedy."""
        try:
            (self.places.setup / "tmp").mkdir(parents=True, exist_ok=True)
            self._log = self.places.log.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise _of_system(error, "Preparing") from error
        with self._log:
            self._note(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {platform.platform()} {self.build.name}")
            try:
                self._check_space()
                self._get_uv()
                python = self._make_environment()
                self._install(python)
                self._check()
                self._finish()
            except SetupError as error:
                self._note(f"FAILED: {error}")
                raise
            except OSError as error:
                self._note(f"FAILED: {error}")
                raise _of_system(error, "Installing") from error

    def _check_space(self) -> None:
        needed = sizes(self.build)[1]
        there = tree_size(self.places.environment) + tree_size(self.places.cache)
        free = shutil.disk_usage(self.places.data).free
        if free < max(needed - there, 0) * SPARE:
            raise SetupError(
                f"The backend needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free.",
                "Free some space, or choose a data folder on another disk.",
            )

    def _get_uv(self) -> None:
        self.say("Getting the installer", "uv, 20 MB", 0.0)
        if self._version_of_uv() == locks.UV_VERSION:
            return
        shutil.rmtree(self.places.setup / "uv", ignore_errors=True)
        target = ["--target", str(self.places.setup / "uv"), "--require-hashes", "-r", str(locks.UV_LOCK)]
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary", ":all:", *target]
        pip += ["--no-index", "--find-links", str(self.wheels)] if self.wheels else []
        code, output = self._call(pip, "Getting the installer")
        if code and "No module named pip" in output:
            # A system's Python often comes without pip.
            fetch_uv.fetch(self.places.setup / "uv", self.wheels, self.environment)
        elif code:
            raise _failed(output, "Getting the installer")
        if self._version_of_uv() != locks.UV_VERSION:
            raise SetupError(
                "The installer was fetched, but does not start.",
                "A virus scanner may block programs in the data folder. Exclude it there, and try again.",
            )

    def _version_of_uv(self) -> str:
        if not self.uv.is_file():
            return ""
        _, output = self._call([str(self.uv), "--version"], "")
        return (output.split() or ["", ""])[1] if output.startswith("uv ") else ""

    def _make_environment(self) -> str:
        """Minor version of the environment's Python; the environment is kept if it still works."""
        self.say("Looking for Python", "", 0.02)
        interpreter = interpreter_of(self.places.environment)
        if interpreter.is_file():
            version = self._version_of(interpreter)
            if version in locks.PYTHONS:
                self.places.marker.unlink(missing_ok=True)
                return version
        base, version = self._find_python()
        self._must(
            [self.uv, "venv", "--clear", "--python", base, self.places.environment], "Making the environment"
        )
        return version

    def _version_of(self, interpreter: Path) -> str:
        code, output = self._call(
            [str(interpreter), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], ""
        )
        return "" if code else output.strip()

    def _find_python(self) -> tuple[str, str]:
        """A Python of the system, else one that uv brings, else Blender's own, which goes with that Blender."""
        found = self._pythons()
        if found:
            return found[0]
        failure = None
        if self.wheels is None:
            self.say("Getting Python", f"Python {OWN_PYTHON}, 30 MB", 0.03)
            code, output = self._call([self.uv, "python", "install", OWN_PYTHON], "Getting Python")
            found = self._pythons()
            if found:
                return found[0]
            failure = _failed(output, "Getting Python") if code else None
        own = Path(sys.executable)
        if self._version_of(own) in locks.PYTHONS:
            return str(own), self._version_of(own)
        versions = f"Python {locks.PYTHONS[0]} to {locks.PYTHONS[-1]}"
        missing_python = f"There is no {versions} on this computer"
        if failure is None:
            raise SetupError(f"{missing_python}.", "Install one of them, and try again.")
        reason = f"{failure.sentence[0].lower()}{failure.sentence[1:]}"
        raise SetupError(
            f"{missing_python}, and none could be fetched: {reason}",
            " ".join([failure.cure, "Or install one of these versions yourself."]),
        )

    def _pythons(self) -> list[tuple[str, str]]:
        """Program and minor version of all that fit, newest first: no conda, whose programs bring libraries along."""
        _, output = self._call([self.uv, "python", "list", "--only-installed", "--output-format", "json"], "")
        start = output.find("[{")
        try:
            entries = json.loads(output[start : output.rfind("]") + 1]) if start >= 0 else []
        except ValueError:
            entries = []
        found = []
        for entry in entries:
            path, version = Path(entry["path"]), ".".join(entry["version"].split(".")[:2])
            is_plain = entry.get("implementation") == "cpython" and entry.get("variant") == "default"
            if not is_plain or version not in locks.PYTHONS or not path.is_absolute():
                continue
            root = path.parent.parent if path.parent.name == "bin" else path.parent
            # Blender's own, in a folder "python" of its own, goes with that Blender; a system's Blender has none.
            is_blenders = Path(sys.prefix).name == "python" and Path(sys.prefix) in path.parents
            if (root / "conda-meta").exists() or is_blenders:
                continue
            found.append((str(path), version))
        return sorted(found, key=lambda one: PREFERRED.index(one[1]))

    def _install(self, python: str) -> None:
        for rest in self.places.cache.glob(".tmp*"):
            shutil.rmtree(rest, ignore_errors=True)  # Of a run that was killed; uv does not use it again.
        pins = missing(locks.read_lock(locks.lock_file(self.build)), python, self.places.environment)
        extra = (0, 0) if all(pin.hashes for pin in pins) else ESTIMATES[self.build.name]
        progress = ByteProgress(
            sum(pin.download for pin in pins) + extra[0], sum(pin.unpacked for pin in pins) + extra[1]
        )
        command = [self.uv, "pip", "install", "--exact", "--only-binary", ":all:"]
        command += ["--python", interpreter_of(self.places.environment), "-r", locks.lock_file(self.build)]
        if locks.is_complete(locks.read_lock(locks.lock_file(self.build))):
            command.append("--require-hashes")
        if self.wheels:
            command += ["--no-index", "--find-links", self.wheels]
        elif self.build.torch_backend:
            command += ["--torch-backend", self.build.torch_backend]

        def watch() -> None:
            progress.update(tree_size(self.places.cache), time.monotonic())
            self.say("Downloading and installing", progress.text, 0.05 + 0.85 * progress.factor)

        self._must(command, "Downloading and installing", watch)

    def _check(self) -> None:
        self.say("Checking the backend", "", 0.92)
        environment = {"PYTHONPATH": str(self.backend)}
        command = [interpreter_of(self.places.environment), "-m", "recdreamer", "doctor"]
        code, output = self._call(command, "Checking the backend", extra=environment)
        if code:
            failed = next((line for line in output.splitlines() if line.startswith("FAIL")), "")
            if failed:
                raise SetupError(failed.removeprefix("FAIL").strip(), "Run Diagnostics shows all checks.")
            raise _failed(output, "Checking the backend")

    def _finish(self) -> None:
        marker = {"build": self.build.name, "lock": locks.fingerprint(self.build)}
        self.places.marker.write_text(json.dumps(marker), encoding="utf-8")
        # The environment has its own links to the files, and an update fetches only what has changed.
        shutil.rmtree(self.places.cache, ignore_errors=True)
        shutil.rmtree(self.places.setup / "tmp", ignore_errors=True)
        self._note("Done.")
        self.say("Ready", "", 1.0)

    def _must(self, command: Sequence[object], step: str, watch: Callable[[], None] | None = None) -> None:
        code, output = self._call(command, step, watch)
        if code:
            raise _failed(output, step)

    def _call(
        self,
        command: Sequence[object],
        step: str,
        watch: Callable[[], None] | None = None,
        extra: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """Exit code and output of a program; everything goes to the log. `watch` is called while it runs."""
        words = [str(word) for word in command]
        self._note(f"> {' '.join(words)}")
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                cwd=self.places.setup,
                env=self.environment | (extra or {}),
                **({"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {}),
            )
        except OSError as error:
            self._note(str(error))
            return 1, str(error)
        assert process.stdout is not None
        stream = process.stdout
        reader = threading.Thread(target=lambda: [*map(lines.put, stream), lines.put(None)], daemon=True)
        reader.start()
        output, size = [], 0
        with process:
            while True:
                try:
                    line = lines.get(timeout=WATCH_S)
                except queue.Empty:
                    if watch is not None:
                        watch()
                    continue
                if line is None:
                    break
                self._note(line.rstrip())
                if size < MAX_OUTPUT:
                    output.append(line)
                    size += len(line)
            reader.join()
        return process.returncode, "".join(output)

    def _note(self, line: str) -> None:
        if self._log is not None:
            with suppress(OSError, ValueError):
                self._log.write(f"{line}\n")
                self._log.flush()


def _failed(output: str, step: str) -> SetupError:
    failure = explain(output, step)
    return SetupError(failure.sentence, failure.cure)


def _of_system(error: OSError, step: str) -> SetupError:
    """An error of this program itself, as the table says it."""
    return _failed(f"error: {error} (os error {error.errno})", step)
