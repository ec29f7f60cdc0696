"""Settings on the command line: parsed as JSON or text; every field of the configuration can be set and is read."""

import ast
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import recdreamer
from recdreamer.cli.settings import parse_setting
from recdreamer.config import as_json
from recdreamer.presets import resolve
from recdreamer.shared.protocol import JobRequest, RequestError

BACKEND = sorted(Path(recdreamer.__file__).parent.rglob("*.py"))


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested settings, as they are after a round trip through JSON."""
    for name, value in json.loads(json.dumps(values)).items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def other_than(value: Any) -> Any:
    """A value of the same type and in the same range; None if it is not a number or numbers."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.25
    is_numbers = isinstance(value, list) and value and isinstance(value[0], float)
    return [item / 2 for item in value] if is_numbers else None


def test_a_value_is_json_or_else_text():
    assert parse_setting("optimize.num_steps=300") == ("optimize.num_steps", 300)
    assert parse_setting("optimize.ground=[0.5, 0.6]") == ("optimize.ground", [0.5, 0.6])
    assert parse_setting("extractor=a folder=b") == ("extractor", "a folder=b")
    with pytest.raises(RequestError, match="'optimize' is not a setting"):
        parse_setting("optimize")


def test_every_setting_can_be_set_to_the_value_that_config_json_has():
    config = resolve(JobRequest("a red bear"))
    settings = dict(leaves(as_json(config)))
    assert len(settings) > 100
    assert resolve(JobRequest("a red bear", overrides=settings)) == config


def test_every_number_that_is_set_arrives():
    """One at a time, so that a failure names the setting."""
    before = dict(leaves(as_json(resolve(JobRequest("a red bear")))))
    set_to = {name: value for name in before if (value := other_than(before[name])) is not None}
    assert len(set_to) > 80
    for name, value in set_to.items():
        after = dict(leaves(as_json(resolve(JobRequest("a red bear", overrides={name: value})))))
        assert after == before | {name: value}, name


def settings_in(paths: Iterable[Path]) -> set[str]:
    """Fields of all dataclasses whose names end in Config, and of the request."""
    return {
        item.target.id
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and (node.name.endswith("Config") or node.name == "JobRequest")
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def attributes_read_in(paths: Iterable[Path]) -> set[str]:
    return {
        node.attr
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_setting_is_read(tmp_path):
    """A setting that no code reads would be a promise without effect."""
    assert len(settings_in(BACKEND)) > 100
    # ViewConfig reads its phrases by name, in prior/prompts.py; DrawConfig has the other four names as well.
    by_name = {"overhead"}
    assert settings_in(BACKEND) - attributes_read_in(BACKEND) == by_name
    # Negative control: replacing a field is not reading it.
    source = tmp_path / "source.py"
    source.write_text(
        "class ToyConfig:\n    used: int\n    unused: int\nprint(toy.used)\nreplace(toy, unused=1)\n"
    )
    assert settings_in([source]) - attributes_read_in([source]) == {"unused"}
