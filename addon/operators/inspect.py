"""Look at the active object from all sides with the backend: does it have one front?"""

from __future__ import annotations

import shutil

import bpy

from ...backend.recdreamer.shared.protocol import RequestError
from ..jobs import environment, errands
from ..jobs.errands import Errand
from ..objects.object_keys import job_of
from ..preference_access import get_preferences
from ..session import session
from .gallery import why_errand_busy
from .guarded import GuardedOperator, why_not
from .jobs import NOT_OBJECT_MODE


class RECDREAMER_OT_inspect(GuardedOperator, bpy.types.Operator):
    """Find out which side each view of the active object shows"""

    bl_description = (
        "Look at the active object from all sides: which side each view shows, and how many fronts there are. The "
        "report opens in the browser. Templates of the shelf say what each side looks like; without any, the prompt "
        "does"
    )
    bl_idname = "recdreamer.inspect"
    bl_label = "Inspect Sides"

    @classmethod
    def poll(cls, context):
        reason = why_errand_busy() or get_preferences().why_no_backend
        if context.mode != "OBJECT":
            reason = NOT_OBJECT_MODE
        elif context.object is None or context.object.type != "MESH":
            reason = "Make a mesh the active object first."
        return why_not(cls, reason)

    def run(self, context):
        obj, settings = context.object, context.scene.recdreamer
        job = session.registry.find(job_of(obj)) if job_of(obj) else None
        prompt = (
            job.request.prompt if job is not None and job.request is not None else settings.prompt.strip()
        )
        folder = errands.new_folder(get_preferences().folder / "inspections", obj.name)
        file = folder / "object.glb"
        export(obj, file, context)
        # A mirrored card would need a picture of its own.
        cards = [card for card in settings.enabled_templates if not card.mirrored and not card.is_missing]
        if cards:
            (folder / "templates").mkdir()
        for number, card in enumerate(cards):
            shutil.copyfile(card.path, folder / "templates" / f"{card.label}-{number}{card.path.suffix}")
        command = environment.run_command(get_preferences().find_interpreter())
        task = errands.inspect_task(command, file, prompt, folder, bool(cards), get_preferences().device)
        session.errand = Errand(task, lambda: show(folder))


def export(obj: bpy.types.Object, file, context: bpy.types.Context) -> None:
    """Write the object alone, with its modifiers and textures, as a GLB. The selection stays as it is."""
    try:
        write = bpy.ops.export_scene.gltf
        write.get_rna_type()
    except (AttributeError, KeyError) as error:
        raise RequestError(
            "Blender's glTF exporter is switched off.",
            "Enable the add-on glTF 2.0 format in the preferences.",
        ) from error
    selected = [other for other in context.selected_objects if other != obj]
    was_selected = obj.select_get()
    try:
        for other in selected:
            other.select_set(False)
        obj.select_set(True)
        write(
            filepath=str(file),
            export_format="GLB",
            use_selection=True,
            export_apply=True,
            export_animations=False,
        )
    except RuntimeError as error:
        raise RequestError(f"{obj.name!r} could not be exported.", "Export it by hand to see why.") from error
    finally:
        obj.select_set(was_selected)
        for other in selected:
            other.select_set(True)


def show(folder) -> None:
    """Open the report in the browser."""
    report = folder / "report.html"
    if not report.is_file():
        raise RequestError("The inspection wrote no report.", "Try again.")
    bpy.ops.wm.url_open(url=report.as_uri())


CLASSES = (RECDREAMER_OT_inspect,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
