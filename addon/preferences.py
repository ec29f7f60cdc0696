"""Preferences: data folder, Python interpreter of the backend, device, and where jobs run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty

from .. import __package__ as base_package
from ..backend.recdreamer.shared.protocol import BUILTIN_PRIOR, RequestError
from .jobs import environment
from .jobs.registry import default_data_folder
from .panels.backend import draw_backend
from .panels.model_lists import draw_models
from .panels.shortcuts import draw_shortcuts
from .preference_access import DEVICES, absolute_path, model_in_full
from .trouble import Reason


def _make_absolute(name: str):
    """Update function of a path: it is resolved when it is set, against the file that is open then."""
    return _resolve(name, lambda typed: absolute_path(typed, bpy.data.filepath))


def _name_in_full(name: str):
    """The same of a model's name: a path in full, because a job has another working folder. An ID is no path."""
    return _resolve(name, lambda typed: model_in_full(typed, bpy.data.filepath))


def _resolve(name: str, resolved: Callable[[str], str]):
    def update(preferences: RecDreamerPreferences, context: bpy.types.Context) -> None:
        typed = getattr(preferences, name)
        value = resolved(typed)
        if value != typed:
            setattr(preferences, name, value)

    return update


BUILDS = (
    (environment.AUTOMATIC, "Automatic", "Install what fits the graphics card and its driver"),
    ("cuda13", "NVIDIA, CUDA 13", "For GeForce GTX 16, RTX 20 and newer, with a driver from 580 on"),
    ("cuda12", "NVIDIA, CUDA 12.6", "For GeForce GTX 900 to RTX 40 with an older driver"),
    ("cpu", "CPU", "For computers without an NVIDIA card; enough for the built-in model"),
)
DEFAULT_CLUSTER = "localhost:10001"
"""What a tunnel leads to."""
PLACES = (
    ("here", "This Computer", "Jobs run on this computer"),
    (
        "cluster",
        "A Cluster",
        "Jobs run on a Ray cluster, such as one computer with a GPU. See docs/cluster.md",
    ),
)


class RecDreamerPreferences(bpy.types.AddonPreferences):
    bl_idname = base_package

    data_folder: StringProperty(
        name="Data Folder",
        description="Folder for jobs, templates and the backend. It stays when the extension is removed",
        subtype="DIR_PATH",
        default=str(default_data_folder()),
        update=_make_absolute("data_folder"),
    )
    backend_python: StringProperty(
        name="Python",
        description="Interpreter with the backend's dependencies. Empty: the one that Install Backend creates",
        subtype="FILE_PATH",
        update=_make_absolute("backend_python"),
    )
    build: EnumProperty(
        name="Hardware", description="Which build of PyTorch Install Backend downloads", items=BUILDS
    )
    wheels_folder: StringProperty(
        name="Wheels",
        description="Folder with all wheels of the backend and of uv, to install from without network",
        subtype="DIR_PATH",
    )
    image_model: StringProperty(
        name="Image Model",
        description="The model that draws the prompt: its ID in the list of models, or its path",
        default=BUILTIN_PRIOR,
        update=_name_in_full("image_model"),
    )
    extractor: StringProperty(
        name="Pose Extractor",
        description="What tells poses apart, for any image model but the built-in one. Empty: DINOv2 small",
        update=_name_in_full("extractor"),
    )
    tiny_decoder: StringProperty(
        name="Tiny Decoder",
        description="A small decoder that makes steps with Stable Diffusion cheaper. Empty: none",
        update=_name_in_full("tiny_decoder"),
    )
    device: EnumProperty(name="Device", description="Which device runs jobs", items=DEVICES)
    views_model: StringProperty(
        name="Multi-View Model",
        description="Folder of a model in diffusers format that draws a picture from other sides, such as Zero-1-to-3",
        subtype="DIR_PATH",
        update=_make_absolute("views_model"),
    )
    place: EnumProperty(name="Where to Run", description="Which computer runs jobs", items=PLACES)
    cluster: StringProperty(
        name="Address",
        description="HOST:PORT of the cluster. A tunnel makes it localhost:10001",
        default=DEFAULT_CLUSTER,
    )
    allow_remote: BoolProperty(
        name="Other Computers",
        description="Let the address name another computer. Neither the token nor the job is encrypted on the way",
    )
    storage: StringProperty(
        name="Storage",
        description="URL of a storage that this computer and the cluster can write, such as file:///mnt/studio/jobs. "
        "Empty: files travel through the connection",
    )
    check_quietly: BoolProperty(
        name="Check Templates by Itself",
        description="Check new templates in the background when nothing else is to be done",
        default=True,
    )
    live_mesh: BoolProperty(
        name="Show Running Mesh",
        description="Show the coarse mesh of the running job in the scene, at the place of the result. It is not saved",
        default=True,
    )
    pause_while_rendering: BoolProperty(
        name="Pause While Rendering",
        description="Pause running jobs when Blender renders, so that the render has the GPU. They go on afterwards",
    )

    @property
    def folder(self) -> Path:
        return Path(absolute_path(self.data_folder) or default_data_folder())

    @property
    def where(self) -> tuple[str, ...]:
        """Options of the worker that say where a job runs; none for this computer."""
        if self.place == "here":
            return ()
        storage = (f"--storage={self.storage.strip()}",) if self.storage.strip() else ()
        allowed = ("--allow-remote",) if self.allow_remote else ()
        # Never without an address, which would mean this computer.
        return (f"--on={self.cluster.strip() or DEFAULT_CLUSTER}", *storage, *allowed)

    @property
    def wheels(self) -> str:
        """The folder of wheels; empty for a download."""
        return bpy.path.abspath(self.wheels_folder)

    def find_interpreter(self) -> Path:
        """The Python that runs the backend. Raises RequestError if there is none."""
        return environment.find_interpreter(absolute_path(self.backend_python), self.folder)

    @property
    def why_no_backend(self) -> Reason:
        try:
            self.find_interpreter()
        except RequestError as error:
            return Reason.of(error)
        return Reason()

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.use_property_split = True
        self.layout.use_property_decorate = False
        draw_backend(self.layout.box(), self, context)
        self.layout.use_property_split = False
        draw_models(self.layout.box(), self, context)
        self.layout.use_property_split = True
        self.layout.prop(self, "data_folder")
        self.layout.prop(self, "device")
        self.layout.prop(self, "place")
        if self.place == "cluster":
            self.layout.prop(self, "cluster")
            self.layout.prop(self, "allow_remote")
            self.layout.prop(self, "storage", placeholder="optional: URL of a shared storage")
        self.layout.prop(self, "views_model", placeholder="optional: draws a picture from other sides")
        self.layout.prop(self, "live_mesh")
        self.layout.prop(self, "pause_while_rendering")
        self.layout.prop(self, "check_quietly")
        draw_shortcuts(self.layout.box())


def register() -> None:
    bpy.utils.register_class(RecDreamerPreferences)


def unregister() -> None:
    bpy.utils.unregister_class(RecDreamerPreferences)
