"""Texts that users see are American, as docs/architecture.md says: the strings of both packages, docstrings apart."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BRITISH = re.compile(
    r"\b(colour|grey|centre|behaviour|neighbour|licence|favour|metre|catalogue|labell|analys[ei]|"
    r"(?:organ|normal|optim|recogn|regular|initial|visual|real)is(?:e|ing|ation))\w*",
    re.IGNORECASE,
)


def shown_strings(source: str) -> Iterator[str]:
    """The strings of a module that are neither docstrings nor the explanations below fields."""
    tree = ast.parse(source)
    bodies = [body for node in ast.walk(tree) if isinstance(body := getattr(node, "body", None), list)]
    alone = [statement.value for body in bodies for statement in body if isinstance(statement, ast.Expr)]
    explanations = {id(value) for value in alone if isinstance(value, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explanations:
            yield node.value


def british(source: str) -> list[str]:
    return [text for text in shown_strings(source) if BRITISH.search(text)]


def test_texts_for_users_are_american():
    files = [*(ROOT / "backend" / "recdreamer").rglob("*.py"), *(ROOT / "addon").rglob("*.py")]
    assert len(files) > 150
    found = {str(path.relative_to(ROOT)): british(path.read_text(encoding="utf-8")) for path in files}
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_a_british_text_is_seen_and_a_docstring_is_not():
    assert british('"""The colour."""\ndef f():\n    """A grey one."""\n    return "its colour"') == [
        "its colour"
    ]
    assert british('x = 1\n"""In metres."""\ny = f"{x} metres"') == [" metres"]
    assert british('raise ValueError("The color was cancelled by the organization, a real issue.")') == []
