"""Mutation run: which of the faults in mutations.toml do the tests notice?

    python tools/measure/mutate.py                 # all of them; a second call resumes an interrupted one
    python tools/measure/mutate.py --match camera  # those whose name or file contains a word

Each fault is made alone in a copy of the checkout, and the tests of its file run until the first one fails. Prints one
line for each fault and the score; exits with 1 if a fault survives that is not marked as equivalent. Needs a system
that can fork, and the backend's environment: its large libraries are imported once and not for each fault.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTATIONS_FILE = Path(__file__).with_name("mutations.toml")
PRELOADED = ("pytest", "trimesh", "recdreamer.generate", "recdreamer.evaluation.oracle")
"""Imported once, with all libraries that they need; the package itself is forgotten again."""
LIMIT_S = 900.0
"""Time after which the tests of a fault are stopped; a fault that makes them hang is noticed."""
LINKED_NOT = {".git", ".venv", "backend", "tests", "out", "dist", ".cache", ".pytest_cache", ".ruff_cache"}
ELSEWHERE = 99
"""Exit code of tests that have run another copy of the package."""


@dataclass(frozen=True)
class Mutation:
    """`old` stands exactly once in `file` of the package and is replaced by `new`."""

    name: str
    file: str
    old: str
    new: str
    equivalent: str = ""
    """Why no test can notice it."""

    def applied(self, source: str) -> str:
        """Raises ValueError where the list is out of date."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name!r}: its text stands {source.count(self.old)} times in {self.file}.")
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Outcome:
    """What the tests said: `caught` by a test, `survived`, or `broken` if they could not run."""

    verdict: str
    by: str = ""
    seconds: float = 0.0
    digest: str = ""


def read_mutations(path: Path = MUTATIONS_FILE) -> tuple[list[Mutation], dict[str, list[str]]]:
    """The mutations, and the tests by file or folder of the package."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return [Mutation(**entry) for entry in table["mutation"]], table["tests"]


def tests_of(file: str, tests: dict[str, list[str]]) -> list[str]:
    """The tests of a file, else those of its folder. Raises ValueError if it has none."""
    found = tests.get(file) or tests.get(file.split("/")[0])
    if not found:
        raise ValueError(f"No tests are named for {file}.")
    return found


def make_checkout(folder: Path, root: Path = ROOT) -> Path:
    """A copy of the package and of the tests, with links to everything else."""
    skipped = shutil.ignore_patterns("__pycache__", "builtin")
    shutil.copytree(root / "backend" / "recdreamer", folder / "backend" / "recdreamer", ignore=skipped)
    shutil.copytree(root / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    weights = root / "backend" / "recdreamer" / "builtin"
    links = {folder / entry.name: entry for entry in root.iterdir() if entry.name not in LINKED_NOT}
    if weights.exists():
        links[folder / "backend" / "recdreamer" / "builtin"] = weights
    for link, target in links.items():
        link.symlink_to(target, target_is_directory=target.is_dir())
    return folder


def digest_of(checkout: Path, mutation: Mutation, tests: list[str]) -> str:
    """Changes with the package, the mutation and its tests."""
    files = [*sorted((checkout / "backend" / "recdreamer").rglob("*.py")), checkout / "tests" / "conftest.py"]
    for name in tests:
        path = checkout / name.split("::")[0]
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = hashlib.sha256(json.dumps([asdict(replace(mutation, name="", equivalent="")), tests]).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run_mutation(checkout: Path, mutation: Mutation, tests: list[str]) -> Outcome:
    """Make the fault, run the tests, and put the file back."""
    path = checkout / "backend" / "recdreamer" / mutation.file
    source, started = path.read_text(encoding="utf-8"), time.monotonic()
    path.write_text(mutation.applied(source), encoding="utf-8")
    try:
        code, said = run_tests(checkout, tests)
    finally:
        path.write_text(source, encoding="utf-8")
    seconds = time.monotonic() - started
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    if code == 1 and failed:
        return Outcome("caught", failed[1], seconds)
    if code is None:
        return Outcome("caught", f"they take more than {LIMIT_S:.0f} s", seconds)
    return Outcome("survived", "", seconds) if code == 0 else Outcome("broken", said[-1500:], seconds)


def run_tests(checkout: Path, tests: list[str]) -> tuple[int | None, str]:
    """Exit code of pytest (None: stopped after LIMIT_S), and what it said."""
    output = checkout / "output.txt"
    process = multiprocessing.get_context("fork").Process(target=_pytest, args=(checkout, tests, output))
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return None, ""
    return process.exitcode, output.read_text(encoding="utf-8", errors="replace")


def _pytest(checkout: Path, tests: list[str], output: Path) -> None:
    """In a process of its own."""
    import pytest

    with output.open("w", encoding="utf-8") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    os.chdir(checkout)
    # Two faults of the same length in the same second would share their compiled file.
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(checkout / "backend"))
    # Plugins of pytest come with the libraries, and are imported before pytest could rewrite them.
    options = ["-W", "ignore:Module already imported", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
    code = int(pytest.main([*options, "--rootdir=.", *tests]))
    package = sys.modules.get("recdreamer")
    if package is not None and not Path(str(package.__file__)).is_relative_to(checkout):
        code = ELSEWHERE
    sys.stdout.flush()
    os._exit(code)


def run_all(mutations: list[Mutation], tests: dict[str, list[str]], results: Path, root: Path = ROOT) -> int:
    """Run those whose outcome is not known yet; returns the number of faults that survive."""
    known: dict[str, Outcome] = {}
    if results.exists():
        known = {name: Outcome(**o) for name, o in json.loads(results.read_text(encoding="utf-8")).items()}
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        checkout = make_checkout(Path(folder).resolve(), root)
        for mutation in mutations:
            own = tests_of(mutation.file, tests)
            digest = digest_of(checkout, mutation, own)
            outcome = known.get(mutation.name)
            if outcome is None or outcome.digest != digest or outcome.verdict == "broken":
                outcome = replace(run_mutation(checkout, mutation, own), digest=digest)
                known[mutation.name] = outcome
                results.parent.mkdir(parents=True, exist_ok=True)
                results.write_text(json.dumps({n: asdict(o) for n, o in known.items()}, indent=1), "utf-8")
            verdict = outcome.verdict
            if verdict == "survived" and mutation.equivalent:
                verdict = "equivalent"
            counts[verdict] += 1
            note = mutation.equivalent if verdict == "equivalent" else outcome.by
            print(
                f"{verdict:10} {outcome.seconds:4.0f} s  {mutation.file}: {mutation.name}  {note}", flush=True
            )
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    print(f"{counts['caught']} of {len(mutations) - counts['equivalent']} are noticed ({told}).")
    return counts["survived"] + counts["broken"]


def preload() -> None:
    """Import the libraries of the package, which every test would import again."""
    sys.path.insert(0, str(ROOT / "backend"))
    for name in PRELOADED:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "recdreamer"]:
        del sys.modules[name]
    sys.path.remove(str(ROOT / "backend"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--match", default="", help="run only faults whose name or file contains this text")
    parser.add_argument("--results", type=Path, default=ROOT / "out" / "mutations.json")
    options = parser.parse_args()
    mutations, tests = read_mutations()
    wanted = [m for m in mutations if options.match.lower() in f"{m.file} {m.name}".lower()]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    preload()
    return int(run_all(wanted, tests, options.results) > 0)


if __name__ == "__main__":
    sys.exit(main())
