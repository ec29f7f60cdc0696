"""The examples in the docstrings of the package give what they say."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import recdreamer

PACKAGE = Path(recdreamer.__file__).parent
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "builtin" not in path.relative_to(PACKAGE).parts)
ROOMS = ("cameras", "prior", "pose", "distillation", "field", "sdf", "rendering", "mesh")
"""Where the formulas are."""
PROMPT = ">>> "


def examples_of(source: str, name: str) -> Iterator[doctest.DocTest]:
    """Docstrings with examples, read from the source: under the type checks a function is not what its module defined."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            place = getattr(node, "name", "")
            found = doctest.DocTestParser().get_doctest(text, {}, f"{name}.{place}", None, None)
            if found.examples:
                yield found


def failure_of(example: doctest.DocTest, names: dict[str, Any]) -> str:
    """What the examples of a docstring printed instead; empty if nothing."""
    example.globs = dict(names)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    return "".join(said)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


EXAMPLES = [
    pytest.param(example, module_name(path), id=example.name.removeprefix("recdreamer."))
    for path in SOURCES
    for example in examples_of(path.read_text(encoding="utf-8"), module_name(path))
]


@pytest.mark.parametrize(("example", "module"), EXAMPLES)
def test_an_example_gives_what_it_says(example, module):
    failure = failure_of(example, vars(importlib.import_module(module)))
    assert not failure, failure


def test_a_wrong_example_fails():
    source = 'def doubled(x):\n    """\n    >>> doubled(2)\n    5\n    """\n    return 2 * x\n'
    names: dict[str, Any] = {}
    exec(source, names)
    (wrong,) = examples_of(source, "toy")
    assert "Expected:\n    5\nGot:\n    4\n" in failure_of(wrong, names)
    (right,) = examples_of(source.replace("5", "4"), "toy")
    assert failure_of(right, names) == ""


def test_no_example_is_left_out():
    """Every prompt stands in a docstring that is run; one under a field would not."""
    written = sum(path.read_text(encoding="utf-8").count(PROMPT) for path in SOURCES)
    assert sum(len(example.values[0].examples) for example in EXAMPLES) == written


def test_the_rooms_of_formulas_have_examples():
    with_examples = {example.values[1].split(".", 1)[1] for example in EXAMPLES}
    assert {module.split(".")[0] for module in with_examples} >= {*ROOMS}
    assert sum(module.split(".")[0] in ROOMS for module in with_examples) >= 35
