"""The preferences, for modules that preferences.py itself uses."""

from __future__ import annotations

import bpy

from .. import __package__ as base_package

DEVICES = (
    ("auto", "Automatic", "A GPU where there is one"),
    ("cuda", "NVIDIA GPU", "Fail rather than fall back to the processor"),
    ("cpu", "Processor", "Works everywhere, slowly"),
)


def get_preferences() -> bpy.types.AddonPreferences:
    return bpy.context.preferences.addons[base_package].preferences
