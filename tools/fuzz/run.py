"""Damages files and reads them: counts what escapes as anything but one sentence.

    python tools/fuzz/run.py                        10,000 damaged files for each reader
    python tools/fuzz/run.py --count 500 --readers "job.json" "mesh .glb"
    python tools/fuzz/run.py --workers 40           whole workers on hostile job folders, too

An escape is any other exception, a sentence of more than 500 letters or of several lines, more than TIME_S or WAIT_S for
one file, or more than MEMORY_MIB. Prints a row for each reader, and the seed of each escape: `--reader NAME --seed N`.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from recdreamer.shared.protocol import JobFolder

import hostile_folders
from readers import TOLD, Reader, all_readers

TIME_S, WAIT_S = 5.0, 60.0
"""Longest time of the processor, and of a clock: other processes may have the processor, too."""
MEMORY_MIB = 1024
MAX_LETTERS = 500


@dataclass
class Found:
    """What became of the damaged files of one reader."""

    read: int = 0
    told: int = 0
    escapes: list[str] = field(default_factory=list)
    """One line each: the seed, and what escaped."""


def damaged(reader: Reader, seed: int) -> bytes:
    """The content of a damaged file, the same for the same seed."""
    rng = random.Random(f"{reader.name} {seed}")
    return rng.choice(reader.damage)(rng.choice(reader.whole), rng)


def try_reader(reader: Reader, seeds: Sequence[int], root: Path) -> Found:
    """Read one damaged file for each seed, each in a job folder of its own."""
    found = Found()
    for seed in seeds:
        job = JobFolder(root / "job")
        path = job.root / reader.file
        path.parent.mkdir(parents=True)
        path.write_bytes(damaged(reader, seed))
        started, worked_before_s = time.monotonic(), time.process_time()
        before = {entry.name for entry in root.iterdir()}
        try:
            with redirect_stdout(io.StringIO()):
                reader.read(job, path)
            found.read += 1
        except TOLD as error:
            found.told += 1
            if problem := wrong_with(f"{error.message} {error.hint}"):  # pyright: ignore[reportAttributeAccessIssue]
                found.escapes.append(f"seed {seed}: {problem}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            place = traceback.extract_tb(error.__traceback__)[-1]
            found.escapes.append(
                f"seed {seed}: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            )
        worked_s, took_s = time.process_time() - worked_before_s, time.monotonic() - started
        if worked_s > TIME_S or took_s > WAIT_S:
            found.escapes.append(f"seed {seed}: worked for {worked_s:.0f} s, took {took_s:.0f} s")
        if {entry.name for entry in root.iterdir()} != before:
            found.escapes.append(f"seed {seed}: wrote outside of the job")
        shutil.rmtree(job.root)
    return found


def wrong_with(told: str) -> str:
    """What keeps a text from being one sentence with its remedy; empty if nothing."""
    if "\n" in told or not told.isprintable():
        return f"not one line: {told[:80]!r}"
    return f"{len(told)} letters" if len(told) > MAX_LETTERS else ""


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let what asks for too much fail, instead of this computer. Child processes started after it have no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123
        mapped = int(stream.read().split()[0]) * resource.getpagesize() // 2**20
    limit = (mapped + MEMORY_MIB) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def table_of(rows: dict[str, Found]) -> Iterator[str]:
    yield "| reader | files | read | refused in one sentence | escaped |"
    yield "|---|---|---|---|---|"
    for name, found in rows.items():
        files = found.read + found.told + sum(" at " in line for line in found.escapes)
        yield f"| {name} | {files} | {found.read} | {found.told} | {len(found.escapes)} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--readers", nargs="*", help="by default all of them")
    parser.add_argument("--seed", type=int, help="only this one, with its traceback")
    parser.add_argument("--workers", type=int, default=0, help="number of hostile folders to run")
    options = parser.parse_args()
    readers = [reader for reader in all_readers() if not options.readers or reader.name in options.readers]
    rows: dict[str, Found] = {}
    with tempfile.TemporaryDirectory(prefix="recdreamer-fuzz-") as name:
        if options.seed is not None:
            path = Path(name) / "job" / readers[0].file
            path.parent.mkdir(parents=True)
            path.write_bytes(damaged(readers[0], options.seed))
            print(path.read_bytes()[:2000])
            print(readers[0].read(JobFolder(Path(name) / "job"), path))
            return 0
        for reader in readers:
            seeds = range(min(20, options.count))
            try_reader(reader, seeds, Path(name))  # Imports everything before memory is limited.
        with limited_memory():
            for reader in readers:
                started = time.monotonic()
                rows[reader.name] = try_reader(reader, range(options.count), Path(name))
                print(f"{reader.name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if options.workers:
        rows["whole workers"] = Found(*hostile_folders.run_all(options.workers, wrong_with))
    print("\n".join(table_of(rows)))
    for name, found in rows.items():
        kinds = Counter(line.split(": ", 1)[1] for line in found.escapes)
        for kind, count in kinds.most_common(20):
            example = next(line for line in found.escapes if line.endswith(kind))
            print(f"{name}: {count} × {example}")
    return int(any(found.escapes for found in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
