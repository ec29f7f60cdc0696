"""A process in the background: what it says arrives whole, whenever it is read, without a thread."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from recdreamer_extension.addon.jobs import child_process
from recdreamer_extension.addon.jobs.child_process import MAX_READ, ChildProcess
from recdreamer_extension.addon.jobs.client import newest_events

HERE = Path(__file__).parent


def start(code: str, **options) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", code], HERE, **options)


def read_all(process: ChildProcess) -> bytes:
    text = b""
    while not process.has_ended:
        text += process.read()
        time.sleep(0.005)
    return text


def num_open() -> int:
    """Open files of this process."""
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.fixture(params=["in memory", "on the disk"], autouse=True)
def listed(request, tmp_path, monkeypatch) -> Path:
    """Where the files for the output are made, on systems that have none in memory."""
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    if request.param == "on the disk":
        monkeypatch.delattr(child_process.os, "memfd_create", raising=False)
    return folder


def test_every_byte_arrives_in_whole_lines_and_no_thread_waits_for_it(listed):
    code = """
import sys, time
for index in range(400):
    sys.stdout.write(f"line {index} ")
    sys.stdout.flush()
    sys.stdout.write("end\\n" if index % 2 else "")
    time.sleep(0.0005)
sys.stdout.write("no end of line")
"""
    before = threading.active_count()
    process, parts = start(code), []
    while not process.has_ended:
        parts.append(process.read())
        assert process.has_ended or not parts[-1] or parts[-1].endswith(b"\n")
        time.sleep(0.002)
    assert threading.active_count() == before
    whole = "".join(f"line {index} " + "end\n" * (index % 2) for index in range(400)) + "no end of line"
    assert b"".join(parts).decode() == whole and len(parts) > 3
    assert process.code == 0 and process.read() == b"" and not [*listed.iterdir()]


def test_nobody_who_reads_late_holds_it_up():
    """A pipe takes 64 KiB, then its writer waits."""
    process = start("print('x' * 200_000); print('done')")
    assert process.wait(60) == 0
    assert read_all(process) == b"x" * 200_000 + b"\ndone\n"


def test_of_a_flood_every_byte_arrives_in_parts():
    """So that no look takes long, and what a process has said first is never lost."""
    process = start(
        f"print('first'); print(('x' * 99 + '\\n') * {3 * MAX_READ // 100}, end=''); print('last')"
    )
    process.wait()
    parts = []
    while not process.has_ended:
        parts.append(process.read())
    assert len(parts) >= 3 and max(map(len, parts)) <= MAX_READ + 100
    assert b"".join(parts) == b"first\n" + (b"x" * 99 + b"\n") * (3 * MAX_READ // 100) + b"last\n"
    process = start("print('a' * 10); print('b' * 10)")
    process.wait()
    assert [process.read(8), process.read(8), process.read(8)] == [b"", b"a" * 10 + b"\n", b"b" * 10 + b"\n"]


def test_of_a_line_without_an_end_the_newest_is_kept():
    process = start(f"print('x' * {3 * MAX_READ}); print('last')")
    process.wait()
    text = read_all(process)
    assert len(text) < 2 * MAX_READ and text.endswith(b"x\nlast\n")


def test_it_hears_what_is_said_and_tells_its_errors_apart(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        code = "import sys; print(input() * 2); print('oh', file=sys.stderr)"
        process = start(code, stderr=log)
    process.say(b"ab")
    assert read_all(process) == b"abab\n" and (tmp_path / "log").read_text() == "oh\n"
    process.say(b"too late")


def test_kill_ends_the_children_too():
    process = start(
        "import subprocess as s; p = s.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    )
    text = b""
    while not text:
        text = process.read()
    process.kill()
    assert process.code == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while Path(f"/proc/{int(text)}").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{int(text)}/stat").read_text():
            break  # Dead, and waited for by nobody in a container.
        time.sleep(0.01)
    assert time.monotonic() < deadline
    process.let_go()


def test_one_that_is_let_go_works_on_and_leaves_nothing(listed, tmp_path):
    """Neither a warning of the interpreter, nor an open file, nor a dead process that nobody waits for."""
    before = num_open()
    code = "import time; time.sleep(0.3); print('x'); open('done', 'w')"
    process = ChildProcess([sys.executable, "-c", code], tmp_path)
    process.let_go()
    assert process.read() == b"" and num_open() == before
    inner = process._process
    del process
    gc.collect()
    assert inner in child_process._let_go and inner.wait() == 0 and (tmp_path / "done").is_file()
    start("").let_go()
    assert inner not in child_process._let_go


def test_a_command_that_is_missing_leaves_no_file(listed):
    before = num_open()
    with pytest.raises(OSError, match="No such file"):
        ChildProcess(["/no/such/program"], HERE)
    assert not [*listed.iterdir()] and num_open() == before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", []),
        (b"Loading\n", []),
        (b'{"type": "new"}\n', []),
        (b'say {"type": "result"}\n', []),
        (b'{"type": "warning", "message": "\\"type\\": \\"result\\""}', [0]),
        (b'{"type": "progress"}\nx\n{"type": "stage"}\n{"type": "progress"}\n', [2, 3]),
        (b'{"type": "result"}\n{"type": "hello"}', [0, 1]),
    ],
)
def test_the_newest_line_of_each_type_counts_in_their_order(text, found):
    lines = text.split(b"\n")
    assert newest_events(text) == [lines[index] for index in found]


def test_where_no_file_in_memory_is_permitted_it_is_on_the_disk(listed, monkeypatch):
    def forbidden(name):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(child_process.os, "memfd_create", forbidden, raising=False)
    assert read_all(start("print('said')")) == b"said\n" and not [*listed.iterdir()]


def test_one_that_cannot_be_killed_holds_nobody_up(monkeypatch):
    """A process hangs in a driver; or it has ended and macOS does not permit to kill its group."""

    def forbidden(group, number):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    process = start("import time; time.sleep(600)")
    with monkeypatch.context() as patch:
        patch.setattr(child_process.os, "killpg", forbidden)
        patch.setattr(process, "_grace_s", 0.2)
        assert process.kill() is None and process.code is None
        before_s = time.monotonic()
        assert process.kill() is None and time.monotonic() - before_s < 0.15, "it waits once only"
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL and process.kill() == -signal.SIGKILL
    process.let_go()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has files in memory")
def test_on_a_full_disk_it_can_still_say_so(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    if not hasattr(os, "memfd_create"):
        with pytest.raises(OSError, match="No space left"):
            start("print('full')")
    else:
        assert read_all(start("print('full')")) == b"full\n"
