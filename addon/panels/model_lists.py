"""Image models in the preferences and in the tab: what is chosen, what is here, what a download asks and shows."""

from __future__ import annotations

import bpy

from ...backend.recdreamer.shared.protocol import BUILTIN_PRIOR
from ...backend.recdreamer.shared.worlds import DEFAULT_WORLD
from .. import describe
from ..jobs.model_tasks import EXTRACTOR, ModelRow, ModelTask
from ..jobs.task import CANCELED
from ..language.translation import say
from ..layout import draw_text, shortened
from ..operators.models import why_not_get
from ..preference_access import get_preferences
from ..session import session
from .cure_buttons import draw_cure

BUTTON_PX = 40
"""Of a button behind a text, with the frame of the text."""
CHOICE_PX = 30
"""What stands beside the name of the chosen model: an icon and an arrow."""
STATE_ICONS = {
    "installed": "CHECKMARK",
    "found": "CHECKMARK",
    "added": "FILE_FOLDER",
    "incomplete": "ERROR",
    "available": "IMPORT",
    "refused": "CANCEL",
}


def ask_for_models() -> None:
    """Have the list read in the background as soon as there is a backend."""
    preferences = get_preferences()
    if not preferences.why_no_backend:
        session.models.ask(preferences.find_interpreter(), preferences.folder)


def draw_choice(layout: bpy.types.UILayout, context) -> None:
    """The chosen image model, as a menu."""
    title = session.models.title_of(get_preferences().image_model)
    layout.menu("RECDREAMER_MT_prior", text=shortened(say(title), context, CHOICE_PX), icon="IMAGE_DATA")


def draw_models(layout: bpy.types.UILayout, preferences: bpy.types.AddonPreferences, context) -> None:
    """The models in the preferences: what is chosen, Get Stable Diffusion, and what is here with its size."""
    row = layout.row()
    row.label(text="Image Models", icon="IMAGE_DATA")
    row.operator("recdreamer.verify_models", icon="CHECKMARK")
    if preferences.why_no_backend:
        draw_text(layout, "Install the backend first.", context, "INFO")
        return
    ask_for_models()
    draw_choice(layout, context)
    for text, menu, chosen in (
        ("Pose Extractor", "RECDREAMER_MT_extractor", preferences.extractor or "Automatic"),
        ("Tiny Decoder", "RECDREAMER_MT_decoder", preferences.tiny_decoder or "None"),
    ):
        row = layout.split(factor=0.4, align=True)
        row.label(text=text)
        row.menu(menu, text=say(session.models.title_of(chosen)))
    draw_download(layout, context)
    if session.models.problem:
        draw_text(layout, session.models.problem, context, "ERROR")
        draw_cure(layout, "install")
    elif not session.models.is_known:
        layout.label(text="Looking for models…", icon="TIME")
        return
    column = layout.column(align=True)
    for row in session.models.rows:
        if row.state in ("installed", "incomplete", "added", "found", "refused"):
            _draw_row(column, row, context)
    layout.operator("recdreamer.add_model", icon="FILE_FOLDER")


def _draw_row(layout: bpy.types.UILayout, model: ModelRow, context) -> None:
    """One model on this computer, with its size and what can be done with it."""
    row = layout.row()
    size = f", {describe.gigabytes(model.bytes)}" if model.bytes else ""
    row.label(text=f"{model.title}{size} ({say(model.state)})", icon=STATE_ICONS[model.state])
    if model.state == "incomplete":
        row.operator("recdreamer.get_model", text="Continue", icon="IMPORT").name = model.id
    if model.state in ("installed", "incomplete", "added"):
        row.operator("recdreamer.remove_model", text="", icon="TRASH").name = model.id
    if model.reason:
        draw_text(layout, model.reason, context)


def has_recommended() -> bool:
    """Whether an image model other than the built-in one is on this computer, with what USD needs."""
    rows = session.models.rows
    return all(any(row.kind == kind and row.is_here for row in rows) for kind in ("prior", "extractor"))


def draw_download(layout: bpy.types.UILayout, context, is_brief: bool = False) -> None:
    """Get Stable Diffusion, and what becomes of it: size and license, progress, the end.

    Briefly, the reason why it is gray is only its tooltip: who works offline is not told in each look at the tab.
    """
    task = session.models.task
    if task is None:
        if session.models.is_known and not has_recommended():
            layout.operator("recdreamer.get_model", text="Get Stable Diffusion", icon="IMPORT").name = ""
            reason = why_not_get()
            if reason and not is_brief:
                draw_text(layout, reason, context, "INFO")
            if reason:
                draw_cure(layout, reason.kind)
        return
    box = layout.box()
    if task.is_running:
        row = box.row(align=True)
        waiting = "Asking for the size…" if task.is_dry else "Starting…"
        row.progress(factor=task.factor, text=shortened(say(task.line or waiting), context, BUTTON_PX))
        row.operator("recdreamer.cancel_models", text="", icon="X")
        draw_text(box, task.title, context)
        return
    row = box.row()
    row.label(text=shortened(say(task.title), context, BUTTON_PX))
    row.operator("recdreamer.dismiss_models", text="", icon="X", emboss=False)
    for sentence in task.told:
        draw_text(box, sentence, context, "INFO")
    if task.problem:
        draw_text(box, task.problem, context, "INFO" if task.problem == CANCELED else "ERROR")
        _draw_again(box, task)
    elif task.is_dry:
        _draw_offer(box, task, context)
    else:
        box.label(text="Done.", icon="CHECKMARK")


def _draw_again(layout: bpy.types.UILayout, task: ModelTask) -> None:
    if task.do[0] == "get":
        layout.operator("recdreamer.get_model", text="Try Again", icon="FILE_REFRESH").name = task.do[1]
    if task.kind in ("disk_full", "not_writable", "unusable"):
        draw_cure(layout, task.kind)


def _draw_offer(layout: bpy.types.UILayout, task: ModelTask, context) -> None:
    """How large it is and under which license, before a byte is fetched."""
    if task.plan is None:
        draw_text(layout, "Everything is on this computer already.", context, "CHECKMARK")
        return
    size = describe.gigabytes(task.plan.left_bytes)
    free = describe.gigabytes(task.plan.free_bytes)
    models = ", ".join(task.plan.models)
    draw_text(layout, f"{models}: {size} to download, {free} free.", context, "IMPORT")
    for index, license in enumerate(task.licenses):
        what = f"{', '.join(license.models)}: the {license.title} restricts what it may be used for."
        draw_text(layout, what, context, "INFO")
        layout.operator("recdreamer.read_license", icon="TEXT").index = index
    if task.licenses:
        layout.operator("recdreamer.accept_license", text=say(f"Accept and Download ({size})"), icon="IMPORT")
    else:
        layout.operator("recdreamer.get_model", text=say(f"Download ({size})"), icon="IMPORT").name = task.do[
            1
        ]


class ModelMenu:
    """Base of the menus that choose a model of a kind."""

    kind = ""
    default = ("", "")
    """Name and title of the choice without a model of the list."""

    def draw(self, context):
        ask_for_models()
        layout = self.layout
        name, title = self.default
        self._draw_item(layout, name, title, "DOT")
        for row in session.models.choices(self.kind):
            line = layout.row()
            line.enabled = row.state != "refused"
            self._draw_item(line, row.id, row.title, STATE_ICONS[row.state])
        layout.separator()
        if self.kind == "prior":
            layout.operator("recdreamer.get_model", text="Get Stable Diffusion", icon="IMPORT").name = ""
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("recdreamer.add_model", text="Add Folder or File…", icon="FILE_FOLDER")

    def _draw_item(self, layout, name: str, title: str, icon: str) -> None:
        item = layout.operator("recdreamer.choose_model", text=title, icon=icon)
        item.kind, item.name = self.kind, name


class RECDREAMER_MT_prior(ModelMenu, bpy.types.Menu):
    """The model that draws the prompt"""

    bl_idname = "RECDREAMER_MT_prior"
    bl_label = "Image Model"
    kind = "prior"
    default = (BUILTIN_PRIOR, DEFAULT_WORLD.title)


class RECDREAMER_MT_extractor(ModelMenu, bpy.types.Menu):
    """What tells poses apart, for any image model but the built-in one"""

    bl_idname = "RECDREAMER_MT_extractor"
    bl_label = "Pose Extractor"
    kind = "extractor"
    default = ("", f"Automatic ({EXTRACTOR})")


class RECDREAMER_MT_decoder(ModelMenu, bpy.types.Menu):
    """A small decoder that makes steps with Stable Diffusion cheaper, in time and memory"""

    bl_idname = "RECDREAMER_MT_decoder"
    bl_label = "Tiny Decoder"
    kind = "decoder"
    default = ("", "None")


CLASSES = (RECDREAMER_MT_prior, RECDREAMER_MT_extractor, RECDREAMER_MT_decoder)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
