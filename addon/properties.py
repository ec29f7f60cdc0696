"""The settings of the next job, stored in the scene. Running jobs leave no state here."""

from __future__ import annotations

import math
from pathlib import Path, PureWindowsPath
from typing import Any, get_args

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)
from mathutils import Matrix

from ..backend.recdreamer.shared.protocol import (
    BUILTIN_PRIOR,
    CLASS_AZIMUTHS_DEG,
    USD_METHODS,
    JobRequest,
    RequestError,
    Stage,
    Template,
)
from .jobs.errands import CardKey
from .language.translation import pose, pose_named, say
from .pictures import previews
from .preference_access import get_preferences, model_overrides
from .shelf import studio
from .shelf.captures import Camera
from .start.properties import RecDreamerStart

TEXTURE_SIZE, FACE_COUNT = "mesh.texture_size_px", "mesh.target_faces"
"""Settings of the backend that the panel has, too."""
MIN_FACES = 100
METHODS = (
    (
        "usd",
        "Balanced Views",
        "Uniform score distillation: gives every side its share, so that no second face appears",
    ),
    ("vsd", "Sharp (VSD)", "Variational score distillation: sharper, but may put a face on the back"),
    ("esd", "Entropic (ESD)", "Entropic score distillation: VSD that partly ignores the camera"),
    ("sds", "Simple (SDS)", "Score distillation sampling: smooth, but may put a face on the back"),
    ("debiased_sds", "Debiased SDS", "SDS with clipped scores, and prompts that name the view"),
    ("perp_neg", "Perp-Neg", "SDS that is pushed away from views other than the camera's"),
    ("sds_bridge", "SDS-Bridge", "SDS, then steps from bad pictures of the prompt to good ones"),
    (
        "consdreamer",
        "ConsDreamer",
        "SDS, with the camera's view mixed into the prompt as far as the camera has turned",
    ),
    (
        "sdi",
        "Inversion (SDI)",
        "SDS with the noise that leads to the present picture: sharper, without a second network",
    ),
    (
        "usd_sdi",
        "Balanced Inversion",
        "SDI that gives every side its share: less time and memory than Balanced Views",
    ),
)
POSE_MODES = (
    ("camera", "Fixed Front", "Each view must show the pose that its camera looks at. The front faces -Y"),
    (
        "marginal",
        "Free Front",
        "Poses are balanced over all views, and the result chooses its own front, as in the paper. "
        "Needs no known cameras",
    ),
)
QUALITIES = (
    ("quick", "Draft", "A rough result in a fraction of the time"),
    ("standard", "Standard", "For most objects"),
    (
        "final",
        "Final",
        "As many iterations as in the publication of the method. The embedded model needs no more than Standard",
    ),
)
TEXTURE_SIZES = (
    ("AUTO", "Automatic", "As large as the image model and the quality deserve"),
    ("1024", "1024 px", "For small or distant objects"),
    ("2048", "2048 px", "For most objects"),
    ("4096", "4096 px", "For close-ups"),
)
SOURCES = (
    ("viewport", "View", "Captured from a 3D view", "VIEW3D", 0),
    ("turntable", "Turntable", "Rendered from objects", "CON_ROTLIKE", 1),
    ("file", "File", "An image file", "FILE_IMAGE", 2),
    ("prior", "Image Model", "Drawn by the image model", "SHADERFX", 3),
    ("clipboard", "Pasted", "From the clipboard", "PASTEDOWN", 4),
    ("sketch", "Sketch", "A drawing: an image file, or Grease Pencil", "GREASEPENCIL", 5),
    (
        "novel_view",
        "Other View",
        "Another view of a picture, drawn by the multi-view model",
        "CAMERA_DATA",
        6,
    ),
)
SHELF_VIEWS = (
    ("PICTURE", "Picture", "The pictures themselves"),
    ("MASK", "Mask", "Detected object"),
    ("MATCH", "Match", "Areas that set this pose apart (bright = strong)"),
)


def _suggest_labels(template: RecDreamerTemplate, context: bpy.types.Context, text: str) -> list[str]:
    return [pose(label) for label in CLASS_AZIMUTHS_DEG]


def show_pose(template: RecDreamerTemplate) -> bool:
    """Let the card show its pose in the language of the interface. True if it did not."""
    shown = pose(template.label)
    if template.shown_label == shown:
        return False
    template.shown_label = shown
    return True


def _show_pose(template: RecDreamerTemplate, context: bpy.types.Context) -> None:
    show_pose(template)


def _name_pose(template: RecDreamerTemplate, context: bpy.types.Context) -> None:
    """Keep the name of the pose that was typed."""
    if template.shown_label != pose(template.label):
        template.label = pose_named(template.shown_label)
        show_pose(template)


class RecDreamerTemplate(bpy.types.PropertyGroup):
    """One picture on the shelf; its image file is in the data folder."""

    image: StringProperty(name="Image", description="File name in the templates folder")
    packed: PointerProperty(
        name="Packed Image", description="The picture as the .blend file has it", type=bpy.types.Image
    )
    packed_of: StringProperty(name="Packed File", description="File name of the packed picture")
    label: StringProperty(
        name="Pose",
        description="The pose that this picture shows. Pictures of the same pose share a name",
        update=_show_pose,
    )
    # Kept, not computed by a `get`, so that a draw, or Blender while it undoes, calls no function of ours.
    shown_label: StringProperty(
        name="Pose",
        description="The pose that this picture shows. Pictures of the same pose share a name",
        search=_suggest_labels,
        search_options={"SUGGESTION"},
        update=_name_pose,
    )
    enabled: BoolProperty(name="Use", description="Use this template", default=True)
    weight: FloatProperty(
        name="Weight",
        description="Influence relative to other templates of the same pose",
        default=1.0,
        min=0.01,
        soft_max=10.0,
    )
    source: EnumProperty(name="Source", items=SOURCES, default="file")
    mirrored: BoolProperty(name="Mirrored", description="The picture is flipped left to right before use")
    has_camera: BoolProperty(name="Camera Known")
    azimuth_deg: FloatProperty(
        name="Azimuth", description="Degrees counter-clockwise seen from above; 0 is the front"
    )
    elevation_deg: FloatProperty(name="Elevation", description="Degrees above the horizon")
    c2w: FloatVectorProperty(name="Camera", description="Camera-to-world matrix, row by row", size=16)
    projection: FloatVectorProperty(name="Lens", description="Projection matrix, row by row", size=16)
    look: EnumProperty(name="Look", items=studio.LOOKS, default="SOLID")
    taken_of: StringProperty(
        name="Captured Shape", description="Digest of the mesh that Generate captured automatically"
    )

    @property
    def camera(self) -> Camera | None:
        """The camera of the picture, or None. An unset projection is all zeros."""
        if not any(self.projection):
            return None
        return Camera(
            *(Matrix([rows[i : i + 4] for i in (0, 4, 8, 12)]) for rows in (self.c2w, self.projection))
        )

    @camera.setter
    def camera(self, camera: Camera) -> None:
        self.c2w, self.projection = (
            [value for row in matrix for value in row] for matrix in (camera.c2w, camera.projection)
        )

    @property
    def path(self) -> Path:
        """In the templates folder: of a name that leads elsewhere, as in a stranger's file, its last part counts."""
        return templates_folder() / (PureWindowsPath(self.image).name or "none")

    @property
    def is_missing(self) -> bool:
        """True if the picture is not here: the .blend file may come from another computer, see packed_pictures.py."""
        return not self.path.is_file()

    @property
    def icon(self) -> int:
        return previews.icon(self.path, mirrored=self.mirrored)

    @property
    def key(self) -> CardKey:
        """The values that a verdict on this template depends on."""
        return (self.image, self.label.strip(), self.mirrored)

    def to_protocol(self) -> Template:
        return Template(
            label=self.label.strip(),
            image=self.image,
            source=self.source,
            azimuth_deg=self.azimuth_deg if self.has_camera else None,
            elevation_deg=self.elevation_deg if any(self.projection) else None,
            mirrored=self.mirrored,
            weight=self.weight,
        )


class RecDreamerSettings(bpy.types.PropertyGroup):
    """The settings that Generate uses."""

    prompt: StringProperty(name="Prompt", description="The object to create, for example: a red bear")
    method: EnumProperty(name="Method", items=METHODS, default="usd")
    pose_mode: EnumProperty(name="Views", items=POSE_MODES, default="camera")
    quality: EnumProperty(name="Quality", items=QUALITIES, default="standard")
    texture_px: EnumProperty(
        name="Texture", description="Side of the texture of the result", items=TEXTURE_SIZES
    )
    face_count: IntProperty(
        name="Faces",
        description="Triangles of the result at most; 0: as many as quality and image model deserve",
        default=0,
        min=0,
        soft_max=500_000,
        max=10_000_000,
    )
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
    keep_running: BoolProperty(
        name="Continue After Closing Blender",
        description="Keep the job running when Blender closes. Otherwise it is saved, and Resume continues it",
    )
    start: PointerProperty(type=RecDreamerStart)
    templates: CollectionProperty(type=RecDreamerTemplate)
    front: FloatProperty(
        name="Front",
        description="Direction that the object's front faces: 0° is -Y, 90° is +X. View angles are measured from it",
        subtype="ANGLE",
    )
    show_front: BoolProperty(
        name="Show Front", description="Show the front as an arrow in the 3D view; drag its ring to turn it"
    )
    show_target: BoolProperty(
        name="Show Target",
        description="Show a box in the 3D view where the result will stand, with an arrow to change its height",
    )
    shelf_view: EnumProperty(name="Show", description="What the templates show", items=SHELF_VIEWS)

    @property
    def front_deg(self) -> float:
        return math.degrees(self.front)

    @property
    def enabled_templates(self) -> list[RecDreamerTemplate]:
        return [template for template in self.templates if template.enabled]

    @property
    def has_own_templates(self) -> bool:
        """True if a template is in use that Generate did not capture automatically."""
        return any(not template.taken_of for template in self.enabled_templates)

    @property
    def rectifies_poses(self) -> bool:
        """True if the method balances poses, for which it needs templates."""
        return self.method in USD_METHODS

    @property
    def wants_turntable(self) -> bool:
        """True if Generate must keep a turntable of the start object up to date on the shelf."""
        start = self.start
        is_wanted = start.needs_object and start.auto_turntable and self.rectifies_poses
        return is_wanted and not self.has_own_templates

    @property
    def mesh_overrides(self) -> dict[str, Any]:
        """The settings of a job that say how fine its result is."""
        overrides = {}
        if self.texture_px != "AUTO":
            overrides[TEXTURE_SIZE] = int(self.texture_px)
        if self.face_count:
            overrides[FACE_COUNT] = max(MIN_FACES, self.face_count)
        return overrides

    @property
    def changes(self) -> list[str]:
        """What differs from the defaults, which are those of the preset Standard, in the words of the panel."""
        changed = []
        for name in ("quality", "texture_px", "face_count", "method", "pose_mode"):
            rna, value = self.bl_rna.properties[name], getattr(self, name)
            if value != rna.default:
                text = rna.enum_items[value].name if rna.type == "ENUM" else f"{value:,}"
                changed.append(f"{say(rna.name)}: {say(text)}")
        skipped = [stage.capitalize() for stage in get_args(Stage) if not getattr(self.start, f"run_{stage}")]
        return [*changed, *(say(f"without {stage}") for stage in skipped)]

    def to_request(
        self,
        overrides: dict[str, Any] | None = None,
        *,
        prompt_if_empty: str = "",
        with_templates: bool = True,
        with_start: bool = True,
    ) -> JobRequest:
        """The settings as a request. Raises RequestError if it cannot be run."""
        templates = self.enabled_templates if with_templates else []
        for template in templates:
            if not template.label.strip():
                raise RequestError(
                    "A template has no pose.", "Name its pose, for example: front.", "template"
                )
        missing = [template for template in templates if template.is_missing]
        if len(missing) == 1:
            raise RequestError(
                f"The image of template {missing[0].label!r} is missing.",
                "Recapture or remove the template.",
                "template",
            )
        if missing:
            raise RequestError(
                f"The images of {len(missing)} templates are missing.",
                "Press Remove Missing, or recapture them.",
                "template",
            )
        prior = get_preferences().image_model or BUILTIN_PRIOR
        request = JobRequest(
            prompt=self.prompt.strip() or prompt_if_empty,
            method=self.method,
            pose_mode=self.pose_mode,
            quality=self.quality,
            seed=self.seed,
            prior=prior,
            device=get_preferences().device,
            templates=tuple(template.to_protocol() for template in templates),
            height_m=self.height * metres_per_unit(self.id_data),
            keep_running=self.keep_running,
            overrides=model_overrides(prior, self.method) | self.mesh_overrides | (overrides or {}),
            **(self.start.to_fields() if with_start else {}),
        )
        request.validate()
        return request


def templates_folder() -> Path:
    """Folder of all template pictures. Removing a template keeps its file, so that undo works."""
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
