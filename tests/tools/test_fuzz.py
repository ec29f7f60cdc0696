"""A small part of the fuzzing (tools/fuzz/run.py): every reader, the same damage each time."""

import sys
from pathlib import Path

import pytest

from recdreamer.protocol import RequestError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "fuzz"))
try:
    import run as fuzz

    import readers
finally:
    sys.path.remove(str(ROOT / "tools" / "fuzz"))

READERS = list(readers.all_readers())


@pytest.mark.filterwarnings("ignore")  # As in a worker.
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_no_damaged_file_escapes_its_reader(reader, tmp_path):
    fuzz.try_reader(reader, range(60, 63), tmp_path)  # The first one imports what it needs, which takes time.
    found = fuzz.try_reader(reader, range(60), tmp_path)
    assert found.escapes == [] and found.read + found.told == 60


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_whole_file_is_read(reader, tmp_path):
    """Else the damage would never get beyond the first check."""
    for index, whole in enumerate(reader.whole if reader.name != "picture" else reader.whole[:4]):
        path = tmp_path / str(index) / reader.file
        path.parent.mkdir(parents=True)
        path.write_bytes(whole)
        if (reader.name, index) != ("start mesh", 1):  # Its UVs are random, and told to be.
            reader.read(readers.JobFolder(tmp_path / str(index)), path)


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
