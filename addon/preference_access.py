"""Access to the preferences for modules that preferences.py imports."""

from __future__ import annotations

import bpy

from .. import __package__ as base_package

DEVICES = (
    ("auto", "Automatic", "Use the GPU if there is one"),
    ("cuda", "NVIDIA GPU", "Use the GPU; stop with an error if there is none"),
    ("cpu", "CPU", "Works on every computer, but slowly"),
)


def get_preferences() -> bpy.types.AddonPreferences:
    return bpy.context.preferences.addons[base_package].preferences
