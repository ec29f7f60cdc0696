"""Preferences: where data lives, which Python runs the backend, on which device."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from .. import __package__ as base_package
from ..backend.recdreamer.protocol import RequestError
from . import describe
from .jobs import environment
from .jobs.registry import default_data_folder

DEVICES = (
    ("auto", "Automatic", "A GPU where there is one"),
    ("cuda", "NVIDIA GPU", "Fail rather than fall back to the processor"),
    ("cpu", "Processor", "Works everywhere, slowly"),
)
BUILDS = (
    ("cuda", "NVIDIA GPU", "About 5 GB to download"),
    ("cpu", "Processor", "About 1 GB to download"),
)


class RecDreamerPreferences(bpy.types.AddonPreferences):
    bl_idname = base_package

    data_folder: StringProperty(
        name="Data Folder",
        description="Jobs, templates and the backend are kept here, also when the extension is removed",
        subtype="DIR_PATH",
        default=str(default_data_folder()),
    )
    backend_python: StringProperty(
        name="Interpreter",
        description="A Python that has the backend's dependencies. Empty: the one that Set Up makes",
        subtype="FILE_PATH",
    )
    build: EnumProperty(name="Build for", description="Which PyTorch Set Up fetches", items=BUILDS)
    device: EnumProperty(name="Device", description="Where jobs run", items=DEVICES)
    views_model: StringProperty(
        name="Novel-View Model",
        description="Folder of a model in diffusers format that turns one picture (Zero-1-to-3 and its kin)",
        subtype="DIR_PATH",
    )
    num_jobs: IntProperty(
        name="Jobs Listed", description="Earlier jobs in the panel", default=8, min=1, max=100
    )

    @property
    def folder(self) -> Path:
        return Path(bpy.path.abspath(self.data_folder) or default_data_folder())

    def find_interpreter(self) -> Path:
        """The Python that runs the backend. Raises RequestError when there is none."""
        return environment.find_interpreter(bpy.path.abspath(self.backend_python), self.folder)

    @property
    def why_no_backend(self) -> str:
        try:
            self.find_interpreter()
        except RequestError as error:
            return str(error)
        return ""

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.use_property_split = True
        self.layout.use_property_decorate = False
        self.layout.prop(self, "data_folder")
        self.layout.prop(self, "device")
        self.layout.prop(self, "views_model", placeholder="to make other views of one picture")
        self.layout.prop(self, "num_jobs")
        draw_backend(self.layout.box(), self, context)


def draw_backend(layout: bpy.types.UILayout, preferences: RecDreamerPreferences, context) -> None:
    """The backend's state and its buttons."""
    # Both use this module.
    from .operators.setup import why_not_set_up
    from .session import session

    row = layout.row()
    row.label(text="Backend", icon="CONSOLE")
    row.operator("recdreamer.check_backend", icon="CHECKMARK")
    layout.prop(preferences, "backend_python", placeholder="made by Set Up")
    row = layout.row()
    row.prop(preferences, "build", expand=True)
    layout.operator("recdreamer.set_up_backend", icon="IMPORT")

    task = session.task
    reason = why_not_set_up()
    if reason and not (task is not None and task.is_running):
        draw_text(layout, reason, context, "INFO")
    if task is None:
        problem = preferences.why_no_backend
        text = problem or f"Ready: {preferences.find_interpreter()}"
        icon = "INFO" if problem else "CHECKMARK"
    elif task.is_running:
        row = layout.row(align=True)
        row.progress(
            factor=(task.index + 0.5) / len(task.steps),
            text=f"{task.title} ({task.index + 1}/{len(task.steps)})",
        )
        row.operator("recdreamer.cancel_backend_task", text="", icon="X")
        text, icon = task.line, "NONE"
    elif task.problem:
        text, icon = task.problem, "ERROR"
    else:
        text, icon = task.line or "The backend works.", "CHECKMARK"
    draw_text(layout, text, context, icon)


def draw_text(
    layout: bpy.types.UILayout,
    text: str,
    context: bpy.types.Context,
    icon: str = "NONE",
    columns: int = 1,
) -> None:
    """A label of as many lines as the region needs, or one of equal columns of the region."""
    column = layout.column(align=True)
    width_px = (context.region.width if context.region else 300) / columns
    for index, line in enumerate(describe.wrap(text, width_px, context.preferences.system.ui_scale)):
        column.label(text=line, icon=icon if index == 0 else ("BLANK1" if icon != "NONE" else "NONE"))


def get_preferences() -> RecDreamerPreferences:
    return bpy.context.preferences.addons[base_package].preferences


def register() -> None:
    bpy.utils.register_class(RecDreamerPreferences)


def unregister() -> None:
    bpy.utils.unregister_class(RecDreamerPreferences)
