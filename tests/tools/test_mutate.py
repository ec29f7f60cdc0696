"""The mutation run: its list is up to date, and it can tell a fault that is noticed from one that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "measure"
sys.path.insert(0, str(TOOLS))
try:
    import mutate
finally:
    sys.path.remove(str(TOOLS))

MUTATIONS, TESTS = mutate.read_mutations()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_fault_can_be_made(mutation: mutate.Mutation) -> None:
    """Its text stands once in its file, and what takes its place is Python."""
    source = (ROOT / "backend" / "recdreamer" / mutation.file).read_text(encoding="utf-8")
    changed = mutation.applied(source)
    assert changed != source
    compile(changed, mutation.file, "exec")


def test_each_fault_has_a_name_and_tests_that_exist() -> None:
    assert len(MUTATIONS) >= 60
    assert [name for name, count in Counter(m.name for m in MUTATIONS).items() if count > 1] == []
    for name in {test for m in MUTATIONS for test in mutate.tests_of(m.file, TESTS)}:
        path, _, function = name.partition("::")
        assert (ROOT / path).exists(), name
        if function:
            assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), name
    for key in TESTS:
        assert any(m.file == key or m.file.startswith(f"{key}/") for m in MUTATIONS), f"{key} has no fault"


def test_a_text_that_stands_twice_or_not_at_all_is_refused() -> None:
    for source in ("a = 1\n", "b = 2; b = 2\n"):
        with pytest.raises(ValueError, match="its text stands"):
            mutate.Mutation("twice", "x.py", "b = 2", "b = 3").applied(source)


TOY = {
    "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["backend"]\naddopts = ["--import-mode=importlib"]\n',
    "backend/recdreamer/__init__.py": "",
    "backend/recdreamer/area.py": "def area(width, height):\n    return width * height\n",
    "tests/conftest.py": "",
    "tests/test_area.py": "from recdreamer.area import area\n\n\ndef test_area():\n    assert area(2, 3) == 6\n",
}
RUN = """
import pathlib, sys
sys.path.insert(0, {tools!r})
import mutate
table = [("added", "width * height", "width + height", ""), ("turned", "width * height", "height * width", ""),
         ("turned back", "width * height", "(width * height)", "A product in brackets is the same."),
         ("no Python", "return width", "return return width", "")]
mutations = [mutate.Mutation(name, "area.py", old, new, why) for name, old, new, why in table]
tests = {{"area.py": ["tests/test_area.py"]}}
results, root = pathlib.Path({results!r}), pathlib.Path({root!r})
print(mutate.run_all(mutations, tests, results, root), "left")
"""


def test_faults_are_caught_or_survive_and_are_not_made_twice(tmp_path: Path) -> None:
    root, results = tmp_path / "toy", tmp_path / "results.json"
    for name, text in TOY.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    script = RUN.format(tools=str(TOOLS), results=str(results), root=str(root))

    def run() -> tuple[str, dict[str, dict]]:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout, json.loads(results.read_text(encoding="utf-8"))

    said, found = run()
    verdicts = {name: outcome["verdict"] for name, outcome in found.items()}
    assert verdicts == {
        "added": "caught",
        "turned": "survived",
        "turned back": "survived",
        "no Python": "broken",
    }
    assert found["added"]["by"] == "tests/test_area.py::test_area"
    assert "1 of 3 are noticed (1 caught, 1 survived, 1 equivalent, 1 broken).\n2 left" in said
    assert "A product in brackets is the same." in said
    assert (root / "backend/recdreamer/area.py").read_text(encoding="utf-8") == TOY[
        "backend/recdreamer/area.py"
    ]
    # Known outcomes stay until the tests change; what was broken is tried again.
    (_, again) = run()
    assert {n: o["seconds"] for n, o in again.items() if n != "no Python"} == {
        n: o["seconds"] for n, o in found.items() if n != "no Python"
    }
    with (root / "tests/test_area.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef test_order():\n    assert area('ab', 2) == 'abab'\n")
    assert run()[1]["turned"]["digest"] != found["turned"]["digest"]
