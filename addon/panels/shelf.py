"""The template shelf in the sidebar: sources, cards with verdicts, and suggested pictures."""

from __future__ import annotations

import bpy

from .. import describe
from ..jobs.errands import Check, Gallery
from ..jobs.task import CANCELED
from ..language.translation import pose, say
from ..layout import draw_text
from ..pictures import previews
from ..preference_access import get_preferences
from ..properties import RecDreamerSettings, show_pose
from ..session import session
from .cards_of_templates import COLUMNS, draw_advice, draw_card
from .jobs import SidebarPanel


class RECDREAMER_PT_templates(SidebarPanel, bpy.types.Panel):
    bl_label = "Pose Templates"
    bl_order = 3

    @classmethod
    def poll(cls, context):
        return not get_preferences().why_no_backend

    def draw_header_preset(self, context):
        if context.scene.recdreamer.templates:
            self.layout.operator("recdreamer.clear_templates", text="", icon="TRASH", emboss=False)

    def draw(self, context):
        layout = self.layout
        settings = context.scene.recdreamer
        self._draw_sources(layout, settings)
        self._draw_errand(layout, context)
        if session.gallery is not None:
            draw_gallery(layout.box(), session.gallery)
        if settings.templates:
            self._draw_shelf(layout, context, settings)
        if settings.wants_turntable:
            is_renewed = bool(settings.enabled_templates)
            text = f"Generate first captures a turntable of the object{', if it has changed' if is_renewed else ''}."
            draw_text(layout, text, context, "INFO")
        elif not settings.templates:
            draw_text(layout, "No templates: poses are drawn automatically.", context, "INFO")

    def _draw_sources(self, layout, settings):
        column = layout.column(align=True)
        row = column.row(align=True)
        row.operator("recdreamer.capture_view", text="View", icon="VIEW3D")
        row.operator("recdreamer.capture_turntable", text="Turntable…", icon="CON_ROTLIKE")
        row = column.row(align=True)
        row.operator("recdreamer.add_files", text="Files", icon="FILE_IMAGE")
        row.menu("RECDREAMER_MT_sources", text="More", icon="ADD")
        row = column.row(align=True)
        row.prop(settings, "show_front", text="", icon="EMPTY_SINGLE_ARROW")
        row.prop(settings, "front")
        row.operator_menu_enum("recdreamer.set_front", "direction", text="", icon="DOWNARROW_HLT")

    def _draw_errand(self, layout, context):
        if session.errand is None or session.errand.is_quiet:
            return
        task = session.errand.task
        if task.is_running:
            row = layout.row(align=True)
            factor = describe.fraction(task.line)
            row.progress(factor=factor or 0.0, text=say(task.title if factor else task.line or task.title))
            row.operator("recdreamer.cancel_errand", text="", icon="X")
        elif task.problem:
            draw_text(layout, task.problem, context, "INFO" if task.problem == CANCELED else "ERROR")

    def _draw_shelf(self, layout, context, settings):
        check = session.check
        column = layout.column(align=True)
        column.operator("recdreamer.check_templates", icon="VIEWZOOM")
        if check is not None:
            column.row(align=True).prop(settings, "shelf_view", expand=True)
        missing = sum(template.is_missing for template in settings.templates)
        if missing:
            text = f"{missing} of {len(settings.templates)} pictures are not on this computer."
            draw_text(layout, text, context, "ERROR")
            layout.operator("recdreamer.remove_missing_templates", icon="X")
        grid = layout.grid_flow(row_major=True, columns=COLUMNS, even_columns=True, align=False)
        for index, template in enumerate(settings.templates):
            verdict = check.verdicts.get(template.key) if check else None
            draw_card(grid.box().column(align=True), template, index, verdict, context)
        for template in settings.templates if check is not None else ():
            verdict = check.verdicts.get(template.key)
            for advice in verdict.warnings if verdict is not None else ():
                draw_advice(layout, advice, context, template.label)
        if check is not None and is_of_this_shelf(check, settings):
            for advice in check.warnings:
                draw_advice(layout, advice, context)


def is_of_this_shelf(check: Check, settings: RecDreamerSettings) -> bool:
    """True if the enabled cards are those that were checked."""
    return {template.key for template in settings.enabled_templates} == set(check.verdicts)


def draw_gallery(layout, gallery: Gallery):
    """Draw the pictures of a gallery with check boxes, and the actions on the selected ones."""
    grid = layout.grid_flow(row_major=True, columns=COLUMNS, even_columns=True, align=True)
    for index, sample in enumerate(gallery.samples):
        cell = grid.column(align=True)
        cell.template_icon(icon_value=previews.icon(sample.image), scale=4.5)
        is_picked = index in gallery.picked
        pick = cell.operator(
            "recdreamer.pick_sample",
            text=describe.with_share(pose(sample.label), sample.share),
            icon="CHECKBOX_HLT" if is_picked else "CHECKBOX_DEHLT",
            depress=is_picked,
        )
        pick.index = index
    row = layout.row(align=True)
    row.operator("recdreamer.add_picked", text=say(f"Add Selected ({len(gallery.picked)})"), icon="ADD")
    row.operator("recdreamer.discard_gallery", icon="X")


class RECDREAMER_MT_sources(bpy.types.Menu):
    """Other sources of templates"""

    bl_idname = "RECDREAMER_MT_sources"
    bl_label = "More Sources"

    def draw(self, context):
        layout = self.layout
        layout.operator("recdreamer.paste_picture", icon="PASTEDOWN")
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator(
            "recdreamer.add_files", text="Sketches from Files", icon="FILE_IMAGE"
        ).are_sketches = True
        layout.operator("recdreamer.capture_sketch", icon="GREASEPENCIL")
        layout.separator()
        layout.operator("recdreamer.draw_samples", icon="SHADERFX")


class RECDREAMER_MT_card(bpy.types.Menu):
    """More actions for this template"""

    bl_idname = "RECDREAMER_MT_card"
    bl_label = "Template"

    def draw(self, context):
        layout = self.layout
        template = context.recdreamer_template
        index = list(context.scene.recdreamer.templates).index(template)
        for text, icon, by in (("Move Up", "TRIA_UP", -1), ("Move Down", "TRIA_DOWN", 1)):
            move = layout.operator("recdreamer.move_template", text=text, icon=icon)
            move.index, move.by = index, by
        if template.camera is not None:
            layout.operator("recdreamer.fly_to_template", icon="HIDE_OFF").index = index
        layout.separator()
        layout.prop(template, "weight")
        layout.operator("recdreamer.redo_template", icon="FILE_REFRESH").index = index
        layout.operator("recdreamer.mirror_template", icon="MOD_MIRROR").index = index
        layout.operator("recdreamer.remove_template", icon="X").index = index
        layout.operator("recdreamer.draw_novel_views", icon="CAMERA_DATA").index = index
        if not get_preferences().views_model:
            layout.operator("recdreamer.open_preferences", text="Choose Multi-View Model", icon="PREFERENCES")


def show_poses() -> bool:
    """Let the cards show their poses after the language has changed, or in an older file. Called by the timer."""
    windows = bpy.context.window_manager.windows
    scene = windows[0].scene if windows else bpy.context.scene
    return scene.is_editable and sum(map(show_pose, scene.recdreamer.templates)) > 0


CLASSES = (RECDREAMER_MT_sources, RECDREAMER_MT_card, RECDREAMER_PT_templates)
register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    session.on_tick.append(show_poses)


def unregister() -> None:
    session.on_tick.remove(show_poses)
    unregister_classes()
