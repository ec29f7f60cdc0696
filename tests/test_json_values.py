"""JSON that someone else wrote: bounded, or one sentence."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from recdreamer.shared import json_values
from recdreamer.shared.json_values import known_fields, parse_json, read_json
from recdreamer.shared.safe_files import FileMissing, RequestError


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 200_000, "nested too deeply"),
        ("[" * 40 + "]" * 40, "nested too deeply"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested too deeply"),
        ("1" * 41, "41 digits"),
        ("1" * 5000, "5000 digits"),
        ("-" + "9" * 400, "401 digits"),
        ("1e999", "1e999 is no finite number"),
        ("[NaN]", "NaN is no finite number"),
        ("-Infinity", "-Infinity is no finite number"),
        ('"\\ud800"', "no Unicode"),
        ('{"\\udfff": 1}', "no Unicode"),
        (b"\xff\xfe{}", "decode"),
        (b'"\xe9"', "decode"),
        ("", "Expecting value"),
        ("{", "Expecting property"),
    ],
)
def test_json_out_of_bounds_raises_one_value_error(text, told):
    with pytest.raises(ValueError, match=told) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


def test_what_is_within_bounds_is_read():
    assert parse_json('{"seed": 18446744073709551616, "x": [1e300, true, null, "jöb 🐻"]}') == {
        "seed": 2**64,
        "x": [1e300, True, None, "jöb 🐻"],
    }
    assert parse_json("[" * 32 + "]" * 32)


def test_a_file_is_read_or_refused(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileMissing):
        read_json(path)
    path.write_text("[1]")
    assert read_json(path) == [1]
    path.write_text("[1")
    with pytest.raises(RequestError, match=r"a\.json cannot be read"):
        read_json(path)
    path.write_text(" " * 100 + "1")
    with pytest.raises(RequestError, match="at most 100"):
        read_json(path, limit_bytes=100)


@dataclass
class Part:
    name: str


@dataclass
class Whole:
    count: int = 0
    share: float | None = None
    kind: Literal["a", "b"] = "a"
    parts: tuple[Part, ...] = ()
    words: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    place: tuple[float, float] = (0.0, 0.0)
    rows: list[list[float]] = field(default_factory=list)


def test_fields_are_converted_and_others_left_out():
    raw = {"count": 1, "share": 2, "parts": [{"name": "x", "new": 1}], "words": ["a"], "shares": {"a": 1},
           "place": [1, 2], "rows": [[1, 2]], "unknown": 7}  # fmt: skip
    assert Whole(**known_fields(Whole, raw)) == Whole(
        1, 2.0, "a", (Part("x"),), ["a"], {"a": 1.0}, (1.0, 2.0), [[1.0, 2.0]]
    )


def test_the_types_of_a_class_are_found_once(monkeypatch):
    """Of thousands of job folders, each with two records: they took three quarters of each tick."""
    asked = []
    find = json_values.get_type_hints
    monkeypatch.setattr(json_values, "get_type_hints", lambda cls: asked.append(cls) or find(cls))

    @dataclass
    class Record:
        name: str = ""

    for name in "abc":
        assert known_fields(Record, {"name": name}) == {"name": name}
    assert asked == [Record]


@pytest.mark.parametrize(
    "raw",
    [[], {"count": "1"}, {"count": True}, {"count": 1.5}, {"share": "x"}, {"kind": "c"}, {"kind": 4}, {"kind": []},
     {"parts": [1]}, {"parts": [{}]}, {"parts": {}}, {"words": [1]}, {"shares": {"a": "b"}}, {"place": [1]},
     {"place": ["a", "b"]}, {"rows": [1]}],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(raw):
    with pytest.raises((TypeError, RequestError)):
        Whole(**known_fields(Whole, raw))
