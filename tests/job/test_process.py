"""What a worker says reaches its reader, whatever happens to what lies between them."""

from __future__ import annotations

import errno
import os

import pytest

from recdreamer.job import process as module
from recdreamer.job.process import EventPipe


@pytest.fixture
def pipe(tmp_path, monkeypatch):
    """An EventPipe to a file, and what stands there."""
    path = tmp_path / "said"
    monkeypatch.setattr(module.os, "dup", lambda number: os.open(path, os.O_WRONLY | os.O_CREAT))
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    events = EventPipe()
    yield events, path.read_bytes
    events.close()
    if events._handle is not None:
        os.close(events._handle)


def failing(monkeypatch, times: int, number: int):
    """Writes fail so many times, and then write three bytes at once."""
    left, write = [number] * times, os.write

    def attempt(handle: int, line: bytes) -> int:
        if left:
            raise OSError(left.pop(), "no")
        return write(handle, line[:3])

    monkeypatch.setattr(module.os, "write", attempt)


def test_on_a_full_disk_events_wait_for_room(pipe, monkeypatch):
    events, said = pipe
    failing(monkeypatch, 5, errno.ENOSPC)
    for line in ("hello", "progress"):
        events.send(line)
    events.close()
    assert said() == b"hello\nprogress\n"


def test_a_reader_that_is_gone_is_not_waited_for(pipe, monkeypatch):
    events, said = pipe
    failing(monkeypatch, 1, errno.EPIPE)
    for line in ("hello", "progress"):
        events.send(line)
    events.close()
    assert said() == b""
