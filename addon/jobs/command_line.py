"""A job as a command: of a shell, or of Blender's Python console. No bpy here."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from typing import Any

from ...backend.recdreamer.shared.protocol import JobRequest

OPTIONS = (
    "method",
    "pose_mode",
    "quality",
    "seed",
    "prior",
    "device",
    "start",
    "start_job",
    "strength",
    "height_m",
)
"""Fields of a request that are options of `recdreamer generate`."""
PYTHON = (*(name for name in OPTIONS if name not in ("start", "start_job")), "stages")


def shell_command(request: JobRequest, folder: str, out: str) -> str:
    """`recdreamer generate …` with the settings that are not the defaults.

    >>> shell_command(JobRequest("a red bear", seed=3), "/jobs/bear", "again")
    "recdreamer generate --prompt 'a red bear' --out again --seed 3"
    """
    words = ["recdreamer", "generate", "--prompt", request.prompt, "--out", out]
    for name, value in _changed(request, OPTIONS).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    if request.stages != JobRequest("a").stages:
        words += ["--stages", *request.stages]
    if request.start in ("object", "texture"):
        words += ["--start-mesh", f"{folder}/{request.start_mesh}"]
    if request.overrides:
        words += ["--set", *(f"{name}={json.dumps(value)}" for name, value in request.overrides.items())]
    return shlex.join(words)


def python_command(request: JobRequest, package: str) -> str:
    """A call of scripting.generate for Blender's Python console, with the settings that are not the defaults.

    >>> python_command(JobRequest("a red bear", seed=3), "bl_ext.user_default.recdreamer.addon")
    "from bl_ext.user_default.recdreamer.addon import scripting; scripting.generate('a red bear', seed=3)"
    """
    arguments = [repr(request.prompt)]
    arguments += [f"{name}={value!r}" for name, value in _changed(request, PYTHON).items()]
    arguments += [f"overrides={request.overrides!r}"] if request.overrides else []
    return f"from {package} import scripting; scripting.generate({', '.join(arguments)})"


def _changed(request: JobRequest, names: tuple[str, ...]) -> dict[str, Any]:
    usual = JobRequest("a")
    known = {field.name for field in fields(JobRequest)}
    values = {name: getattr(request, name) for name in names if name in known}
    return {name: value for name, value in values.items() if value != getattr(usual, name)}
