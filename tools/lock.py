"""Write the lock files of addon/setup/locks: every version, hash and size that Install Backend brings to a machine.

uv resolves backend/pyproject.toml for each build of addon/setup/builds.py and each Python, and names the one wheel
that fits. Where PyTorch's own index cannot be reached, the lines of its builds stay without hash, and say so.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from addon.setup import locks
from addon.setup.builds import BUILDS, MACOS, Build
from addon.setup.locks import PYTHONS

from environments import ROOT, SetupError, ensure_uv

PYPROJECT = ROOT / "backend" / "pyproject.toml"
PLATFORMS = {
    "linux": "x86_64-manylinux_2_28",
    "windows": "x86_64-pc-windows-msvc",
    "macos": "aarch64-apple-darwin",
}
OF_CUDA = ("nvidia-", "cuda-", "triton")
"""Beginnings of the packages that PyTorch's builds for CUDA bring along, each build its own."""
BLOCK = 1 << 18


@dataclass
class Pin:
    """One version of a package, with the wheels that the Pythons of `pythons` take."""

    name: str
    version: str
    pythons: list[str] = field(default_factory=list)
    hashes: set[str] = field(default_factory=set)
    download: int = 0
    unpacked: int = 0

    def line(self) -> str:
        marker = (
            "" if len(self.pythons) == len(PYTHONS) else f" ; python_version in '{' '.join(self.pythons)}'"
        )
        hashes = "".join(f" \\\n    --hash=sha256:{value}" for value in sorted(self.hashes))
        sizes = f"{self.download} {self.unpacked}" if self.hashes else locks.NOT_MEASURED
        return f"# {sizes}\n{self.name}=={self.version}{marker}{hashes}\n"


def write_all(only: str = "") -> None:
    """Write the lock of each build, and that of uv; or that of one build alone. Raises SetupError."""
    uv = ensure_uv()
    locks.FOLDER.mkdir(exist_ok=True)
    sizes: dict[str, int] = {}
    for build in BUILDS:
        if only not in ("", build.name):
            continue
        pins: dict[tuple[str, str], Pin] = {}
        for python in PYTHONS:
            for package in resolve(uv, build, python):
                add_wheel(pins, package, python, sizes)
        text = locks.HEADER.format(name=build.name, requirements=locks.digest_of(requirements()))
        lines = [pin.line() for _, pin in sorted(pins.items())]
        locks.lock_file(build).write_text(text + "".join(lines), encoding="utf-8", newline="\n")
        print(locks.lock_file(build).relative_to(ROOT))
    if not only:
        write_uv_lock()


def requirements() -> list[str]:
    """The dependencies of the backend."""
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]


def wanted(build: Build, torch: str) -> list[str]:
    """The dependencies of the backend with the build's own PyTorch and Warp."""
    own = {"torch": torch, "warp-lang": build.warp}
    names = [re.match(r"[\w.-]+", line)[0] for line in requirements()]  # type: ignore[index]
    return [
        f"{name}=={own[name]}" if name in own else line
        for name, line in zip(names, requirements(), strict=True)
    ]


def resolve(uv: Path, build: Build, python: str) -> Iterable[dict]:
    """All packages of a build for one Python, as tables of a pylock.toml."""
    if not build.torch_backend:
        return compile_lock(uv, build, python, build.torch)
    try:
        return compile_lock(uv, build, python, build.torch, "--torch-backend", build.torch_backend)
    except SetupError as error:
        print(f"{build.name}: PyTorch's index was not reached ({str(error).splitlines()[-1].strip()})")
    rest = compile_lock(uv, build, python, build.torch.partition("+")[0])
    ours = [p for p in rest if p["name"] != "torch" and not p["name"].startswith(OF_CUDA)]
    return [*ours, {"name": "torch", "version": build.torch}]


def compile_lock(uv: Path, build: Build, python: str, torch: str, *options: str) -> list[dict]:
    """The packages that uv resolves. Raises SetupError with its output."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "requirements.in"), Path(folder, "pylock.toml")
        source.write_text("\n".join(wanted(build, torch)), encoding="utf-8")
        command = [
            str(uv), "pip", "compile", "--no-config", "--system-certs", "--no-header", "--only-binary", ":all:",
            "--format", "pylock.toml", "--python-version", python, "--python-platform", PLATFORMS[build.system],
            *options, str(source), "-o", str(target),
        ]  # fmt: skip
        # Of macOS, uv takes an older version than PyTorch's wheels need.
        environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": ".".join(map(str, MACOS))}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SetupError(done.stderr.strip())
        return tomllib.loads(target.read_text(encoding="utf-8"))["packages"]


def add_wheel(pins: dict[tuple[str, str], Pin], package: dict, python: str, sizes: dict[str, int]) -> None:
    key = (package["name"], package["version"])
    pin = pins.setdefault(key, Pin(*key))
    pin.pythons.append(python)
    for wheel in package.get("wheels", [])[:1]:
        pin.hashes.add(wheel["hashes"]["sha256"])
        url = wheel["url"]
        if url not in sizes:
            sizes[url] = unpacked_size(url, wheel["size"])
        # Wheels for two Pythons differ by a few percent; the larger one is promised.
        pin.download, pin.unpacked = max(pin.download, wheel["size"]), max(pin.unpacked, sizes[url])


class RemoteFile(io.RawIOBase):
    """A file behind a URL, of which only the blocks that are read are fetched."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self.position = url, size, 0
        self._blocks: dict[int, bytes] = {}

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def read(self, size: int = -1) -> bytes:
        end = self.size if size < 0 else min(self.position + size, self.size)
        data = bytearray()
        while self.position < end:
            number, start = divmod(self.position, BLOCK)
            part = self._block(number)[start : start + end - self.position]
            data += part
            self.position += len(part)
        return bytes(data)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            last = min((number + 1) * BLOCK, self.size) - 1
            request = urllib.request.Request(self.url, headers={"Range": f"bytes={number * BLOCK}-{last}"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                self._blocks[number] = answer.read()
        return self._blocks[number]


def unpacked_size(url: str, size: int) -> int:
    """Bytes of a wheel on the disk, from the directory at its end: the wheel itself is not fetched."""
    with zipfile.ZipFile(RemoteFile(url, size)) as wheel:  # type: ignore[arg-type]
        return sum(entry.file_size for entry in wheel.infolist())


def write_uv_lock() -> None:
    """Pin uv itself: the version that the locks were made with, for all systems."""
    uv = ensure_uv()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "uv.in"), Path(folder, "uv.txt")
        source.write_text(f"uv=={locks.UV_VERSION}\n", encoding="utf-8")
        command = [str(uv), "pip", "compile", "--no-config", "--system-certs", "--no-header", "--no-annotate"]
        command += [
            "--generate-hashes",
            "--universal",
            "--only-binary",
            ":all:",
            str(source),
            "-o",
            str(target),
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SetupError(done.stderr.strip())
        locks.UV_LOCK.write_text(target.read_text(encoding="utf-8"), encoding="utf-8", newline="\n")
