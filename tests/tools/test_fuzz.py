"""A small part of the fuzzing (tools/fuzz/run.py): every reader, the same damage each time."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from recdreamer.shared.protocol import RequestError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "fuzz"))
try:
    import run as fuzz

    import readers
finally:
    sys.path.remove(str(ROOT / "tools" / "fuzz"))

LATE = {"trace.json"}
"""Readers that import as much as all others together: they are damaged by command only."""
READERS = [reader for reader in readers.all_readers() if reader.name not in LATE]
COUNT = 30


@pytest.mark.filterwarnings("ignore")  # As in a worker.
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_no_damaged_file_escapes_its_reader(reader, tmp_path):
    fuzz.try_reader(reader, [COUNT], tmp_path)  # The first one imports what it needs, which takes time.
    found = fuzz.try_reader(reader, range(COUNT), tmp_path)
    assert found.escapes == [] and found.read + found.told == COUNT


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_whole_file_is_read(reader, tmp_path):
    """Else the damage would never get beyond the first check."""
    readable = {"picture": 4, "add-on: picture": 3}.get(
        reader.name, len(reader.whole)
    )  # The rest is refused.
    for index, whole in enumerate(reader.whole[:readable]):
        path = tmp_path / str(index) / reader.file
        path.parent.mkdir(parents=True)
        path.write_bytes(whole)
        if reader.name == "model: single file":  # A whole one has gigabytes.
            continue
        if (reader.name, index) != ("start mesh", 1):  # Its UVs are random, and told to be.
            reader.read(readers.JobFolder(tmp_path / str(index)), path)


def test_every_reader_has_a_name_of_its_own():
    names = [reader.name for reader in readers.all_readers()]
    assert len(set(names)) == len(names) and set(names) >= LATE


def test_memory_is_limited_for_readers_and_not_for_the_workers_after_them():
    """A limit that the workers inherit keeps them from loading their libraries: they fail, whatever the folder has."""
    script = (
        "import sys, resource; sys.path.insert(0, sys.argv[1]); import run\n"
        "before = resource.getrlimit(resource.RLIMIT_AS)\n"
        "with run.limited_memory():\n"
        "    assert resource.getrlimit(resource.RLIMIT_AS)[0] > 0 != before\n"
        "    try: bytearray(2 * run.MEMORY_MIB * 2**20); raise SystemExit('there is no limit')\n"
        "    except MemoryError: pass\n"
        "assert resource.getrlimit(resource.RLIMIT_AS) == before\n"
    )
    # A process counts the largest size of whoever started it as its own, and this one has been large.
    assert len(b"x" * (3 * fuzz.MEMORY_MIB * 2**20)) > 0
    subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "tools" / "fuzz")], check=True, cwd=ROOT / "backend"
    )


@pytest.mark.parametrize("kind", ["exception", "long", "lines", "outside"])
def test_an_escape_is_seen(kind, tmp_path):
    def read(job: readers.JobFolder, path: Path) -> None:
        match kind:
            case "exception":
                raise KeyError("x")
            case "long":
                raise RequestError("x" * 600, "y")
            case "lines":
                raise RequestError("x\ny", "z")
            case "outside":
                (job.root.parent / "elsewhere").touch()

    found = fuzz.try_reader(
        readers.Reader("toy", "a", (b"abc",), (lambda data, rng: data,), read), [1], tmp_path
    )
    assert len(found.escapes) == 1


@pytest.mark.parametrize(("name", "does"), [("TIME_S", "work"), ("WAIT_S", "wait")])
def test_a_reader_that_works_or_waits_too_long_is_seen(name, does, monkeypatch, tmp_path):
    def read(job: readers.JobFolder, path: Path) -> None:
        if does == "wait":
            time.sleep(0.3)
        end = time.process_time() + 0.3
        while does == "work" and time.process_time() < end:
            pass

    monkeypatch.setattr(fuzz, name, 0.1)
    reader = readers.Reader("toy", "a", (b"abc",), (lambda data, rng: data,), read)
    (escape,) = fuzz.try_reader(reader, [1], tmp_path).escapes
    assert "took" in escape
    monkeypatch.setattr(fuzz, name, 60.0)
    assert not fuzz.try_reader(reader, [1], tmp_path).escapes
