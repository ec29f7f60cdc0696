"""Texts in the language that is set in Blender's preferences.

Blender itself translates what it draws of classes and properties, and texts that are handed to its layout as they are
in the table. A text that was put together is translated here, where it is shown: `say` in a panel, `tell` in a report,
`hint` in a tooltip.
"""

from __future__ import annotations

import bpy

from ...backend.recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG
from . import messages

CONTEXT = "RecDreamer"
"""Where our own words are looked up, whatever Blender has for the same word elsewhere: its "History" is another one."""
CONTEXTS = ("*", "Operator", CONTEXT)

_blender = bpy.app.translations
_templates = messages.Templates(())


def language() -> str:
    """Code of the language of the interface, such as de_DE; empty for English."""
    code = _blender.locale
    return "" if code.startswith("en") else code


def say(text: str) -> str:
    """A text for the interface."""
    return _translated(text, _blender.pgettext_iface)


def tell(text: str) -> str:
    """A report."""
    return _translated(text, _blender.pgettext_rpt)


def hint(text: str) -> str:
    """A tooltip."""
    return _translated(text, _blender.pgettext_tip)


def pose(label: str) -> str:
    """How a pose is shown. Its name is data: the four sides are kept in English, others are what the artist has typed."""
    return say(label) if label in CLASS_AZIMUTHS_DEG else label


def poses(labels: str) -> str:
    """The same of poses with commas between them."""
    return ", ".join(map(pose, labels.split(", ")))


def pose_named(shown: str) -> str:
    """The inverse of `pose`: the name of the pose that an artist has typed."""
    typed = shown.strip().casefold()
    return next((label for label in CLASS_AZIMUTHS_DEG if pose(label).casefold() == typed), shown)


def _translated(text: str, look_up) -> str:
    if not language():
        return text
    return messages.translated(str(text), look_up, _templates)


def register() -> None:
    global _templates
    tables = messages.read_tables()
    _templates = messages.Templates({message: None for table in tables.values() for message in table})
    _blender.register(
        __package__,
        {
            code: {
                (context, message): translation
                for message, translation in table.items()
                if translation
                for context in CONTEXTS
            }
            for code, table in tables.items()
        },
    )


def unregister() -> None:
    _blender.unregister(__package__)
