"""Which settings reach uv and pip, and uv itself where there is no pip."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from recdreamer_extension.addon.setup import fetch_uv, locks
from recdreamer_extension.addon.setup.remedies import SetupError
from recdreamer_extension.addon.setup.uv import child_environment


def test_settings_of_others_do_not_leak_in(tmp_path):
    outer = {
        "PIP_INDEX_URL": "http://elsewhere", "PIP_TARGET": "/elsewhere", "UV_INDEX": "http://elsewhere",
        "UV_PYTHON": "3.9", "PYTHONPATH": "/blender", "PYTHONHOME": "/blender", "CONDA_PREFIX": "/conda",
        "VIRTUAL_ENV": "/venv", "pip_index_url": "http://elsewhere", "HOME": str(tmp_path),
        "PATH": os.pathsep.join([".", "/bin", "bin"]),
    }  # fmt: skip
    inner = child_environment(tmp_path / "setup", outer)
    assert "elsewhere" not in str(inner) and "/blender" not in str(inner) and "/conda" not in str(inner)
    assert not {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PYTHON"} & set(inner)
    assert inner["PATH"] == "/bin"
    assert inner["PIP_CONFIG_FILE"] == os.devnull and inner["UV_NO_CONFIG"] == "1"
    # Whatever is written while it runs is in the data folder.
    for name in ("UV_CACHE_DIR", "UV_PYTHON_INSTALL_DIR", "PIP_CACHE_DIR", "TMPDIR", "TEMP", "TMP"):
        assert Path(inner[name]).is_relative_to(tmp_path / "setup")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_do(tmp_path, name):
    certificate = tmp_path / "company.pem"
    certificate.touch()
    inner = child_environment(tmp_path, {name: str(certificate), "HOME": str(tmp_path)})
    assert inner["SSL_CERT_FILE"] == inner["PIP_CERT"] == str(certificate)
    inner = child_environment(tmp_path, {name: str(tmp_path / "gone.pem"), "HOME": str(tmp_path)})
    assert "SSL_CERT_FILE" not in inner


def test_blenders_own_certificates_do_not_hide_the_systems(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "cacert.pem").touch()
    outer = {"SSL_CERT_FILE": str(tmp_path / "cacert.pem"), "HOME": str(tmp_path)}
    assert "SSL_CERT_FILE" not in child_environment(tmp_path, outer)


def test_proxies_do(tmp_path):
    outer = {"HTTPS_PROXY": "http://a:1", "no_proxy": "b", "PIP_PROXY": "http://c:2", "HOME": str(tmp_path)}
    inner = child_environment(tmp_path, outer)
    assert (inner["HTTPS_PROXY"], inner["no_proxy"]) == ("http://a:1", "b")
    inner = child_environment(tmp_path, {"PIP_PROXY": "http://c:2", "HOME": str(tmp_path)})
    assert inner["HTTPS_PROXY"] == inner["HTTP_PROXY"] == "http://c:2"


def test_of_pips_configuration_only_proxy_and_certificate_count(tmp_path):
    certificate = tmp_path / "company.pem"
    certificate.touch()
    file = tmp_path / "pip.conf"
    file.write_text(
        f"[global]\nindex-url = http://elsewhere\nproxy = http://me:50%@c:2\ncert = {certificate}\n"
    )
    inner = child_environment(tmp_path, {"PIP_CONFIG_FILE": str(file), "HOME": str(tmp_path)})
    assert inner["HTTPS_PROXY"] == "http://me:50%@c:2" and inner["SSL_CERT_FILE"] == str(certificate)
    assert "elsewhere" not in str(inner)
    file.write_text("not an ini file")
    assert "HTTPS_PROXY" not in child_environment(
        tmp_path, {"PIP_CONFIG_FILE": str(file), "HOME": str(tmp_path)}
    )


def wheel(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("uv/__init__.py", "")
        archive.writestr(f"uv-{locks.UV_VERSION}.data/scripts/uv", "#!/bin/sh\necho uv\n")
    return path.read_bytes()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index with uv's wheel for this computer; its hash is the locked one."""
    name = f"uv-{locks.UV_VERSION}-py3-none-{fetch_uv.wheel_tag()}.whl"
    data = wheel(tmp_path / name)
    monkeypatch.setattr(locks, "UV_LOCK", tmp_path / "uv.txt")
    locks.UV_LOCK.write_text(f"uv=={locks.UV_VERSION} --hash=sha256:{hashlib.sha256(data).hexdigest()}\n")

    class Handler(BaseHTTPRequestHandler):
        answer = data
        status = 200

        def do_GET(self) -> None:
            self.send_response(self.status)
            self.end_headers()
            files = [
                {"filename": "uv-0.1-py3-none-any.whl", "url": "/x"},
                {"filename": name, "url": "/files/uv"},
            ]
            self.wfile.write(json.dumps({"files": files}).encode() if "simple" in self.path else self.answer)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{server.server_port}/simple/uv/"
    yield Handler
    server.shutdown()
    server.server_close()


def test_uv_is_unpacked_like_pip_would(tmp_path, index):
    fetch_uv.fetch(tmp_path / "uv", None, {}, index.url)
    program = tmp_path / "uv" / "bin" / "uv"
    assert "echo uv" in program.read_text() and program.stat().st_mode & stat.S_IXUSR
    # The same from a folder of wheels, without network.
    fetch_uv.fetch(tmp_path / "again", tmp_path, {}, "http://127.0.0.1:9/")
    assert (tmp_path / "again" / "bin" / "uv").read_bytes() == program.read_bytes()


def test_a_changed_wheel_of_uv_is_refused(tmp_path, index):
    index.answer = index.answer + b"x"
    with pytest.raises(SetupError, match="not the one that this version was tested with"):
        fetch_uv.fetch(tmp_path / "uv", None, {}, index.url)
    assert not (tmp_path / "uv").exists()


def test_what_can_go_wrong_is_one_sentence(tmp_path, index):
    index.status = 503
    with pytest.raises(SetupError, match=r"^127.0.0.1 is out of order or too busy."):
        fetch_uv.fetch(tmp_path / "uv", None, {}, index.url)
    with pytest.raises(SetupError, match=r"^The connection to 127.0.0.1 broke off."):
        fetch_uv.fetch(tmp_path / "uv", None, {}, "http://127.0.0.1:9/simple/uv/")
    with pytest.raises(SetupError, match=r"^There is no fitting wheel of uv."):
        fetch_uv.fetch(tmp_path / "uv", tmp_path / "uv", {}, index.url)
