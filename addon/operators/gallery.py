"""Background work for the shelf: pictures drawn by models to choose from, and the template check."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty

from ...backend.recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, NO_PROMPT, RequestError
from .. import describe
from ..jobs import environment, errands
from ..jobs.errands import Errand, Gallery
from ..jobs.task import Task
from ..preference_access import absolute_path, get_preferences
from ..session import session
from ..shelf import pictures
from .cards import CaptureOperator, CardOperator, add_template
from .guarded import STATES, GuardedOperator, switched, why_not
from .jobs import why_not_start


def why_errand_busy() -> str:
    """Why no errand can be started; only one can run at a time."""
    errand = session.errand
    is_running = errand is not None and errand.task.is_running and not errand.is_quiet
    return "Pictures are being drawn or checked. Wait, or cancel it." if is_running else ""


class ErrandOperator(GuardedOperator, bpy.types.Operator):
    """Base of operators that start background work for the shelf."""

    is_quiet = False

    def run(self, context):
        command = environment.run_command(get_preferences().find_interpreter())
        session.end_quiet_errand()
        session.errand = Errand(*self.start(context, command), is_quiet=self.is_quiet)

    def start(self, context: bpy.types.Context, command: list[str]) -> tuple[Task, Callable[[], None]]:
        """The task and the function that reads its result. Raises RequestError."""
        raise NotImplementedError


class RECDREAMER_OT_draw_samples(ErrandOperator):
    """Draw pictures of the prompt with the image model, sorted by pose, to choose templates from"""

    bl_idname = "recdreamer.draw_samples"
    bl_label = "Suggest Pictures"

    @classmethod
    def poll(cls, context):
        prompt = context.scene.recdreamer.prompt.strip()
        return why_not(
            cls, why_errand_busy() or why_not_start() or ("" if prompt else "The prompt is empty.")
        )

    def start(self, context, command):
        request = context.scene.recdreamer.to_request(with_templates=False, with_start=False)
        folder = errands.new_folder(get_preferences().folder / "galleries", request.prompt)

        def collect() -> None:
            session.gallery = Gallery("prior", errands.read_gallery(folder))

        return errands.gallery_task(command, request, folder, get_preferences().folder), collect


class RECDREAMER_OT_draw_novel_views(CardOperator, ErrandOperator):
    """Draw this picture from other sides with the multi-view model, to choose templates from"""

    bl_idname = "recdreamer.draw_novel_views"
    bl_label = "Draw Other Views"

    @classmethod
    def poll(cls, context):
        reason = why_errand_busy() or why_not_start()
        if not get_preferences().views_model:
            reason = "Choose the folder of a multi-view model in the RecDreamer preferences first."
        return why_not(cls, reason)

    def start(self, context, command):
        template = self.find(context)
        if template.is_missing:
            raise RequestError("The image of this template is missing.", "Recapture or remove it.")
        folder = errands.new_folder(get_preferences().folder / "galleries", template.label)
        picture = template.path
        if template.mirrored:
            picture = pictures.mirror_picture(picture, folder)
        start_deg = (
            template.azimuth_deg if template.has_camera else CLASS_AZIMUTHS_DEG.get(template.label, 0.0)
        )

        def collect() -> None:
            session.gallery = Gallery("novel_view", errands.read_gallery(folder), start_deg)

        model = absolute_path(get_preferences().views_model)
        device = get_preferences().device
        return errands.views_task(command, picture, model, device, folder), collect


class RECDREAMER_OT_check_templates(ErrandOperator):
    """Test how each picture will be understood: object mask and recognized pose"""

    bl_idname = "recdreamer.check_templates"
    bl_label = "Check Templates"

    is_quiet: BoolProperty(
        name="Quiet",
        description="Give way to everything else, and say nothing if it fails",
        options={"SKIP_SAVE", "HIDDEN"},
    )

    @classmethod
    def poll(cls, context):
        reason = why_errand_busy() or get_preferences().why_no_backend
        if not reason and not context.scene.recdreamer.enabled_templates:
            reason = "There is no template to check. Add or enable one first."
        return why_not(cls, reason)

    def start(self, context, command):
        settings = context.scene.recdreamer
        request = settings.to_request(prompt_if_empty=NO_PROMPT, with_start=False)
        cards = settings.enabled_templates
        keys = [template.key for template in cards]
        folder = errands.new_folder(get_preferences().folder / "checks", request.prompt)

        def collect() -> None:
            session.check = errands.read_check(folder, keys)

        images = [template.path for template in cards]
        return errands.check_task(command, request, images, folder, get_preferences().folder), collect


class RECDREAMER_OT_cancel_errand(GuardedOperator, bpy.types.Operator):
    """Cancel drawing or checking"""

    bl_idname = "recdreamer.cancel_errand"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if why_errand_busy() else "Nothing is being drawn or checked.")

    def run(self, context):
        session.errand.task.cancel()


class GalleryOperator(GuardedOperator, bpy.types.Operator):
    """Base of operators on the pictures of the gallery."""

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if session.gallery else "There are no pictures to choose from.")


class RECDREAMER_OT_pick_sample(GalleryOperator):
    """Select or deselect this picture"""

    bl_idname = "recdreamer.pick_sample"
    bl_label = "Select Picture"

    index: IntProperty(options={"SKIP_SAVE"})
    state: EnumProperty(name="State", items=STATES, options={"SKIP_SAVE"})

    def run(self, context):
        if not 0 <= self.index < len(session.gallery.samples):
            return f"There is no picture {self.index}."
        is_picked = self.index in session.gallery.picked
        if switched(self.state, is_picked) != is_picked:
            session.gallery.picked ^= {self.index}
        return ""


class RECDREAMER_OT_add_picked(CaptureOperator):
    """Add the selected pictures to the shelf"""

    bl_idname = "recdreamer.add_picked"
    bl_label = "Add Selected"

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if session.gallery and session.gallery.picked else "No picture is selected.")

    def capture(self, context, folder):
        gallery = session.gallery
        samples = [gallery.samples[index] for index in sorted(gallery.picked)]
        paths = [_copied(sample.image, folder) for sample in samples]
        for sample, path in zip(samples, paths, strict=True):
            label, azimuth_deg = sample.label, CLASS_AZIMUTHS_DEG.get(sample.label)
            if sample.azimuth_deg is not None:
                azimuth_deg = (gallery.start_deg + sample.azimuth_deg) % 360
                label = describe.turntable_label(azimuth_deg)
            template = add_template(context, path, label, gallery.source)
            if azimuth_deg is not None:
                template.has_camera, template.azimuth_deg = True, azimuth_deg
        session.gallery = None


class RECDREAMER_OT_discard_gallery(GalleryOperator):
    """Discard these pictures"""

    bl_idname = "recdreamer.discard_gallery"
    bl_label = "Discard"

    def run(self, context):
        session.gallery = None


def _copied(picture: Path, folder: Path) -> Path:
    try:
        return Path(shutil.copyfile(picture, pictures.new_picture(folder)))
    except OSError as error:
        raise RequestError(
            f"The picture {picture.name} cannot be copied ({error.strerror or error}).",
            "Draw the pictures again.",
        ) from error


CLASSES = (
    RECDREAMER_OT_draw_samples,
    RECDREAMER_OT_draw_novel_views,
    RECDREAMER_OT_check_templates,
    RECDREAMER_OT_cancel_errand,
    RECDREAMER_OT_pick_sample,
    RECDREAMER_OT_add_picked,
    RECDREAMER_OT_discard_gallery,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
