"""Where the next job begins: with the prompt, an object, an object to paint, or an earlier result."""

from __future__ import annotations

from typing import Any, get_args

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, PointerProperty, StringProperty

from ..backend.recdreamer.protocol import JobFolder, JobRequest, RequestError, Stage
from .hiding import is_left_out
from .jobs import Job
from .mesh_capture import MESHABLE
from .placement import START_MESH, Placement
from .session import session
from .tags import find_imported, find_start

KINDS = (
    ("prompt", "From Prompt", "Begin with the prompt alone", "TEXT", 0),
    ("object", "From Object", "Begin with the shape of an object and let the prompt change it", "OBJECT_DATA", 1),
    ("texture", "Paint Only", "Keep the object as it is and paint a texture onto it", "TPAINT_HLT", 2),
    ("continue", "Continue", "Begin with what an earlier job has made", "LOOP_FORWARDS", 3),
)  # fmt: skip


def _has_faces(start: RecDreamerStart, obj: bpy.types.Object) -> bool:
    # It is asked for every object of the file; check_object() tells those of other scenes.
    return obj.type == "MESH" if start.kind == "texture" else obj.type in MESHABLE


def _search_jobs(start: RecDreamerStart, context: bpy.types.Context, text: str) -> list[tuple[str, str]]:
    return [(job.id, job.request.prompt) for job in session.registry.jobs if not job.why_not_continue]


class RecDreamerStart(bpy.types.PropertyGroup):
    """The artist's choice of a start."""

    kind: EnumProperty(name="Start", description="Where the job begins", items=KINDS, default="prompt")
    object: PointerProperty(
        name="Object",
        description="The object to start from, as its modifiers and its transform leave it",
        type=bpy.types.Object,
        poll=_has_faces,
    )
    use_children: BoolProperty(
        name="Include Children",
        description="Take the children of the object along, so that a block-out of several parts is one shape",
        default=True,
    )
    keep_size: BoolProperty(
        name="Keep Size",
        description="Make the result as high as the object. Otherwise it gets the height below",
        default=True,
    )
    job: StringProperty(
        name="Result",
        description="The finished job to continue",
        search=_search_jobs,
        search_options=set(),
    )
    strength: FloatProperty(
        name="Strength",
        description="How far the result may leave the shape it starts from: 0 keeps it, 1 forgets it",
        default=0.7,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    region: StringProperty(
        name="Region",
        description="Vertex group: only this part changes. Empty: everything may change",
    )
    # Three switches and no enum: a click on an enum of flags would switch the others off.
    run_shape: BoolProperty(
        name="Shape",
        description="Form the object from the prompt. A stage that is left out passes on what it was given",
        default=True,
    )
    run_geometry: BoolProperty(
        name="Geometry",
        description="Refine the surface of the shape. A stage that is left out passes on what it was given",
        default=True,
    )
    run_texture: BoolProperty(
        name="Texture",
        description="Paint the finished surface. A stage that is left out passes on what it was given",
        default=True,
    )
    auto_turntable: BoolProperty(
        name="Auto Turntable",
        description="With an empty shelf, take a turntable of the object as pose templates on Generate",
        default=True,
    )

    @property
    def stages(self) -> set[str]:
        """What is switched on."""
        return {stage for stage in get_args(Stage) if getattr(self, f"run_{stage}")}

    @stages.setter
    def stages(self, stages: set[str]) -> None:
        for stage in get_args(Stage):
            setattr(self, f"run_{stage}", stage in stages)

    @property
    def needs_object(self) -> bool:
        return self.kind in ("object", "texture")

    @property
    def source_job(self) -> Job | None:
        """The job to continue."""
        return session.registry.find(self.job)

    @property
    def region_object(self) -> bpy.types.Object | None:
        """The object whose vertex groups can be the region, or None."""
        if self.needs_object:
            return self.object if self.object is not None and self.object.type == "MESH" else None
        return find_imported(self.job, self.id_data) if self.kind == "continue" and self.job else None

    @property
    def region_name(self) -> str:
        return self.region if self.region_object is not None else ""

    @property
    def objects(self) -> list[bpy.types.Object]:
        """The picked object, with its children where they belong to it."""
        if self.kind != "object" or not self.use_children:
            return [self.object]
        children = [obj for obj in self.object.children_recursive if obj.type in MESHABLE]
        return [self.object, *(obj for obj in children if not is_left_out(obj))]

    def to_fields(self) -> dict[str, Any]:
        """The fields of the request that say where it starts. Raises RequestError when something is missing."""
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
        """Take over the start of an earlier job, all but its object."""
        self.kind, self.strength = request.start, request.strength
        if request.start != "texture":
            self.stages = set(request.stages)
        self.job = request.start_job.replace("\\", "/").rstrip("/").rpartition("/")[2]

    def pick_object_of(self, folder: JobFolder) -> None:
        """Pick the object that an earlier job started from, and its region. Raises RequestError."""
        placement = Placement.read(folder)
        self.object = find_start(placement.object, placement.object_id, self.id_data)
        self.region = placement.region

    def _check(self) -> None:
        """What can be told without looking at the mesh: it is asked whenever the panel is drawn."""
        if not self.stages and self.kind != "texture":
            raise RequestError("All stages are switched off.", "Switch on Shape, Geometry or Texture.")
        if self.needs_object:
            check_object(self.object, self.id_data, self.kind)
        if self.kind == "continue":
            job = self.source_job
            if not self.job:
                raise RequestError(
                    "There is no result to continue.", "Choose an earlier job, or select its imported object."
                )
            if job is None:
                raise RequestError(f"The job {self.job} is gone.", "Choose another result to continue.")
            if job.why_not_continue:
                raise RequestError(job.why_not_continue, "Choose another result to continue.")
        obj = self.region_object
        if obj is not None and self.region:
            if obj.vertex_groups.get(self.region) is None:
                raise RequestError(
                    f"{obj.name!r} has no vertex group {self.region!r}.",
                    "Choose another region, or leave it empty.",
                )
            _check_mode(obj)


def check_object(obj: bpy.types.Object | None, scene: bpy.types.Scene, kind: str) -> None:
    """Raise RequestError unless a job of this kind can start from the object."""
    if obj is None:
        purpose = "paint" if kind == "texture" else "start from"
        raise RequestError(f"No object is picked to {purpose}.", "Pick one with the eyedropper.")
    name = repr(obj.name)
    if scene.objects.get(obj.name) != obj:
        raise RequestError(f"{name} is not in this scene any more.", "Pick another object.")
    if obj.type not in MESHABLE or (kind == "texture" and obj.type != "MESH"):
        raise RequestError(f"{name} is no mesh.", "Pick a mesh object, or convert it (Object › Convert).")
    _check_mode(obj)
    if obj.hide_viewport:
        raise RequestError(f"{name} is disabled in viewports.", "Enable it in the Outliner.")
    if obj.type == "MESH" and not obj.data.polygons and not obj.modifiers and kind == "texture":
        raise RequestError(f"{name} has no faces to paint on.", "Add some, or pick another object.")
    if kind == "texture" and not obj.data.is_editable:
        raise RequestError(f"{name} belongs to another file.", "Make it local first (Object › Relations).")
    if kind == "texture" and (others := _others_with_mesh_of(obj)):
        raise RequestError(
            f"{name} shares its mesh with {others} other object{'s' if others > 1 else ''}.",
            "Make it single-user first (Object › Relations › Make Single User).",
        )


def _others_with_mesh_of(obj: bpy.types.Object) -> int:
    """How many other objects a painting would change as well."""
    if obj.data.users == 1:
        return 0
    return sum(other.data == obj.data and other != obj for other in bpy.data.objects if other.users_scene)


def _check_mode(obj: bpy.types.Object) -> None:
    if obj.mode == "EDIT":
        raise RequestError(f"{obj.name!r} is in Edit Mode.", "Leave Edit Mode first.")


CLASSES = (RecDreamerStart,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
