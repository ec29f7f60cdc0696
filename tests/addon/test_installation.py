"""Installing with the real uv, small wheels and no network: what is made, what is left, what is said."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from recdreamer_extension.addon.setup import installation as module
from recdreamer_extension.addon.setup import locks
from recdreamer_extension.addon.setup.builds import Build
from recdreamer_extension.addon.setup.installation import Installation, Places, read_status
from recdreamer_extension.addon.setup.remedies import SetupError
from recdreamer_extension.addon.setup.uv import interpreter_of, uv_program

uv = pytest.importorskip("uv")
BUILD = Build("linux", "x86_64", "toy", "1", "1")
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
ROOT = Path(__file__).resolve().parents[2]


def make_wheel(folder: Path, name: str, version: str, payload: int = 0) -> Path:
    """A pure wheel with one module, of at least `payload` bytes that cannot be compressed."""
    files = {
        f"{name}.py": f"VERSION = {version!r}\n".encode(),
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{name}-{version}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}.bin": os.urandom(payload),
    }
    lines = []
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(data)}")
    files[f"{name}-{version}.dist-info/RECORD"] = "\n".join(
        [*lines, f"{name}-{version}.dist-info/RECORD,,"]
    ).encode()
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return wheel


def write_lock(*wheels: Path) -> None:
    lines = []
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        size = wheel.stat().st_size
        lines.append(f"# {size} {size}\n{name}=={version} \\\n    --hash=sha256:{digest}\n")
    locks.lock_file(BUILD).write_text("".join(lines))


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A data folder that has uv; locks and backend are stand-ins."""
    monkeypatch.setattr(locks, "FOLDER", tmp_path / "locks")
    locks.FOLDER.mkdir()
    data = tmp_path / "data mit Größe"
    program = uv_program(Places(data).setup)
    program.parent.mkdir(parents=True)
    shutil.copy(uv.find_uv_bin(), program)
    (tmp_path / "backend" / "recdreamer").mkdir(parents=True)
    doctor(tmp_path, "print('ok    device: CPU')")
    return data


def doctor(tmp_path: Path, code: str) -> None:
    (tmp_path / "backend" / "recdreamer" / "__main__.py").write_text(f"{code}\n")


def install(data: Path, wheels: Path | None, **variables: str) -> list[tuple[str, str, float]]:
    """Install; returns what was said."""
    said = []
    run = Installation(data, BUILD, data.parent / "backend", lambda *words: said.append(words), wheels)
    run.environment |= variables
    run.run()
    return said


def import_toy(data: Path, code: str = "import toy; print(toy.VERSION)") -> str:
    python = interpreter_of(Places(data).environment)
    command = [python, "-I", "-B", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_uv_is_the_pinned_one():
    found = subprocess.run([uv.find_uv_bin(), "--version"], capture_output=True, text=True, check=True)
    assert found.stdout.split()[1] == locks.UV_VERSION


def test_installing_updating_and_what_is_left(data, tmp_path, monkeypatch):
    wheels = tmp_path / "wheels"
    write_lock(make_wheel(wheels, "toy", "1.0"), make_wheel(wheels, "extra", "1.0"))
    assert read_status(data, [BUILD]) is None
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/elsewhere")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    said = install(data, wheels)
    assert import_toy(data) == "1.0"
    assert read_status(data, [BUILD]) == module.Status("linux-toy", True)
    assert said[-1] == ("Ready", "", 1.0)
    assert [factor for _, _, factor in said] == sorted(factor for _, _, factor in said)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert {path.name for path in data.iterdir()} == {"backend", "setup", "install.log"}
    assert {path.name for path in Places(data).setup.iterdir()} == {"uv"}

    # A new version of the extension has another lock: an update, which removes what is not needed any more.
    write_lock(make_wheel(wheels, "toy", "2.0"))
    assert read_status(data, [BUILD]) == module.Status("linux-toy", False)
    before = interpreter_of(Places(data).environment).lstat().st_mtime_ns
    install(data, wheels)
    assert import_toy(data) == "2.0"
    assert interpreter_of(Places(data).environment).lstat().st_mtime_ns == before, "the environment was kept"
    assert import_toy(data, "import importlib.util as u; print(u.find_spec('extra'))") == "None"
    assert read_status(data, [BUILD]) == module.Status("linux-toy", True)


def test_a_build_that_this_version_does_not_know_needs_an_update(data, tmp_path):
    wheels = tmp_path / "wheels"
    write_lock(make_wheel(wheels, "toy", "1.0"))
    install(data, wheels)
    assert read_status(data, []) == module.Status("linux-toy", False)
    Places(data).marker.write_text("")
    assert read_status(data, [BUILD]) == module.Status("", False)


def test_a_missing_wheel_is_named_and_the_log_has_everything(data, tmp_path):
    wheels = tmp_path / "wheels"
    write_lock(make_wheel(wheels, "toy", "1.0"), make_wheel(tmp_path / "elsewhere", "absent", "1.0"))
    with pytest.raises(SetupError, match=r"There is no fitting wheel of absent. Choose a folder"):
        install(data, wheels)
    log = Places(data).log.read_text(encoding="utf-8")
    assert (
        "--no-index" in log
        and "absent was not found" in log
        and log.rstrip().splitlines()[-1].startswith("FAILED")
    )
    assert read_status(data, [BUILD]) is None


def test_another_file_than_the_locked_one_is_refused(data, tmp_path):
    wheels = tmp_path / "wheels"
    write_lock(make_wheel(wheels, "toy", "1.0"))
    make_wheel(wheels, "toy", "1.0", payload=10)
    with pytest.raises(SetupError, match="not the one that this version was tested with"):
        install(data, wheels)
    assert read_status(data, [BUILD]) is None


def test_a_failing_check_gives_its_own_sentence(data, tmp_path):
    wheels = tmp_path / "wheels"
    write_lock(make_wheel(wheels, "toy", "1.0"))
    doctor(
        tmp_path,
        "print('ok    Python: fine\\nFAIL  device: The driver is old. Update it.'); raise SystemExit(1)",
    )
    with pytest.raises(SetupError, match=r"^device: The driver is old. Update it."):
        install(data, wheels)
    assert read_status(data, [BUILD]) is None


def test_a_full_disk_is_reported_before_any_download(data, tmp_path, monkeypatch):
    write_lock(make_wheel(tmp_path / "wheels", "toy", "1.0"))
    monkeypatch.setattr(module, "sizes", lambda build: (10**18, 10**18, True))
    with pytest.raises(SetupError, match=r"needs 1000000000.0 GB, but only .* Free some space"):
        install(data, tmp_path / "wheels")
    assert not Places(data).environment.exists()


def test_a_data_folder_that_is_a_file(data, tmp_path):
    (tmp_path / "file").touch()
    write_lock(make_wheel(tmp_path / "wheels", "toy", "1.0"))
    run = Installation(tmp_path / "file", BUILD, tmp_path, lambda *_: None, None)
    with pytest.raises(SetupError, match="Not a directory"):
        run.run()


class Index(BaseHTTPRequestHandler):
    """A package index of the wheels in `folder`; wheels named in `slow` stop in the middle, and wait."""

    folder: Path
    slow: set[str]
    sent: list[str]
    release: threading.Event

    def do_GET(self) -> None:
        name = self.path.rstrip("/").rpartition("/")[2].partition("#")[0]
        if name.endswith(".metadata"):
            package, version = name.split("-")[:2]
            body = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode()
        elif name.endswith(".whl"):
            body = (self.folder / name).read_bytes()
            self.sent.append(name)
        else:
            found = [path.name for path in self.folder.glob(f"{name}-*.whl")]
            body = "".join(
                f'<a href="/files/{one}" data-core-metadata="true">{one}</a>' for one in found
            ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2 if name in self.slow else len(body)
        self.wfile.write(body[:half])
        if half < len(body):
            self.release.wait(60)
            with suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body[half:])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def index(tmp_path):
    handler = type(
        "Handler",
        (Index,),
        {"folder": tmp_path / "wheels", "slow": set(), "sent": [], "release": threading.Event()},
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}/simple"
    yield handler
    handler.release.set()
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_a_killed_installation_goes_on_where_it_stopped(data, tmp_path, index, wait_until):
    small = make_wheel(index.folder, "toy", "1.0", payload=400_000)
    large = make_wheel(index.folder, "large", "1.0", payload=4_000_000)
    write_lock(small, large)
    index.slow.add(large.name)
    script = (
        "import sys, json; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\nfrom addon.setup import locks, installation, builds\n"
        "locks.FOLDER = Path(sys.argv[2])\n"
        "build = builds.Build('linux', 'x86_64', 'toy', '1', '1')\n"
        "run = installation.Installation(Path(sys.argv[3]), build, Path(sys.argv[4]),\n"
        "    lambda *words: print(json.dumps(words), flush=True))\n"
        "run.environment['UV_DEFAULT_INDEX'] = sys.argv[5]\nrun.run()\n"
    )
    command = [sys.executable, "-c", script, ROOT, locks.FOLDER, data, tmp_path / "backend", index.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    said = []
    reader = threading.Thread(target=lambda: said.extend(map(json.loads, process.stdout)), daemon=True)
    reader.start()
    # The small wheel alone is 0.13: bytes of the large one are seen to arrive.
    wait_until(lambda: (said and said[-1][2] > 0.2) or process.poll() is not None)
    assert process.poll() is None, (data / "install.log").read_text()
    assert small.name in index.sent
    with process:
        os.killpg(process.pid, signal.SIGKILL)
        reader.join()
    assert read_status(data, [BUILD]) is None
    assert list(Places(data).cache.glob(".tmp*")), "half of the large wheel"

    index.slow.clear()
    index.sent.clear()
    install(data, None, UV_DEFAULT_INDEX=index.url)
    assert index.sent == [large.name], "the small wheel is not fetched again"
    assert import_toy(data) == "1.0"
    assert not Places(data).cache.exists()


def test_a_connection_that_breaks_is_one_sentence(data, tmp_path, index):
    write_lock(make_wheel(index.folder, "toy", "1.0"))
    with pytest.raises(SetupError, match=r"^The connection to 127.0.0.1 broke off."):
        install(data, None, UV_DEFAULT_INDEX="http://127.0.0.1:9/simple", UV_HTTP_RETRIES="0")


def pythons(data: Path, entries: list[dict]) -> list[tuple[str, str]]:
    run = Installation(data, BUILD, data, lambda *_: None)
    run._call = lambda *_, **__: (0, f"warning: something\n{json.dumps(entries)}\n")
    return run._pythons()


def entry(path: object, version: str, **others: str) -> dict:
    return {
        "path": str(path),
        "version": version,
        "implementation": "cpython",
        "variant": "default",
        **others,
    }


def test_which_pythons_fit(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module.sys, "prefix", str(tmp_path / "blender-5.2" / "5.2" / "python"))
    (tmp_path / "conda" / "conda-meta").mkdir(parents=True)
    entries = [
        entry("/usr/bin/python3.11", "3.11.2"),
        entry("/usr/bin/python3.13", "3.13.5"),
        entry("/usr/bin/python3.14", "3.14.0"),
        entry("/opt/python3.13t", "3.13.5", variant="freethreaded"),
        entry("/opt/pypy", "3.11.1", implementation="pypy"),
        entry(tmp_path / "conda" / "bin" / "python3.12", "3.12.1"),
        entry(Path(sys.prefix) / "bin" / "python3.12", "3.12.1"),
        entry("python3.12", "3.12.0"),
    ]
    assert pythons(data, entries) == [("/usr/bin/python3.13", "3.13"), ("/usr/bin/python3.11", "3.11")]
    assert pythons(data, []) == []
    # Of a distribution, Blender runs in the system's Python, which is as good as any.
    monkeypatch.setattr(module.sys, "prefix", "/usr")
    assert pythons(data, entries[:2]) == [("/usr/bin/python3.13", "3.13"), ("/usr/bin/python3.11", "3.11")]


def test_without_a_fitting_python_blenders_own_is_the_last(data, monkeypatch):
    """uv cannot fetch one: its server is not reached."""
    refusal = (Path(__file__).parent / "failed_installs" / "uv-python-dns.txt").read_text(encoding="utf-8")

    def answer(command, step, *_, **__):
        if "install" in map(str, command):
            return 1, refusal
        return 0, (version if "-c" in command else "[]")

    version = VERSION
    run = Installation(data, BUILD, data, lambda *_: None)
    run._call = answer
    assert run._find_python() == (sys.executable, VERSION)
    version = "3.14"
    with pytest.raises(SetupError) as caught:
        run._find_python()
    assert str(caught.value) == (
        "There is no Python 3.11 to 3.13 on this computer, and none could be fetched: the name github.com could not be "
        "found on this network. Check that the computer is online and that no firewall blocks this name, and try again. "
        "Or install one of these versions yourself."
    )
    offline = Installation(data, BUILD, data, lambda *_: None, wheels=data)
    offline._call = answer
    with pytest.raises(SetupError, match=r"on this computer. Install one of them"):
        offline._find_python()


def test_time_of_a_run(data, tmp_path):
    """The steps of an installation of nothing take seconds."""
    write_lock(make_wheel(tmp_path / "wheels", "toy", "1.0"))
    started = time.monotonic()
    install(data, tmp_path / "wheels")
    assert time.monotonic() - started < 60
