"""All actions in one menu, Object › RecDreamer, with a shortcut: for the keyboard, and for F3, which searches menus.

What the sidebar shows for each card, job or picture has a menu of its own here.
"""

from __future__ import annotations

import bpy

from .. import describe
from ..language.translation import CONTEXT, pose
from ..operators.jobs import REDO
from ..session import session
from .job_progress import name_of

MENU = "RECDREAMER_MT_actions"
MAX_JOBS = 20
"""Jobs in the menu, newest first; History has all."""


class ActionMenu:
    bl_translation_context = CONTEXT


class RECDREAMER_MT_actions(ActionMenu, bpy.types.Menu):
    """Everything that RecDreamer can do"""

    bl_label = "RecDreamer"

    def draw(self, context):
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("recdreamer.generate", icon="SHADERFX")
        layout.operator("recdreamer.vary")
        layout.operator("recdreamer.random_seed")
        layout.operator("recdreamer.start_from_active")
        layout.operator("recdreamer.check_start")
        layout.menu("RECDREAMER_MT_presets")
        layout.operator("recdreamer.add_preset", icon="ADD")
        layout.menu("RECDREAMER_MT_prior")
        layout.menu("RECDREAMER_MT_start_results")
        layout.menu("RECDREAMER_MT_words")
        layout.separator()
        layout.operator("recdreamer.import_result", icon="IMPORT")
        layout.operator("recdreamer.cancel", icon="X")
        layout.operator("recdreamer.pause", icon="PAUSE")
        layout.operator("recdreamer.resume", icon="PLAY")
        layout.operator("recdreamer.keep_running")
        layout.operator("recdreamer.enlarge", icon="FULLSCREEN_ENTER")
        layout.menu("RECDREAMER_MT_next")
        layout.separator()
        for menu in ("templates", "pictures", "result", "queue", "history"):
            layout.menu(f"RECDREAMER_MT_{menu}")
        layout.separator()
        layout.operator("recdreamer.open_preferences", icon="PREFERENCES")


class RECDREAMER_MT_next(ActionMenu, bpy.types.Menu):
    """What can be done next with the job in the panel"""

    bl_label = "Next Step"

    def draw(self, context):
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("recdreamer.continue_job", icon="LOOP_FORWARDS")
        layout.operator("recdreamer.refine")
        for stage, text in REDO.items():
            layout.operator("recdreamer.repeat_stage", text=text, icon="FILE_REFRESH").stage = stage
        layout.operator("recdreamer.retry", text="Retry Smaller").change = "smaller"
        layout.operator("recdreamer.retry", text="Retry with New Seed").change = "seed"
        layout.operator("recdreamer.example_prompt")
        layout.operator("recdreamer.show_template")


class RECDREAMER_MT_templates(ActionMenu, bpy.types.Menu):
    """Pose templates: where they come from, and what can be done with each"""

    bl_label = "Pose Templates"

    def draw(self, context):
        layout, settings = self.layout, context.scene.recdreamer
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("recdreamer.capture_view", icon="VIEW3D")
        layout.operator("recdreamer.capture_turntable", icon="CON_ROTLIKE")
        layout.operator("recdreamer.add_files", icon="FILE_IMAGE")
        layout.menu("RECDREAMER_MT_sources")
        layout.operator_menu_enum("recdreamer.set_front", "direction", text="Set Front")
        layout.separator()
        layout.operator("recdreamer.check_templates", icon="VIEWZOOM")
        layout.operator("recdreamer.cancel_errand", icon="X")
        layout.operator("recdreamer.remove_missing_templates")
        layout.operator("recdreamer.clear_templates", icon="TRASH")
        for template in settings.templates:
            column = layout.column()
            column.context_pointer_set("recdreamer_template", template)
            column.menu("RECDREAMER_MT_card", text=describe.one_line(pose(template.label), 30) or "Template")


class RECDREAMER_MT_pictures(ActionMenu, bpy.types.Menu):
    """Suggested pictures to choose from"""

    bl_label = "Suggested Pictures"

    def draw(self, context):
        layout = self.layout
        layout.operator("recdreamer.draw_samples", icon="SHADERFX")
        for index, sample in enumerate(session.gallery.samples if session.gallery is not None else ()):
            is_picked = index in session.gallery.picked
            layout.operator(
                "recdreamer.pick_sample",
                text=f"{index + 1}  {describe.with_share(pose(sample.label), sample.share)}",
                icon="CHECKBOX_HLT" if is_picked else "CHECKBOX_DEHLT",
            ).index = index
        layout.operator("recdreamer.add_picked", icon="ADD")
        layout.operator("recdreamer.discard_gallery", icon="X")


class RECDREAMER_MT_result(ActionMenu, bpy.types.Menu):
    """Actions for an object that a job made or painted"""

    bl_label = "Selected Result"

    def draw(self, context):
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("recdreamer.continue_selected", icon="LOOP_FORWARDS")
        layout.operator("recdreamer.make_quads", icon="MOD_REMESH")
        layout.operator("recdreamer.make_lods", icon="MOD_DECIM")
        layout.operator("recdreamer.bake_quads", icon="RENDER_STILL")
        layout.operator("recdreamer.inspect", icon="VIEWZOOM")
        layout.operator("recdreamer.mark_asset", icon="ASSET_MANAGER")
        layout.operator("recdreamer.restore_materials", icon="LOOP_BACK")


class RECDREAMER_MT_queue(ActionMenu, bpy.types.Menu):
    """Jobs that run and wait"""

    bl_label = "Queue"

    def draw(self, context):
        layout = self.layout
        layout.operator("recdreamer.show_running", icon="PLAY")
        layout.operator("recdreamer.hold_queue", icon="PAUSE").hold = True
        layout.operator("recdreamer.hold_queue", text="Start Waiting Jobs", icon="PLAY").hold = False
        layout.operator("recdreamer.move_in_queue", text="Move Up", icon="TRIA_UP").by = -1
        layout.operator("recdreamer.move_in_queue", text="Move Down", icon="TRIA_DOWN").by = 1
        layout.operator("recdreamer.leave_queue", icon="X")


class RECDREAMER_MT_history(ActionMenu, bpy.types.Menu):
    """Earlier jobs, and what can be done with the one in the panel"""

    bl_label = "History"

    def draw(self, context):
        layout, shown = self.layout, session.shown
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("recdreamer.use_settings", icon="LOOP_BACK")
        layout.operator_menu_enum("recdreamer.copy_command", "language", text="Copy as Command")
        pin = layout.operator("recdreamer.pin_job", icon="PINNED")
        pin.pin = shown is None or not shown.is_pinned
        layout.operator("recdreamer.compare_job")
        layout.operator("recdreamer.show_other", icon="ARROW_LEFTRIGHT")
        layout.operator("recdreamer.open_folder", icon="FILE_FOLDER")
        layout.operator("recdreamer.open_log", icon="TEXT")
        layout.operator("recdreamer.delete_job", icon="TRASH")
        layout.separator()
        layout.operator("recdreamer.open_job", icon="FILE_FOLDER")
        layout.operator("recdreamer.clean_up", icon="BRUSH_DATA")
        layout.separator()
        for job in session.registry.jobs[:MAX_JOBS]:
            show = layout.operator("recdreamer.show_job", text=describe.one_line(name_of(job), 40))
            show.job_id = job.id


def draw_in_menu(menu, context) -> None:
    menu.layout.separator()
    menu.layout.menu(MENU, icon="SHADERFX")


CLASSES = (
    RECDREAMER_MT_actions,
    RECDREAMER_MT_next,
    RECDREAMER_MT_templates,
    RECDREAMER_MT_pictures,
    RECDREAMER_MT_result,
    RECDREAMER_MT_queue,
    RECDREAMER_MT_history,
)
register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.types.VIEW3D_MT_object.append(draw_in_menu)


def unregister() -> None:
    bpy.types.VIEW3D_MT_object.remove(draw_in_menu)
    unregister_classes()
