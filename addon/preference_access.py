"""Access to the preferences for modules that preferences.py imports."""

from __future__ import annotations

import os
from pathlib import Path

import bpy

from .. import __package__ as base_package

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


def get_preferences() -> bpy.types.AddonPreferences:
    return bpy.context.preferences.addons[base_package].preferences
