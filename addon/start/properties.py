"""Settings for the start of the next job: the prompt, an object, an object to paint, or an earlier result."""

from __future__ import annotations

from typing import Any, get_args

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, PointerProperty, StringProperty

from ...backend.recdreamer.shared.protocol import START_MESH, JobRequest, RequestError, Stage
from .. import describe
from ..jobs.placement import start_job_id
from ..jobs.registry import Job
from ..objects.evaluation import MESHABLE
from ..objects.hiding import is_left_out, is_shown
from ..objects.object_keys import find_imported
from ..session import session
from .fitness import verdict_of
from .regions import choices

KINDS = (
    ("prompt", "From Prompt", "Start from the prompt alone", "TEXT", 0),
    ("object", "From Object", "Start from the shape of an object and let the prompt change it", "OBJECT_DATA", 1),
    ("texture", "Paint Only", "Keep the object as it is and paint a texture on it", "TPAINT_HLT", 2),
    ("continue", "From Result", "Start from the result of an earlier job", "LOOP_FORWARDS", 3),
)  # fmt: skip


def _has_faces(start: RecDreamerStart, obj: bpy.types.Object) -> bool:
    # Called for every object of the file; check_object() rejects those of other scenes.
    if start.kind == "texture":
        return obj.type == "MESH"
    return obj.type in MESHABLE or (obj.type == "EMPTY" and (_has_instances(obj) or bool(obj.children)))


def _has_instances(obj: bpy.types.Object) -> bool:
    """True for what *Add › Collection Instance* makes."""
    return obj.instance_type == "COLLECTION" and obj.instance_collection is not None


_shown_regions: list[tuple[str, str, str, str, int]] = []
"""Keeps the strings of the dynamic enum alive, because Blender does not."""


def _region_items(start: RecDreamerStart, context: bpy.types.Context) -> list[tuple[str, str, str, str, int]]:
    obj = start.region_object
    found = [("EVERYTHING", "Everything", "All of it may change", "WORLD")]
    found += [] if obj is None else choices(obj)
    if start.region and start.region not in [name for name, *_ in found[1:]]:
        found.append((start.region, start.region, "This region no longer exists", "ERROR"))
    _shown_regions[:] = [(*item, number) for number, item in enumerate(found)]
    return _shown_regions


def _get_region(start: RecDreamerStart) -> int:
    names = [name for name, *_ in _region_items(start, bpy.context)]
    return names.index(start.region, 1) if start.region else 0


def _set_region(start: RecDreamerStart, number: int) -> None:
    start.region = _region_items(start, bpy.context)[number][0] if number else ""


def _search_jobs(start: RecDreamerStart, context: bpy.types.Context, text: str) -> list[tuple[str, str]]:
    return [
        (job.id, describe.one_line(job.request.prompt))
        for job in session.registry.jobs
        if not job.why_not_continue
    ]


class RecDreamerStart(bpy.types.PropertyGroup):
    """Settings for the start of a job."""

    kind: EnumProperty(name="Start", description="What the job starts from", items=KINDS, default="prompt")
    object: PointerProperty(
        name="Object",
        description="The object to start from, with its modifiers and transform applied",
        type=bpy.types.Object,
        poll=_has_faces,
    )
    use_children: BoolProperty(
        name="Include Children",
        description="Include the children of the object, so that a block-out of several parts becomes one shape",
        default=True,
    )
    keep_size: BoolProperty(
        name="Keep Size",
        description="Give the result the size of its start. Otherwise it gets the height below",
        default=True,
    )
    job: StringProperty(
        name="Result",
        description="The finished job to start from",
        search=_search_jobs,
        search_options=set(),
    )
    strength: FloatProperty(
        name="Strength",
        description="How much the result may differ from the start: 0 keeps its shape, 1 ignores it",
        default=0.7,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    region: StringProperty(
        name="Region",
        description="Name of the vertex group or color attribute that may change. Empty: everything may change",
    )
    region_item: EnumProperty(
        name="Limit to",
        description="Change only this part: a vertex group, or the white areas of a painted mask",
        items=_region_items,
        get=_get_region,
        set=_set_region,
    )
    # Three booleans, because a click on an enum of flags would disable the other flags.
    run_shape: BoolProperty(
        name="Shape",
        description="Form the object from the prompt. A skipped stage passes its input through",
        default=True,
    )
    run_geometry: BoolProperty(
        name="Geometry",
        description="Refine the surface of the shape. A skipped stage passes its input through",
        default=True,
    )
    run_texture: BoolProperty(
        name="Texture",
        description="Paint the finished surface. A skipped stage passes its input through",
        default=True,
    )
    auto_turntable: BoolProperty(
        name="Auto Turntable",
        description="If the shelf is empty, Generate captures a turntable of the object as pose templates (4 renders)",
        default=True,
    )

    @property
    def stages(self) -> set[str]:
        """The enabled stages."""
        return {stage for stage in get_args(Stage) if getattr(self, f"run_{stage}")}

    @stages.setter
    def stages(self, stages: set[str]) -> None:
        for stage in get_args(Stage):
            setattr(self, f"run_{stage}", stage in stages)

    @property
    def needs_object(self) -> bool:
        return self.kind in ("object", "texture")

    @property
    def has_usable_object(self) -> bool:
        """True if there is an object, from which a job of this kind could start."""
        try:
            check_object(self.object, self.id_data, self.kind)
        except RequestError:
            return False
        return True

    @property
    def source_job(self) -> Job | None:
        """The job to continue."""
        return session.registry.find(self.job)

    @property
    def region_object(self) -> bpy.types.Object | None:
        """The mesh object that a region can belong to, or None."""
        if self.needs_object:
            return self.object if self.object is not None and self.object.type == "MESH" else None
        return self.earlier_result

    @property
    def earlier_result(self) -> bpy.types.Object | None:
        """The imported object of the job to continue, or None."""
        return find_imported(self.job, self.id_data) if self.kind == "continue" and self.job else None

    @property
    def region_name(self) -> str:
        return self.region if self.region_object is not None else ""

    @property
    def keeps_size(self) -> bool:
        """True if the height setting is ignored. Painting and regions always keep the size."""
        return self.kind != "prompt" and (self.keep_size or self.kind == "texture" or bool(self.region_name))

    @property
    def children(self) -> list[bpy.types.Object]:
        """The objects below the chosen one, if they are included."""
        if self.kind != "object" or not self.use_children:
            return []
        return [obj for obj in self.object.children_recursive if obj.type in MESHABLE or _has_instances(obj)]

    @property
    def objects(self) -> list[bpy.types.Object]:
        """The chosen object, and those of its children that viewports show."""
        scene = self.id_data
        view_layer = bpy.context.view_layer if scene == bpy.context.scene else scene.view_layers[0]
        shown = [obj for obj in self.children if not is_left_out(obj) and is_shown(obj, view_layer)]
        return [self.object, *shown]

    @property
    def left_out(self) -> str:
        """What of the object is left out, in one sentence; empty if nothing is."""
        hidden = len(self.children) + 1 - len(self.objects)
        if not hidden:
            return ""
        objects = f"{hidden} hidden {'object' if hidden == 1 else 'objects'}"
        return f"Of {self.object.name!r}, {objects} below it {'is' if hidden == 1 else 'are'} left out."

    def to_fields(self) -> dict[str, Any]:
        """The request fields for the start. Raises RequestError if something is missing."""
        self._check()
        stages = ("texture",) if self.kind == "texture" else self.stages
        return {
            "start": self.kind,
            "stages": tuple(stage for stage in get_args(Stage) if stage in stages),
            "start_mesh": START_MESH if self.needs_object or self.region_name else "",
            "start_job": str(self.source_job.folder.root) if self.kind == "continue" else "",
            "strength": self.strength,
        }

    def from_request(self, request: JobRequest) -> None:
        """Restore the start of an earlier job, except its object."""
        self.kind, self.strength = request.start, request.strength
        if request.start != "texture":
            self.stages = set(request.stages)
        self.job = start_job_id(request)

    def _check_empty(self) -> None:
        """Importers hang the parts of a model under an Empty."""
        obj = self.object
        if obj.type != "EMPTY" or _has_instances(obj) or len(self.objects) > 1:
            return
        if not any(child.type in MESHABLE for child in obj.children_recursive):
            raise RequestError(f"{obj.name!r} is an Empty without meshes below it.", "Pick a mesh object.")
        if not self.use_children:
            raise RequestError(
                f"{obj.name!r} is an Empty.", "Enable Include Children, or pick one of the meshes below it."
            )
        raise RequestError(f"All meshes below the Empty {obj.name!r} are hidden.", "Show them, or pick one.")

    def _check(self) -> None:
        """Checks that take no time, because they run on every redraw of the panel."""
        if not self.stages and self.kind != "texture":
            raise RequestError("All stages are disabled.", "Enable Shape, Geometry or Texture.")
        if self.needs_object:
            check_object(self.object, self.id_data, self.kind)
            self._check_empty()
            problem = verdict_of(self.objects, self.kind).problem
            if problem is not None:
                raise RequestError(f"{self.object.name!r}: {problem.message}", problem.hint)
        if self.kind == "continue":
            job = self.source_job
            if not self.job:
                raise RequestError(
                    "No result is chosen to start from.",
                    "Choose a finished job, or select its imported object.",
                    "start",
                )
            if job is None:
                raise RequestError(f"The job {self.job} was deleted.", "Choose another result to start from.")
            if job.why_not_continue:
                raise RequestError(job.why_not_continue, "Choose another result to start from.")
        obj = self.region_object
        if obj is not None and self.region:
            if self.region not in [name for name, *_ in choices(obj)]:
                raise RequestError(
                    f"{obj.name!r} has no vertex group or color attribute {self.region!r}.",
                    "Choose another region, or Everything.",
                )
            _check_mode(obj)


def check_object(obj: bpy.types.Object | None, scene: bpy.types.Scene, kind: str) -> None:
    """Raise RequestError unless a job of this kind can start from the object."""
    if obj is None:
        raise RequestError(
            f"No object is picked to {'paint' if kind == 'texture' else 'start from'}.",
            "Pick one with the eyedropper.",
            "start",
        )
    name = repr(obj.name)
    if scene.objects.get(obj.name) != obj:
        raise RequestError(f"{name} is no longer in this scene.", "Pick another object.")
    if obj.type == "EMPTY" and kind == "texture":
        raise RequestError(
            f"{name} is an Empty, which cannot be painted.",
            "Pick one of the meshes below it, or join them (Object › Join) and pick the result.",
        )
    if obj.type not in MESHABLE | {"EMPTY"}:
        raise RequestError(f"{name} is not a mesh.", "Pick a mesh object.")
    if kind == "texture" and obj.type != "MESH":
        raise RequestError(f"{name} is not a mesh.", "Pick a mesh object, or convert it (Object › Convert).")
    _check_mode(obj)
    if obj.hide_viewport:
        raise RequestError(f"{name} is disabled in viewports.", "Enable it in the Outliner.")
    if obj.type == "MESH" and not obj.data.polygons and not obj.modifiers and kind == "texture":
        raise RequestError(f"{name} has no faces to paint on.", "Add some, or pick another object.")
    if kind == "texture" and not obj.data.is_editable:
        raise RequestError(
            f"{name} is linked from another file.", "Make it local first (Object › Relations)."
        )
    if kind == "texture" and (others := _others_with_mesh_of(obj)):
        raise RequestError(
            f"{name} shares its mesh with {others} other object{'s' if others > 1 else ''}.",
            "Make it single-user first (Object › Relations › Make Single User).",
        )


def _others_with_mesh_of(obj: bpy.types.Object) -> int:
    """Number of other objects that painting would change, too."""
    if obj.data.users == 1:
        return 0
    return sum(other.data == obj.data and other != obj for other in bpy.data.objects if other.users_scene)


def _check_mode(obj: bpy.types.Object) -> None:
    if obj.mode == "EDIT":
        raise RequestError(f"{obj.name!r} is in Edit Mode.", "Leave Edit Mode first.", "mode")


CLASSES = (RecDreamerStart,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
