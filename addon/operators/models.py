"""Operators on pretrained models: get, accept a license, add, choose, verify, remove."""

from __future__ import annotations

import textwrap

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from ...backend.recdreamer.shared.protocol import RequestError
from .. import describe
from ..jobs.model_tasks import KINDS, RECOMMENDED, RECOMMENDED_TITLE, ModelTask
from ..jobs.registry import writable_folder
from ..language.translation import hint, say
from ..preference_access import absolute_path, get_preferences, use_model
from ..session import session
from ..trouble import Reason
from .guarded import GuardedOperator, why_not
from .jobs import JOB_IS_RUNNING

LINES_PER_PAGE = 36
"""Of a license in its window."""
LICENSE_WIDTH_PX, LETTERS_PER_LINE = 760, 110
OFFLINE = Reason(
    "Getting a model needs a download. Allow Online Access in Preferences › System, or add a model of your own.",
    "offline",
)
FORCED_OFFLINE = Reason(
    "Blender was started offline. Start it without --offline-mode, or add a model that is on this computer.",
    "prior",
)


def why_not_models() -> Reason:
    """Why nothing can be done about models now; empty if it can."""
    if session.models.is_busy:
        return Reason("Another download or check of models is running. Wait, or cancel it.")
    return get_preferences().why_no_backend


def why_not_get() -> Reason:
    """Why Get Stable Diffusion is grayed out; empty if it is not."""
    if not bpy.app.online_access:
        return FORCED_OFFLINE if getattr(bpy.app, "online_access_override", False) else OFFLINE
    return why_not_models()


def _begin(do: list[str], title: str) -> None:
    """Start a command of `recdreamer models`. Raises RequestError."""
    preferences = get_preferences()
    folder = writable_folder(preferences.folder)
    session.models.task = ModelTask(preferences.find_interpreter(), folder, do, title)


class RECDREAMER_OT_get_model(GuardedOperator, bpy.types.Operator):
    """Download a model with all that it needs, or show its size and license first if that is still to be accepted"""

    bl_idname = "recdreamer.get_model"
    bl_label = "Get Model"

    name: StringProperty(
        name="Model", description="ID of a model. Empty: Stable Diffusion", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_get())

    def run(self, context):
        name = self.name or _wanted()
        row = session.models.find(name)
        title = row.title if row is not None else RECOMMENDED_TITLE
        last = session.models.task
        was_accepted = last is not None and last.do == ("get", name, "--accept-license")
        if was_accepted or (row is not None and row.accepted):
            _begin(["get", name, "--accept-license"], title)
        else:
            _begin(["get", name, "--dry-run"], title)


def _wanted() -> str:
    """What Get Model gets: the model that the settings name, if it is one of the list; else the recommended one."""
    preferences = get_preferences()
    for name in (preferences.image_model, preferences.extractor, preferences.tiny_decoder):
        row = session.models.find(name) if name else None
        if row is not None and row.state in ("available", "incomplete"):
            return row.id
    return RECOMMENDED


class RECDREAMER_OT_accept_license(GuardedOperator, bpy.types.Operator):
    """Accept this license, and download. The acceptance is remembered"""

    bl_idname = "recdreamer.accept_license"
    bl_label = "Accept and Download"

    @classmethod
    def poll(cls, context):
        task = session.models.task
        reason = (
            "" if task is not None and task.is_dry and task.licenses else "There is no license to accept."
        )
        return why_not(cls, reason or why_not_get())

    def run(self, context):
        asked = session.models.task
        row = session.models.find(asked.do[1])
        _begin(["get", asked.do[1], "--accept-license"], row.title if row else RECOMMENDED_TITLE)


class RECDREAMER_OT_dismiss_models(GuardedOperator, bpy.types.Operator):
    """Close this message"""

    bl_idname = "recdreamer.dismiss_models"
    bl_label = "Dismiss"

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if session.models.task and not session.models.is_busy else "It is running.")

    def run(self, context):
        session.models.task = None


class RECDREAMER_OT_read_license(GuardedOperator, bpy.types.Operator):
    """Show the text of this license"""

    bl_idname = "recdreamer.read_license"
    bl_label = "Read License"

    index: IntProperty(name="License", options={"SKIP_SAVE"})
    page: IntProperty(name="Page", description="Page of the text", default=1, min=1, max=99)

    def invoke(self, context, event):
        self.page = 1
        return context.window_manager.invoke_props_dialog(self, width=LICENSE_WIDTH_PX)

    def run(self, context):
        pass

    def draw(self, context):
        licenses = session.models.task.licenses if session.models.task is not None else ()
        if self.index >= len(licenses):
            return
        license = licenses[self.index]
        pages = license_pages(license.text)
        number = min(self.page, len(pages))
        row = self.layout.row()
        row.label(text=say(f"{license.title}, for {', '.join(license.models)}"))
        row.prop(self, "page", text=say(f"Page (of {len(pages)})"))
        column = self.layout.column(align=True)
        column.scale_y = 0.75
        for line in pages[number - 1]:
            column.label(text=line)
        self.layout.operator("wm.url_open", text=license.url, icon="URL").url = license.url


def license_pages(text: str) -> list[list[str]]:
    """The lines of a license, page by page."""
    wrapped = (textwrap.wrap(paragraph, LETTERS_PER_LINE) or [""] for paragraph in text.splitlines())
    lines = [line for paragraph in wrapped for line in paragraph]
    return [lines[start : start + LINES_PER_PAGE] for start in range(0, max(len(lines), 1), LINES_PER_PAGE)]


class RECDREAMER_OT_cancel_models(GuardedOperator, bpy.types.Operator):
    """Cancel this download. What was downloaded is kept for the next try"""

    bl_idname = "recdreamer.cancel_models"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if session.models.is_busy else "Nothing is being downloaded.")

    def run(self, context):
        session.models.task.cancel()


class RECDREAMER_OT_add_model(GuardedOperator, bpy.types.Operator):
    """Use a model of your own: a folder in diffusers format, a .safetensors file, or a folder full of them"""

    bl_idname = "recdreamer.add_model"
    bl_label = "Add Model"

    filepath: StringProperty(name="File or Folder", subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_glob: StringProperty(default="*.safetensors", options={"HIDDEN"})

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_models())

    def invoke(self, context, event):
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context):
        path = absolute_path(self.filepath, bpy.data.filepath)
        if not path:
            raise RequestError("No file or folder is chosen.", "Choose one.")
        _begin(["add", path], "Adding a model")


class RECDREAMER_OT_choose_model(GuardedOperator, bpy.types.Operator):
    """Use this model"""

    bl_idname = "recdreamer.choose_model"
    bl_label = "Use Model"

    kind: EnumProperty(name="Kind", items=[(kind, name.capitalize(), name) for kind, name in KINDS.items()])
    name: StringProperty(name="Model", description="ID or path. Empty: automatic, or none")

    @classmethod
    def description(cls, context, properties):
        row = session.models.find(properties.name) if properties.name else None
        return hint((row.reason or row.about or row.path) if row is not None else "Use this model")

    def run(self, context):
        row = session.models.find(self.name) if self.name else None
        if row is not None and row.state == "refused":
            return row.reason
        use_model(self.kind, self.name)
        return None


class RECDREAMER_OT_verify_models(GuardedOperator, bpy.types.Operator):
    """Compare every byte of the installed models with what was downloaded. Getting a model again repairs it"""

    bl_idname = "recdreamer.verify_models"
    bl_label = "Verify"

    @classmethod
    def poll(cls, context):
        has_some = any(row.state == "installed" for row in session.models.rows)
        return why_not(cls, why_not_models() or ("" if has_some else "No model is installed yet."))

    def run(self, context):
        _begin(["verify"], "Comparing every byte")


class RECDREAMER_OT_remove_model(GuardedOperator, bpy.types.Operator):
    """Delete this model from the disk, or forget one that was added; files of your own stay"""

    bl_idname = "recdreamer.remove_model"
    bl_label = "Remove"

    name: StringProperty(name="Model", description="ID or path of the model")

    @classmethod
    def poll(cls, context):
        return why_not(cls, JOB_IS_RUNNING if session.registry.running is not None else why_not_models())

    def invoke(self, context, event):
        row = session.models.find(self.name)
        title, size = (row.title, describe.gigabytes(row.bytes)) if row is not None else (self.name, "")
        is_own = row is not None and row.state == "added"
        message = (
            f"{title} is taken off the list; its files stay." if is_own else f"{title}, {size}, is deleted."
        )
        return context.window_manager.invoke_confirm(
            self, event, title="Remove Model", message=say(message), confirm_text="Remove"
        )

    def run(self, context):
        _begin(["remove", self.name], "Removing a model")


CLASSES = (
    RECDREAMER_OT_get_model,
    RECDREAMER_OT_accept_license,
    RECDREAMER_OT_dismiss_models,
    RECDREAMER_OT_read_license,
    RECDREAMER_OT_cancel_models,
    RECDREAMER_OT_add_model,
    RECDREAMER_OT_choose_model,
    RECDREAMER_OT_verify_models,
    RECDREAMER_OT_remove_model,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
