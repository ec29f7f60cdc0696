"""Preferences: data folder, Python interpreter of the backend, and device."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from .. import __package__ as base_package
from ..backend.recdreamer.protocol import RequestError
from .jobs import environment
from .jobs.registry import default_data_folder
from .panels.backend import draw_backend
from .preference_access import DEVICES, absolute_path


def _make_absolute(name: str):
    """Update function of a path: it is resolved when it is set, against the file that is open then."""

    def update(preferences: RecDreamerPreferences, context: bpy.types.Context) -> None:
        typed = getattr(preferences, name)
        path = absolute_path(typed, bpy.data.filepath)
        if path != typed:
            setattr(preferences, name, path)

    return update


BUILDS = (
    ("cuda", "NVIDIA GPU (3 GB)", "Download PyTorch with CUDA, about 3 GB on Linux"),
    ("cpu", "CPU Only (0.5 GB)", "Download PyTorch for the CPU, about 0.5 GB on Linux"),
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
    device: EnumProperty(name="Device", description="Which device runs jobs", items=DEVICES)
    views_model: StringProperty(
        name="Multi-View Model",
        description="Folder of a model in diffusers format that draws a picture from other sides, such as Zero-1-to-3",
        subtype="DIR_PATH",
        update=_make_absolute("views_model"),
    )
    num_jobs: IntProperty(
        name="Jobs Listed", description="Number of jobs shown in History", default=8, min=1, max=100
    )

    @property
    def folder(self) -> Path:
        return Path(absolute_path(self.data_folder) or default_data_folder())

    def find_interpreter(self) -> Path:
        """The Python that runs the backend. Raises RequestError if there is none."""
        return environment.find_interpreter(absolute_path(self.backend_python), self.folder)

    @property
    def why_no_backend(self) -> str:
        try:
            self.find_interpreter()
        except RequestError as error:
            return str(error)
        return ""

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.use_property_split = True
        self.layout.use_property_decorate = False
        self.layout.prop(self, "data_folder")
        self.layout.prop(self, "device")
        self.layout.prop(self, "views_model", placeholder="optional: draws a picture from other sides")
        self.layout.prop(self, "num_jobs")
        draw_backend(self.layout.box(), self, context)


def register() -> None:
    bpy.utils.register_class(RecDreamerPreferences)


def unregister() -> None:
    bpy.utils.unregister_class(RecDreamerPreferences)
