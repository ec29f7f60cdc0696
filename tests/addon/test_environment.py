"""Find, create and check the backend's environment, with stand-ins for the commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from recdreamer_extension.addon.jobs import environment as module
from recdreamer_extension.addon.jobs.task import Step, Task
from recdreamer_extension.backend.recdreamer.protocol import RequestError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_steps_run_in_order_and_report(tmp_path):
    (tmp_path / "scrap").mkdir()
    task = Task(
        [Step("One", python("print('first')")), Step("Two", python("print('second')"))],
        marker=tmp_path / "marker",
        clean_up=tmp_path / "scrap",
    )
    task.join()
    assert task.has_succeeded
    assert (task.title, task.line) == ("Two", "second")
    assert (tmp_path / "marker").exists()
    assert not (tmp_path / "scrap").exists()


def test_a_failing_step_ends_the_task_with_its_last_line(tmp_path):
    task = Task(
        [Step("Fetching", python("print('No space.'); raise SystemExit(1)")), Step("Never", python(""))],
        marker=tmp_path / "marker",
    )
    task.join()
    assert task.problem == "Fetching failed: No space."
    assert not (tmp_path / "marker").exists()


def test_the_first_error_is_the_reason_and_a_log_has_everything(tmp_path):
    lines = [
        "Collecting torch",
        "ERROR: Could not find torch",
        "ERROR: That was it",
        "note: not a problem with pip",
    ]
    log = tmp_path / "install.log"
    for _ in range(2):
        task = Task([Step("Fetching", python(f"print(*{lines}, sep=chr(10)); raise SystemExit(1)"))], log=log)
        task.join()
        assert task.problem == f"Fetching failed: Could not find torch. {log} has everything."
        assert log.read_text().splitlines() == lines


def test_a_log_that_cannot_be_written_ends_the_task_with_a_sentence(tmp_path):
    task = Task([Step("Fetching", python("print(1)"))], log=tmp_path / "missing/install.log")
    task.join()
    assert "Fetching failed: No such file" in task.problem and not task.is_running


def test_settings_of_other_pythons_do_not_reach_pip(tmp_path, monkeypatch):
    """Neither variables nor files, but proxies and certificates do."""
    for name, value in {
        "PIP_USER": "1",
        "PIP_TARGET": "/x",
        "CONDA_PREFIX": "/x",
        "VIRTUAL_ENV": "/x",
    }.items():
        monkeypatch.setenv(name, value)
    kept = {"HTTPS_PROXY": "http://p:1", "SSL_CERT_FILE": "/c.pem", "PIP_CERT": "/c.pem"}
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip/pip.conf").write_text("[install]\nuser = true\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    log = tmp_path / "log"
    task = Task([Step("Asking", [sys.executable, "-m", "pip", "config", "list"])], log=log)
    task.join()
    assert not task.problem
    assert log.read_text().splitlines() == [":env:.cert='/c.pem'", f":env:.config-file='{os.devnull}'"]
    asked = Task([Step("Asking", python("import os; print(sorted(os.environ))"))])
    asked.join()
    assert all(repr(name) in asked.line for name in kept)
    assert not any(name in asked.line for name in ("PIP_USER", "PIP_TARGET", "CONDA", "VIRTUAL_ENV"))


def test_a_missing_command():
    task = Task([Step("Checking", ["/no/such/python"])])
    task.join()
    assert "Checking failed: No such file" in task.problem


def test_cancel_ends_the_running_command(wait_until):
    task = Task([Step("Long", python("print('on', flush=True); import time; time.sleep(600)"))])
    wait_until(lambda: task.poll() and task.line == "on")
    task.cancel()
    task.join()
    assert task.problem == "Canceled."
    assert not task.is_running


def test_no_backend_yet(tmp_path):
    with pytest.raises(RequestError, match="not installed yet"):
        module.find_interpreter("", tmp_path)


def test_an_incomplete_environment_does_not_count(tmp_path):
    interpreter = module.interpreter_of(module.own_environment(tmp_path))
    interpreter.parent.mkdir(parents=True)
    interpreter.touch()
    with pytest.raises(RequestError, match="not installed yet"):
        module.find_interpreter("", tmp_path)
    module._marker(tmp_path).touch()
    assert module.find_interpreter("", tmp_path) == interpreter


def test_chosen_interpreter(tmp_path):
    assert module.find_interpreter(sys.executable, tmp_path) == Path(sys.executable)
    with pytest.raises(RequestError, match="does not exist"):
        module.find_interpreter(str(tmp_path / "python"), tmp_path)


def test_base_python_fits_the_backend():
    assert module.probe(module.find_base_python()) in module.PYTHON_VERSIONS


@pytest.mark.parametrize("program", ["true", "/no/such/python"])
def test_probe_rejects_a_program_that_is_not_python(program):
    assert module.probe(program) is None


def test_a_full_disk_is_reported_before_any_download(tmp_path, monkeypatch):
    monkeypatch.setitem(module.SPACE_GB, "cpu", 10**9)
    with pytest.raises(RequestError, match="Free some space"):
        module.install(tmp_path, "cpu")


def test_set_up_creates_a_working_environment_from_the_bundled_backend(tmp_path, monkeypatch):
    """Everything except the download: pip only builds the metadata of the backend, without dependencies."""
    task_steps = {}
    monkeypatch.setattr(module, "Task", lambda steps, **kwargs: task_steps.update(steps=steps, **kwargs))
    module.install(tmp_path, "cpu", base_python=sys.executable)
    venv, install, doctor = task_steps["steps"]
    environment = module.own_environment(tmp_path)
    assert venv.command == [sys.executable, "-m", "venv", "--clear", str(environment)]
    source = Path(install.command[-1])
    assert (source / "pyproject.toml").is_file() and (source / "recdreamer/protocol.py").is_file()
    assert "https://download.pytorch.org/whl/cpu" in install.command
    assert doctor.command == [str(module.interpreter_of(environment)), "-m", "recdreamer", "doctor"]
    assert task_steps["clean_up"] == source.parent
    module.shutil.rmtree(source.parent)
