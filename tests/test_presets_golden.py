"""What each kind of request resolves to, value by value, beside files that show a changed default as a difference.

After an intended change: `python tests/test_presets_golden.py` writes the files, and their difference is the review.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from recdreamer.presets import resolve
from recdreamer.shared.protocol import BUILTIN_PRIOR, JobRequest, Method, PoseMode, Quality

FOLDER = Path(__file__).parent / "presets_golden"
PRIORS = {"embedded": BUILTIN_PRIOR, "stable_diffusion": "some/model"}


def settings(
    prior: str, method: Method = "usd", quality: Quality = "standard", pose_mode: PoseMode = "camera"
) -> dict[str, Any]:
    """Dotted name -> value, as JSON has it."""
    request = JobRequest(
        "a red bear", prior=PRIORS[prior], method=method, quality=quality, pose_mode=pose_mode
    )
    return dict(_flat(json.loads(json.dumps(dataclasses.asdict(resolve(request))))))


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items = []
    for name, value in values.items():
        is_section = isinstance(value, dict) and value
        items += _flat(value, f"{prefix}{name}.") if is_section else [(prefix + name, value)]
    return items


def differences() -> dict[str, dict[str, Any]]:
    """`prior/method/quality/pose mode` -> what differs from that prior's standard USD with known cameras."""
    found = {}
    for prior in PRIORS:
        base = settings(prior)
        for kind in itertools.product(get_args(Method), get_args(Quality), get_args(PoseMode)):
            own = settings(prior, *kind)
            assert own.keys() == base.keys()
            found["/".join((prior, *kind))] = {k: v for k, v in own.items() if v != base[k]}
    return found


def _text(values: dict[str, Any]) -> str:
    """A line for each entry."""
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


@functools.cache
def _contents() -> dict[str, dict[str, Any]]:
    return {f"{prior}.json": settings(prior) for prior in PRIORS} | {"differences.json": differences()}


@pytest.mark.parametrize("name", ["embedded.json", "stable_diffusion.json", "differences.json"])
def test_every_request_resolves_to_what_the_golden_files_say(name: str) -> None:
    expected = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    found = json.loads(json.dumps(_contents()[name]))
    assert found == expected


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, values in _contents().items():
        (FOLDER / name).write_text(_text(values), encoding="utf-8")
