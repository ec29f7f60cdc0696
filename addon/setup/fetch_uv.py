"""Fetch uv where there is no pip: one wheel of the package index, its hash checked, unpacked. No bpy here."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import ssl
import sys
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path

from . import locks
from .hardware import MACHINES
from .remedies import SetupError, explain

INDEX = "https://pypi.org/simple/uv/"
TAGS = {
    ("linux", "x86_64"): "manylinux_2_17_x86_64",
    ("linux", "arm64"): "manylinux_2_17_aarch64",
    ("win32", "x86_64"): "win_amd64",
    ("win32", "arm64"): "win_arm64",
    ("darwin", "x86_64"): "macosx_10_12_x86_64",
    ("darwin", "arm64"): "macosx_11_0_arm64",
}


def wheel_tag() -> str:
    """The platform tag of uv's wheel for this computer. Raises SetupError if there is none."""
    processor = platform.machine().lower()
    key = (sys.platform, MACHINES.get(processor, processor))
    if key not in TAGS:
        raise SetupError(
            f"The installer uv has no build for {key[0]} on {key[1]}.",
            "Choose a Python in which you have installed the backend yourself.",
        )
    return TAGS[key]


def fetch(target: Path, wheels: Path | None, environment: Mapping[str, str], index: str = INDEX) -> None:
    """Unpack uv's wheel into `target`, as pip --target would. Raises SetupError.

    `wheels` is a folder that replaces the network; certificates and proxies are those of `environment`.
    """
    tag = wheel_tag()
    try:
        data = _from_folder(wheels, tag) if wheels else _from_index(tag, environment, index)
    except OSError as error:
        # urllib's errors are OSErrors; their text has the cause.
        failure = explain(f"{index}\nerror: {error}", "Getting the installer")
        raise SetupError(failure.sentence, failure.cure) from error
    if hashlib.sha256(data).hexdigest() not in locks.UV_LOCK.read_text(encoding="utf-8"):
        failure = explain("Hash mismatch", "Getting the installer")
        raise SetupError(failure.sentence, failure.cure)
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        for name in wheel.namelist():
            # Programs are in uv-<version>.data/scripts.
            if "/scripts/" in name and not name.endswith("/"):
                program = target / "bin" / Path(name).name
                program.parent.mkdir(parents=True, exist_ok=True)
                program.write_bytes(wheel.read(name))
                program.chmod(0o755)


def _from_folder(wheels: Path, tag: str) -> bytes:
    for path in sorted(wheels.glob(f"uv-{locks.UV_VERSION}-*.whl")):
        if tag in path.name:
            return path.read_bytes()
    failure = explain("No matching distribution found for uv", "Getting the installer")
    raise SetupError(failure.sentence, failure.cure)


def _from_index(tag: str, environment: Mapping[str, str], index: str) -> bytes:
    context = ssl.create_default_context(cafile=environment.get("SSL_CERT_FILE"))
    proxies = urllib.request.getproxies()
    if environment.get("HTTPS_PROXY"):
        proxies["https"] = environment["HTTPS_PROXY"]
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=context)
    )
    request = urllib.request.Request(index, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with opener.open(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    start = f"uv-{locks.UV_VERSION}-"
    url = next(
        (one["url"] for one in files if one["filename"].startswith(start) and tag in one["filename"]), None
    )
    if url is None:
        failure = explain("No matching distribution found for uv", "Getting the installer")
        raise SetupError(failure.sentence, failure.cure)
    with opener.open(urllib.parse.urljoin(index, url), timeout=60) as answer:
        return answer.read()
