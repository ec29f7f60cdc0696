"""Shortcuts in the 3D view: a menu of all actions, and the few that are used all the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import bpy

from .actions import MENU

KEYMAP, SPACE = "3D View Generic", "VIEW_3D"
"""Blender's keymap of all regions of a 3D view, with the sidebar."""


@dataclass(frozen=True)
class Shortcut:
    """A key that, with Ctrl and Alt, neither Blender's keymap nor the industry-compatible one uses anywhere."""

    operator: str
    key: str
    properties: Mapping[str, str] = field(default_factory=dict)


SHORTCUTS = (
    Shortcut("wm.call_menu", "R", {"name": MENU}),
    Shortcut("recdreamer.generate", "N"),
    Shortcut("recdreamer.capture_view", "V"),
    Shortcut("recdreamer.cancel", "X"),
    Shortcut("recdreamer.import_result", "O"),
    Shortcut("recdreamer.enlarge", "U"),
)

_items: list[tuple[bpy.types.KeyMap, bpy.types.KeyMapItem]] = []


def draw_shortcuts(layout: bpy.types.UILayout) -> None:
    """The shortcuts, which can be changed here as in Blender's own list of them."""
    layout.label(text="Shortcuts", icon="KEYINGSET")
    column = layout.column()
    for item in items():
        row = column.split(factor=0.5)
        row.label(text="Menu of All Actions" if item.idname == "wm.call_menu" else item.name)
        row.prop(item, "type", text="", full_event=True)


def items() -> list[bpy.types.KeyMapItem]:
    """The shortcuts as the user has them, if they were changed, in the order of the table."""
    users = bpy.context.window_manager.keyconfigs.user
    keymap = users.keymaps.get(KEYMAP) if users is not None else None
    found = []
    for _, own in _items:
        theirs = keymap.keymap_items if keymap is not None else None
        changed = theirs and theirs.find_from_operator(own.idname, properties=own.properties)
        found.append(changed or own)
    return found


def register() -> None:
    config = bpy.context.window_manager.keyconfigs.addon
    if config is None:
        return  # Without a window there may be none.
    keymap = config.keymaps.new(name=KEYMAP, space_type=SPACE)
    for shortcut in SHORTCUTS:
        item = keymap.keymap_items.new(shortcut.operator, shortcut.key, "PRESS", ctrl=True, alt=True)
        for name, value in shortcut.properties.items():
            setattr(item.properties, name, value)
        _items.append((keymap, item))


def unregister() -> None:
    for keymap, item in _items:
        keymap.keymap_items.remove(item)
    _items.clear()
