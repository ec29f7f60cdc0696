"""Setting up: what is missing is one sentence, what was interrupted is redone, what is there costs nothing."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def environments(monkeypatch, tmp_path):
    """tools/environments.py over a folder of its own; pip is not called but written down."""
    spec = importlib.util.spec_from_file_location("environments", ROOT / "tools" / "environments.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "environments", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENVS", tmp_path / "mit Größe" / ".venv")
    module.installed = []
    run = module.run_shown

    def without_network(what, command):
        if "pip" in command:
            module.installed.append(command[-1])
        else:
            run(what, command)

    monkeypatch.setattr(module, "run_shown", without_network)
    return module


def test_an_environment_is_made_once_and_again_when_its_list_changes(environments):
    environment = environments.Environment("blender-9.9", VERSION, (("bpy==9.9",), ("pytest",)))
    python = environment.ensure()
    made = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, check=True)
    assert Path(made.stdout.decode().strip()) == environment.folder
    assert environments.installed == ["bpy==9.9", "pytest"]
    assert environment.ensure() == python
    assert environments.installed == ["bpy==9.9", "pytest"]
    replace(environment, installs=(("bpy==9.9.1",),)).ensure()
    assert environments.installed[2:] == ["bpy==9.9.1"]


def test_an_interrupted_set_up_is_redone(environments):
    environment = environments.Environment("blender-9.9", VERSION, (("bpy==9.9",),))
    half = environment.interpreter
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment.folder], check=True)
    assert environments._version_of(str(half)) == VERSION, "it starts, but has no pip"
    assert environments._version_of(str(half), "import pip") is None
    environment.ensure()
    assert environments._version_of(str(environment.interpreter), "import pip") == VERSION


def test_a_step_that_fails_leaves_no_stamp(environments, monkeypatch):
    environment = environments.Environment("blender-9.9", VERSION, (("bpy==9.9",),))
    environment.ensure()
    changed = replace(environment, installs=(("no-such-package",),))

    def fail(what, command):
        raise environments.SetupError(f"This step failed: {what}.")

    with monkeypatch.context() as patch:
        patch.setattr(environments, "run_shown", fail)
        with pytest.raises(environments.SetupError, match="no-such-package"):
            changed.ensure()
    environments.installed.clear()
    changed.ensure()
    assert environments.installed == ["no-such-package"]


def test_another_version_that_is_there_will_do(environments):
    environment = environments.Environment("backend-9", "3.99", (), also=("3.98", VERSION))
    assert environments._version_of(environment.find_base()) == VERSION
    python = environment.ensure()
    assert environments._version_of(str(python), "import pip") == VERSION
    assert environments.Environment("backend-9", "3.99", ()).find_base() is None


def test_a_missing_interpreter_is_fetched(environments, monkeypatch, tmp_path):
    """By uv, from a server that is a stand-in here."""
    monkeypatch.setattr(environments, "PYTHONS", tmp_path / "python")
    monkeypatch.setattr(environments, "ensure_uv", lambda: Path("/uv"))
    assert environments.find_python("3.99") is None

    def fetch(what, command, environment):
        assert command[1:] == ["python", "install", "3.99"]
        program = Path(environment["UV_PYTHON_INSTALL_DIR"], "cpython-3.99.1-linux", "bin", "python3")
        program.parent.mkdir(parents=True)
        program.touch()

    monkeypatch.setattr(environments, "run_shown", fetch)
    assert environments.fetch_python("3.99") == str(tmp_path / "python/cpython-3.99.1-linux/bin/python3")


def test_a_missing_interpreter_that_cannot_be_fetched_is_one_sentence(environments, monkeypatch):
    """With what uv prints where its server cannot be reached."""
    recorded = ROOT / "tests" / "addon" / "failed_installs" / "uv-python-dns.txt"

    def fail(*_):
        raise environments.SetupError(recorded.read_text(encoding="utf-8"))

    monkeypatch.setattr(environments, "ensure_uv", lambda: Path("/uv"))
    monkeypatch.setattr(environments, "run_shown", fail)
    with pytest.raises(environments.SetupError) as caught:
        environments.fetch_python("3.12")
    assert str(caught.value) == (
        "Python 3.12 was not found, and could not be fetched. The name github.com could not be found on this network. "
        "Install it, so that `python3.12` is on the PATH. Or: Check that the computer is online and that no firewall "
        "blocks this name, and try again."
    )


def test_a_python_without_venv_and_pip_is_enough(environments, monkeypatch, tmp_path):
    """As Debian's; uv makes the environment then, with pip in it."""
    commands = []
    version_of = environments._version_of
    monkeypatch.setattr(
        environments,
        "_version_of",
        lambda one, also="": None if "ensurepip" in also else version_of(one, also),
    )
    monkeypatch.setattr(environments, "ensure_uv", lambda: Path("/uv"))
    monkeypatch.setattr(environments, "run_shown", lambda what, command, *_: commands.append(command))
    environment = environments.Environment("blender-9.9", VERSION, ())
    environment.folder.mkdir(parents=True)
    environment.ensure()
    assert commands[0][:4] == ["/uv", "venv", "--seed", "--clear"]


def test_the_failing_step_shows_its_last_words(environments, monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("untouched", ROOT / "tools" / "environments.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "untouched", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENVS", tmp_path)
    script = "print('what went wrong'); raise SystemExit(3)"
    with pytest.raises(module.SetupError, match=r"(?s)what went wrong.*This step failed: trying"):
        module.run_shown("trying", [sys.executable, "-c", script])
    script = "raise SystemExit('ImportError: libX11.so.6: cannot open shared object file: No such file')"
    with pytest.raises(
        module.SetupError, match=r"^trying: the system library libX11.so.6, .* apt-get install libx11-6"
    ):
        module.run_shown("trying", [sys.executable, "-c", script])
