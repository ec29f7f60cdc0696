"""What all operators do with an error: one sentence with its remedy, a line in the log, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import bpy

from ...backend.recdreamer.shared.protocol import RequestError
from .. import trouble
from ..language.translation import CONTEXT, hint, tell
from ..objects.new_data import removed_on_error
from ..preference_access import get_preferences
from ..session import redraw_tab

STATES = (
    ("TOGGLE", "Toggle", "On if it is off, and off if it is on"),
    ("ON", "On", "Whatever it is now"),
    ("OFF", "Off", "Whatever it is now"),
)
"""Choices of an operator that switches something."""


def switched(state: str, is_on: bool) -> bool:
    """What something becomes that is on or off now, by the choice of an operator."""
    return not is_on if state == "TOGGLE" else state == "ON"


class GuardedOperator:
    """Base of all operators: no error of `run` reaches Blender, which would show a traceback."""

    bl_translation_context = CONTEXT

    def tell(self, kind: str, message: str) -> None:
        """Report in the language of the interface; an operator's own `report` cannot be replaced."""
        self.report({kind}, tell(message))

    def execute(self, context):
        try:
            with removed_on_error():
                reason = self.run(context)
        except Exception as error:
            reason = trouble.explain(error, self.bl_label)
            if not isinstance(error, RequestError):
                trouble.log(error, self.bl_label, get_preferences().folder)
        if reason:
            self.tell("ERROR", reason)
            return {"CANCELLED"}
        redraw_tab()  # Blender does it where the mouse is, which a menu or a shortcut may leave elsewhere.
        return {"FINISHED"}

    def run(self, context: bpy.types.Context) -> str | None:
        """Do it. Returns why it is refused, if it is, or raises what `execute` turns into a sentence."""
        raise NotImplementedError


def open_outside(path: Path) -> str:
    """Open a file or folder by the system's own program. Returns why that is not possible; empty if it is."""
    try:
        bpy.ops.wm.path_open(filepath=str(path))
    except RuntimeError:  # Of any error in an operator of Blender's.
        return f"This system has no program that opens {path}. Look at it with one of your own."
    return ""


def why_not(cls: type[bpy.types.Operator], reason: str) -> bool:
    """Result of a poll function; the reason becomes the tooltip of the grayed-out button."""
    if reason:
        cls.poll_message_set(hint(reason))
    return not reason
