"""How uv is called, and in which environment. No bpy here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from pathlib import Path

FOREIGN = ("PIP_", "UV_", "PYTHON", "CONDA", "MAMBA", "VIRTUAL_ENV", "PYENV_", "PDM_", "POETRY_", "__PYVENV")
"""Beginnings of variables that would change what is installed, or where."""
CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
ON_WINDOWS = os.name == "nt"


def child_environment(folder: Path, outer: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of the processes that install into `folder`: no settings of others, but their proxies and certificates.

    All caches and scratch files are inside `folder`, so that a process that is killed leaves nothing elsewhere.
    """
    outer = os.environ if outer is None else outer
    inner = {name: value for name, value in outer.items() if not name.upper().startswith(FOREIGN)}
    settings = pip_settings(outer)
    certificate = next((outer[name] for name in CERTIFICATES if outer.get(name)), settings.get("cert", ""))
    inner.pop("SSL_CERT_FILE", None)
    # Blender brings certificates of its own, which know nothing of a company's; the system's store does.
    if certificate and Path(certificate).is_file() and Path(sys.prefix) not in Path(certificate).parents:
        inner["SSL_CERT_FILE"] = certificate
        inner["PIP_CERT"] = certificate
    proxy = outer.get("PIP_PROXY") or settings.get("proxy", "")
    if proxy and not any(inner.get(name) for name in PROXIES):
        inner |= {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}
    # A relative folder would be looked for in the working folder, which may be anybody's.
    paths = [part for part in inner.get("PATH", "").split(os.pathsep) if Path(part).is_absolute()]
    scratch = str(folder / "tmp")
    return inner | {
        "PATH": os.pathsep.join(paths),
        "PYTHONUTF8": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_CACHE_DIR": str(folder / "cache" / "pip"),
        "UV_NO_CONFIG": "1",
        "UV_SYSTEM_CERTS": "1",
        "UV_CACHE_DIR": str(folder / "cache"),
        "UV_PYTHON_INSTALL_DIR": str(folder / "python"),
        "UV_PYTHON_INSTALL_BIN": "0",
        "UV_PYTHON_INSTALL_REGISTRY": "0",
        "UV_HTTP_TIMEOUT": "60",
        "UV_NO_PROGRESS": "1",
        "TMPDIR": scratch,
        "TEMP": scratch,
        "TMP": scratch,
    }


def pip_settings(outer: Mapping[str, str]) -> dict[str, str]:
    """`proxy` and `cert` of pip's configuration files: the network's, not the project's; nothing else of them."""
    home = Path(outer.get("HOME") or outer.get("USERPROFILE") or Path.home())
    places = [
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        Path(outer.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf",
        home / "Library" / "Application Support" / "pip" / "pip.conf",
    ]
    if ON_WINDOWS:
        roots = [outer.get("PROGRAMDATA"), outer.get("APPDATA")]
        places = [Path(root) / "pip" / "pip.ini" for root in roots if root]
    if outer.get("PIP_CONFIG_FILE"):
        places.append(Path(outer["PIP_CONFIG_FILE"]))
    found: dict[str, str] = {}
    for place in places:
        parser = ConfigParser(interpolation=None)
        with suppress(OSError, ConfigError, UnicodeDecodeError):
            parser.read(place, encoding="utf-8")
            for name in ("proxy", "cert"):
                value = parser.get("global", name, fallback="")
                if value:
                    found[name] = value
    return found


def uv_program(folder: Path) -> Path:
    """Where `pip install --target` puts uv's program."""
    return folder / "uv" / "bin" / ("uv.exe" if ON_WINDOWS else "uv")


def interpreter_of(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / ("Scripts/python.exe" if ON_WINDOWS else "bin/python")
