"""The request that the artist is editing, kept with the scene. Nothing about running jobs lives here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from ..backend.recdreamer.protocol import (
    BUILTIN_PRIOR,
    CLASS_AZIMUTHS_DEG,
    JobRequest,
    RequestError,
    Template,
)
from . import previews
from .preferences import get_preferences

METHODS = (
    ("usd", "USD", "Uniform score distillation: every side of the object gets its share, so no second face"),
    ("vsd", "VSD", "Variational score distillation: crisp, but follows the front bias of the prior"),
    ("esd", "ESD", "Entropic score distillation: VSD whose branch half forgets the camera"),
    ("sds", "SDS", "Score distillation sampling: simple and smooth, follows the front bias of the prior"),
    (
        "debiased_sds",
        "Debiased SDS",
        "SDS with clipped scores, and prompts that say from where they are seen",
    ),
    ("perp_neg", "Perp-Neg", "SDS that is pushed away from the views that a camera does not see"),
    ("sds_bridge", "SDS-Bridge", "SDS, then steps from bad pictures of the prompt to good ones"),
)
POSE_MODES = (
    ("camera", "By Camera", "Ask each view for the pose that its camera looks at"),
    ("marginal", "By Balance", "Balance the poses over all views, as in the paper; needs no known cameras"),
)
QUALITIES = (
    ("quick", "Quick", "A rough result in a fraction of the time"),
    ("standard", "Standard", "The full number of iterations"),
)
SOURCES = (
    ("viewport", "Viewport", "Captured from a 3D view", "VIEW3D", 0),
    ("turntable", "Turntable", "Rendered from an object", "CON_ROTLIKE", 1),
    ("file", "File", "An image file", "FILE_IMAGE", 2),
    ("prior", "Prior", "Drawn by the prior", "SHADERFX", 3),
)


def _suggest_labels(template: RecDreamerTemplate, context: bpy.types.Context, text: str) -> list[str]:
    return list(CLASS_AZIMUTHS_DEG)


class RecDreamerTemplate(bpy.types.PropertyGroup):
    """One picture on the shelf; the picture itself lies in the data folder."""

    image: StringProperty(name="Image", description="File name in the templates folder")
    label: StringProperty(
        name="Pose",
        description="The pose that this picture shows. Pictures of one pose share a name",
        search=_suggest_labels,
        search_options={"SUGGESTION"},
    )
    enabled: BoolProperty(name="Use", description="Use this template", default=True)
    source: EnumProperty(name="Source", items=SOURCES, default="file")
    mirrored: BoolProperty(name="Mirrored", description="The picture is flipped left to right before use")
    has_camera: BoolProperty(name="Camera Known")
    azimuth_deg: FloatProperty(
        name="Azimuth", description="Degrees counter-clockwise seen from above; 0 is the front (-Y)"
    )
    elevation_deg: FloatProperty(name="Elevation", description="Degrees above the horizon")

    @property
    def path(self) -> Path:
        return templates_folder() / self.image

    @property
    def icon(self) -> int:
        return previews.icon(self.path, mirrored=self.mirrored)

    def to_protocol(self) -> Template:
        return Template(
            label=self.label.strip(),
            image=self.image,
            source=self.source,
            azimuth_deg=self.azimuth_deg if self.has_camera else None,
            elevation_deg=self.elevation_deg if self.has_camera else None,
            mirrored=self.mirrored,
        )


class RecDreamerSettings(bpy.types.PropertyGroup):
    """What the next press of Generate asks for."""

    prompt: StringProperty(name="Prompt", description="The object to make, for example: a red bear")
    method: EnumProperty(name="Method", items=METHODS, default="usd")
    pose_mode: EnumProperty(name="Poses", items=POSE_MODES, default="camera")
    quality: EnumProperty(name="Quality", items=QUALITIES, default="standard")
    seed: IntProperty(
        name="Seed", description="The same seed and settings give the same object", default=0, min=0
    )
    height: FloatProperty(
        name="Height",
        description="Height of the finished object",
        default=1.0,
        min=0.001,
        soft_max=10.0,
        unit="LENGTH",
    )
    prior: StringProperty(
        name="Prior",
        description="The diffusion model: 'builtin', a folder in diffusers format, or a model id",
        default=BUILTIN_PRIOR,
    )
    keep_running: BoolProperty(
        name="Keep Running Without Blender",
        description="Go on when Blender is closed; otherwise the job saves itself and waits for Resume",
    )
    templates: CollectionProperty(type=RecDreamerTemplate)

    @property
    def enabled_templates(self) -> list[RecDreamerTemplate]:
        return [template for template in self.templates if template.enabled]

    def to_request(self, overrides: dict[str, Any] | None = None) -> JobRequest:
        """The request as it stands. Raises RequestError when it cannot be run."""
        for template in self.enabled_templates:
            if not template.label.strip():
                raise RequestError("A template has no pose.", "Name its pose, for example: front.")
            if not template.path.is_file():
                raise RequestError(
                    f"The picture of template {template.label!r} is gone.",
                    "Remove the template or make it anew.",
                )
        request = JobRequest(
            prompt=self.prompt.strip(),
            method=self.method,
            pose_mode=self.pose_mode,
            quality=self.quality,
            seed=self.seed,
            prior=self.prior.strip() or BUILTIN_PRIOR,
            device=get_preferences().device,
            templates=tuple(template.to_protocol() for template in self.enabled_templates),
            height_m=self.height * metres_per_unit(self.id_data),
            keep_running=self.keep_running,
            overrides=overrides or {},
        )
        request.validate()
        return request

    def from_request(self, request: JobRequest) -> None:
        """Take over the settings of an earlier job, all but its templates."""
        for name in ("prompt", "method", "pose_mode", "quality", "prior", "keep_running"):
            setattr(self, name, asdict(request)[name])
        self.seed = min(request.seed, 2**31 - 1)
        self.height = request.height_m / metres_per_unit(self.id_data)


def templates_folder() -> Path:
    """Where the pictures of all shelves lie; removing a template leaves its picture, so undo works."""
    return get_preferences().folder / "templates"


def metres_per_unit(scene: bpy.types.Scene) -> float:
    return scene.unit_settings.scale_length if scene.unit_settings.system != "NONE" else 1.0


CLASSES = (RecDreamerTemplate, RecDreamerSettings)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.recdreamer = PointerProperty(type=RecDreamerSettings)


def unregister() -> None:
    del bpy.types.Scene.recdreamer
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
