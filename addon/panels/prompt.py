"""Below the prompt: the image model, which words it reads, and the words of the built-in model to choose from."""

from __future__ import annotations

from functools import lru_cache

import bpy

from ...backend.recdreamer.shared import prompt_words
from ...backend.recdreamer.shared.protocol import BUILTIN_PRIOR
from ...backend.recdreamer.shared.worlds import DEFAULT_WORLD, described
from ..layout import draw_text
from ..preference_access import get_preferences
from ..properties import RecDreamerSettings
from ..session import session
from .model_lists import ask_for_models, draw_choice, draw_download


def draw_model_and_words(layout: bpy.types.UILayout, settings: RecDreamerSettings, context) -> None:
    """The choice of the image model, what it is, and one line about the words that it drops."""
    ask_for_models()
    is_builtin = get_preferences().image_model in ("", BUILTIN_PRIOR)
    column = layout.column(align=True)
    draw_choice(column, context)
    if is_builtin:
        column.menu("RECDREAMER_MT_words", icon="OUTLINER_OB_FONT")
        if not session.registry.jobs:  # Who has made something knows it.
            draw_text(layout, DEFAULT_WORLD.about, context)
    doubt = dropped_words(settings.prompt, settings.method, is_builtin)
    if doubt:
        draw_text(layout, doubt, context, "ERROR")
    if is_builtin or session.models.task is not None:
        draw_download(layout, context, is_brief=True)


@lru_cache(maxsize=32)
def dropped_words(prompt: str, method: str, is_builtin: bool) -> str:
    """Which words of a prompt the model drops or does not know, in one sentence; empty if it reads all."""
    if not prompt.strip():
        return ""
    read = prompt_words.reader(is_builtin).shortened(
        prompt.strip(), prompt_words.usual_endings(method, is_builtin)
    )
    return prompt_words.doubts(read, BUILTIN_PRIOR if is_builtin else "")


class RECDREAMER_MT_words(bpy.types.Menu):
    """What the built-in model can draw"""

    bl_idname = "RECDREAMER_MT_words"
    bl_label = "Choose Words"

    def draw(self, context):
        row = self.layout.row()
        for thing, looks in DEFAULT_WORLD.looks.items():
            column = row.column()
            for look in looks:
                text = described(thing, look)
                column.operator("recdreamer.example_prompt", text=text).prompt = text


CLASSES = (RECDREAMER_MT_words,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
