"""Access to the preferences for modules that preferences.py imports."""

from __future__ import annotations

import os
from pathlib import Path

import bpy

from .. import __package__ as base_package
from ..backend.recdreamer.shared.protocol import BUILTIN_PRIOR

DEVICES = (
    ("auto", "Automatic", "Use the GPU if there is one"),
    ("cuda", "NVIDIA GPU", "Use the GPU; stop with an error if there is none"),
    ("cpu", "CPU", "Works on every computer, but slowly"),
)


def absolute_path(text: str, blend_file: str = "") -> str:
    """A path as typed or browsed, in full; empty if it is. The open file and the working folder change, it must not.

    `//` is the folder of the .blend file. Without one it is the home folder, as for any other relative path.
    """
    text = text.strip().strip("\"'")
    if not text:
        return ""
    is_blend_relative = text.startswith("//")
    base = Path(blend_file).parent if is_blend_relative and blend_file else Path.home()
    return os.path.normpath(base / Path(text[2:] if is_blend_relative else text).expanduser())


def model_in_full(name: str, blend_file: str = "") -> str:
    """The name of a model; a path in full, because a job has another working folder. An ID is no path."""
    name = name.strip().strip("\"'")
    is_path = name.startswith(("//", "~", ".")) or Path(name).is_absolute()
    return absolute_path(name, blend_file) if is_path else name


def get_preferences() -> bpy.types.AddonPreferences:
    return bpy.context.preferences.addons[base_package].preferences


MODEL_PROPERTIES = {"prior": "image_model", "extractor": "extractor", "decoder": "tiny_decoder"}
"""Kind of a model -> the preference that names it."""


def use_model(kind: str, name: str) -> None:
    """Choose a model of a kind for all jobs to come."""
    setattr(get_preferences(), MODEL_PROPERTIES[kind], name)


def model_overrides(prior: str, method: str) -> dict[str, str]:
    """The settings of a job that name the models beside its image model. The built-in one brings its own."""
    preferences, overrides = get_preferences(), {}
    if prior != BUILTIN_PRIOR and preferences.extractor:
        overrides["extractor"] = preferences.extractor
    if prior != BUILTIN_PRIOR and method == "usd" and preferences.tiny_decoder:
        overrides["rectifier.tiny_decoder"] = preferences.tiny_decoder
    return overrides
