"""How the settings of two jobs differ. No bpy here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...backend.recdreamer.shared.protocol import JobRequest

NAMES = {"pose_mode": "views", "height_m": "height", "prior": "image model", "start_job": "from"}
"""What the panel calls a field that has another name."""
LEFT_OUT = ("protocol", "start_mesh", "keep_running", "overrides", "templates", "kind")


def differences(first: JobRequest, second: JobRequest) -> list[tuple[str, str, str]]:
    """The settings that differ: name, value of the first, value of the second.

    >>> differences(JobRequest("a red bear", seed=1), JobRequest("a blue bear", seed=1))
    [('prompt', 'a red bear', 'a blue bear')]
    """
    one, two = _settings(first), _settings(second)
    names = [*one, *(name for name in two if name not in one)]
    values = ((name, one.get(name, ""), two.get(name, "")) for name in names)
    return [(NAMES.get(name, name), a, b) for name, a, b in values if a != b]


def _settings(request: JobRequest) -> dict[str, str]:
    values: Mapping[str, Any] = asdict(request)
    found = {name: _as_text(value) for name, value in values.items() if name not in LEFT_OUT}
    found["templates"] = ", ".join(template.label for template in request.templates)
    return found | {name: _as_text(value) for name, value in request.overrides.items()}


def _as_text(value: object) -> str:
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
