"""Every error names a kind that the add-on knows: the vocabulary of the protocol, and no word beside it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import recdreamer
from recdreamer.catalog.entries import Kind
from recdreamer.job.errors import explain
from recdreamer.shared.protocol import ErrorKind, JobRequest, RequestError

KINDS = set(get_args(ErrorKind))
SOURCES = sorted(Path(recdreamer.__file__).parent.rglob("*.py"))
ADDON_ONLY = {"start", "mode", "running", "not_installed", "outdated"}
"""What can only happen inside of Blender."""


def kinds_in(tree: ast.AST) -> set[str]:
    """The first argument of JobError and of `loading`, and the third of RequestError, where they are constants."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            place = {"JobError": 0, "loading": 0, "RequestError": 2}.get(node.func.id)
            if place is not None and len(node.args) > place:
                argument = node.args[place]
                found |= {argument.value} if isinstance(argument, ast.Constant) else set()
    return found


def test_the_backend_uses_the_vocabulary_and_all_of_it() -> None:
    used = set().union(*(kinds_in(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES))
    used |= set(get_args(Kind))  # Of `located`.
    assert used - KINDS == set()
    assert KINDS - used - ADDON_ONLY - {"request"} == set()


def test_a_word_of_its_own_is_seen() -> None:
    assert kinds_in(ast.parse("raise JobError('odd', 'It is.', 'Go.')")) == {"odd"}
    assert kinds_in(ast.parse("raise RequestError('It is.', 'Go.', 'odd')")) == {"odd"}


def test_the_kind_of_a_request_error_reaches_its_event() -> None:
    for request, kind in ((JobRequest(" "), "prompt"), (JobRequest("a bear", seed=-1), "request")):
        try:
            request.validate()
        except RequestError as error:
            assert explain(error).kind == kind
