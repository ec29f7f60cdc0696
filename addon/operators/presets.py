"""Presets of the tab in Blender's own system: Draft, Standard and Final are ours, others the artist's."""

from __future__ import annotations

from pathlib import Path

import bpy
from bl_operators.presets import AddPresetBase

from .guarded import GuardedOperator

SUBDIR = "recdreamer"
FOLDER = Path(__file__).resolve().parents[2] / "presets"
OURS = ("Draft", "Standard", "Final")
"""From rough to fine; Blender itself would sort them by their names."""
SAVED = (
    "settings.quality",
    "settings.texture_px",
    "settings.face_count",
    "settings.method",
    "settings.pose_mode",
    "start.run_shape",
    "start.run_geometry",
    "start.run_texture",
)
"""What a preset has: how a job works, and nothing of what it makes."""


class RECDREAMER_MT_presets(bpy.types.Menu):
    """How thorough the next job is"""

    bl_label = "Presets"
    preset_subdir = SUBDIR
    preset_operator = "script.execute_preset"

    def draw(self, context):
        for name in OURS:
            choice = self.layout.operator(self.preset_operator, text=name)
            choice.filepath = str(FOLDER / SUBDIR / f"{name}.py")
            choice.menu_idname = type(self).__name__
        own = [path for path in bpy.utils.preset_paths(SUBDIR) if Path(path) != FOLDER / SUBDIR]
        if own:
            self.layout.separator()
            self.path_menu(
                own,
                self.preset_operator,
                props_default={"menu_idname": type(self).__name__},
                filter_ext=lambda ending: ending == ".py",
                display_name=lambda name: bpy.path.display_name(name, title_case=False),
            )


class RECDREAMER_OT_add_preset(GuardedOperator, AddPresetBase, bpy.types.Operator):
    """Save quality, texture, face count, method, views and stages as a preset of your own, or remove the chosen one"""

    bl_idname = "recdreamer.add_preset"
    bl_label = "Add Preset"
    preset_menu = "RECDREAMER_MT_presets"
    preset_subdir = SUBDIR
    preset_defines = ("settings = bpy.context.scene.recdreamer", "start = settings.start")
    preset_values = SAVED

    def run(self, context):
        AddPresetBase.execute(self, context)  # Which reports by itself what it cannot write.
        return ""


class RECDREAMER_OT_use_preset(GuardedOperator, bpy.types.Operator):
    """Use a preset by its name"""

    bl_idname = "recdreamer.use_preset"
    bl_label = "Use Preset"
    bl_options = {"REGISTER", "UNDO"}

    name: bpy.props.StringProperty(name="Name", description="Draft, Standard, Final, or one of your own")

    def run(self, context):
        path = bpy.utils.preset_find(self.name, SUBDIR, display_name=True)
        if path is None:
            return f"There is no preset {self.name!r}."
        bpy.ops.script.execute_preset(filepath=path, menu_idname=RECDREAMER_MT_presets.__name__)
        return ""


CLASSES = (RECDREAMER_MT_presets, RECDREAMER_OT_add_preset, RECDREAMER_OT_use_preset)
register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.utils.register_preset_path(str(FOLDER.parent))


def unregister() -> None:
    bpy.utils.unregister_preset_path(str(FOLDER.parent))
    unregister_classes()
    RECDREAMER_MT_presets.bl_label = "Presets"
