"""Writing the lock files: one wheel for each Python, with its hash and sizes, and what happens without an index."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lock(monkeypatch):
    """tools/lock.py; as for the tools, addon/ and tools/ are on the path."""
    for folder in (ROOT, ROOT / "tools"):
        monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("lock", ROOT / "tools" / "lock.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lock", module)
    spec.loader.exec_module(module)
    yield module
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("addon", "environments"):
            del sys.modules[name]


@pytest.fixture
def server(tmp_path):
    """Serves ranges of files, and counts the bytes."""

    class Handler(BaseHTTPRequestHandler):
        sent = 0

        def do_GET(self) -> None:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            body = (tmp_path / self.path.strip("/")).read_bytes()[first : last + 1]
            type(self).sent += len(body)
            self.send_response(206)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{httpd.server_port}/"
    yield Handler
    httpd.shutdown()
    httpd.server_close()


def test_the_size_on_the_disk_is_read_without_fetching_the_wheel(lock, server, tmp_path):
    wheel = tmp_path / "large.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("random", os.urandom(3_000_000))
        archive.writestr("zeros", bytes(5_000_000))
    assert lock.unpacked_size(server.url + "large.whl", wheel.stat().st_size) == 8_000_000
    assert server.sent <= 2 * lock.BLOCK


def package(name: str, version: str, url: str, digest: str, size: int) -> dict:
    return {
        "name": name,
        "version": version,
        "wheels": [{"url": url, "size": size, "hashes": {"sha256": digest}}],
    }


def test_one_line_for_each_version_with_the_wheels_of_its_pythons(lock, tmp_path):
    pins = {}
    sizes = {"a311": 30, "a312": 40, "b": 5}
    lock.add_wheel(pins, package("numpy", "2.4", "a311", "aa", 10), "3.11", sizes)
    for python in ("3.12", "3.13"):
        lock.add_wheel(pins, package("numpy", "2.5", "a312", "bb", 20), python, sizes)
    for python in lock.PYTHONS:
        lock.add_wheel(pins, package("zipp", "1", "b", "cc", 3), python, sizes)
        lock.add_wheel(pins, {"name": "torch", "version": "2+cpu"}, python, sizes)
    text = "".join(pin.line() for _, pin in sorted(pins.items()))
    file = tmp_path / "lock.txt"
    file.write_text(text)
    made = [
        (pin.name, pin.version, pin.pythons, pin.hashes, pin.download, pin.unpacked)
        for pin in lock.locks.read_lock(file)
    ]
    assert made == [
        ("numpy", "2.4", ("3.11",), ("aa",), 10, 30),
        ("numpy", "2.5", ("3.12", "3.13"), ("bb",), 20, 40),
        ("torch", "2+cpu", lock.PYTHONS, (), 0, 0),
        ("zipp", "1", lock.PYTHONS, ("cc",), 3, 5),
    ]


def test_the_builds_have_their_own_torch_and_warp(lock):
    build = next(build for build in lock.BUILDS if build.name == "linux-cuda12")
    wanted = lock.wanted(build, build.torch)
    assert "torch==2.13.0+cu126" in wanted and "warp-lang==1.17.0" in wanted
    assert len(wanted) == len(lock.requirements())


def test_without_pytorchs_index_its_wheel_stays_without_hash_and_the_rest_is_locked(
    lock, monkeypatch, capsys
):
    build = next(build for build in lock.BUILDS if build.name == "linux-cuda12")

    def compile_lock(uv, build, python, torch, *options):
        if options:
            assert options == ("--torch-backend", "cu126")
            raise lock.SetupError("error: Failed to fetch\n  cause: dns error")
        assert torch == "2.13.0"
        return [package(name, "1", name, "aa", 1) for name in ("numpy", "torch", "nvidia-cublas", "triton")]

    monkeypatch.setattr(lock, "compile_lock", compile_lock)
    made = lock.resolve(Path("uv"), build, "3.12")
    assert [(one["name"], "wheels" in one) for one in made] == [("numpy", True), ("torch", False)]
    assert made[-1]["version"] == "2.13.0+cu126"
    assert "dns error" in capsys.readouterr().out
