"""What Blender has started for the artist ends with it, however Blender ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recdreamer_extension.addon.jobs.environment import RUN_MODULE

from recdreamer.shared.parent_process import ENDS_WITH_PARENT

ROOT = Path(__file__).resolve().parents[2]
WITH_A_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
PARENT = f"""
import conftest, time
from pathlib import Path
from recdreamer_extension.addon.jobs.child_process import ChildProcess
process = ChildProcess({[sys.executable, "-c"]!r} + [{{code!r}}], Path({str(ROOT / "backend")!r}))
print(process.pid, flush=True)
line = b""
while not line:
    line = process.read()
print(int(line), flush=True)
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    """In a container nobody may wait for a dead one."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def killed_parent_of(code: str) -> list[int]:
    """The child and its own child, after their parent was killed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PARENT.format(code=code)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parent, env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(is_alive, pids))
        parent.kill()
    return pids


def test_a_child_and_its_own_end_with_a_parent_that_was_killed(wait_until):
    ours = "from recdreamer.shared.parent_process import end_with_parent; end_with_parent()\n"
    pids = killed_parent_of(ours + WITH_A_CHILD)
    wait_until(lambda: not any(map(is_alive, pids)))


def test_a_child_that_does_not_ask_for_it_goes_on():
    pids = killed_parent_of(WITH_A_CHILD)
    time.sleep(0.5)
    assert all(map(is_alive, pids))
    os.killpg(pids[0], signal.SIGKILL)


@pytest.fixture
def commands(tmp_path) -> dict[str, list[str]]:
    """Ways into our code, to something that takes long."""
    (tmp_path / "backend").symlink_to(ROOT / "backend")
    (tmp_path / "long.py").write_text(
        f"import os, time\ndef main():\n    print('on', os.environ.get({ENDS_WITH_PARENT!r}), flush=True)\n"
        "    time.sleep(600)\n"
    )
    patched = (
        f"import long, recdreamer.cli.main as m; m._run = lambda command: long.main(); m.main({['doctor']!r})"
    )
    return {
        "add-on": [sys.executable, "-c", RUN_MODULE, str(tmp_path), "long"],
        "command line": [
            sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {patched}",
        ],
    }  # fmt: skip


@pytest.mark.parametrize("asks", [True, False], ids=["asked", "as in a shell"])
@pytest.mark.parametrize("name", ["add-on", "command line"])
def test_the_commands_do_it_when_they_are_asked_to(commands, name, asks):
    environment = (
        os.environ | {"PYTHONPATH": str(ROOT / "backend")} | ({ENDS_WITH_PARENT: "1"} if asks else {})
    )
    with subprocess.Popen(
        commands[name], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"on None\n", "whom it starts itself has another parent"
        process.stdin.close()
        if asks:
            assert process.wait(60) == -signal.SIGKILL
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.kill()
