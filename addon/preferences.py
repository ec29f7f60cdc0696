"""Preferences: where data lives, which Python runs the backend, on which device."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from .. import __package__ as base_package
from ..backend.recdreamer.protocol import RequestError
from .jobs import environment
from .jobs.registry import default_data_folder
from .panels.backend import draw_backend
from .preference_access import DEVICES

BUILDS = (
    ("cuda", "NVIDIA GPU", "About 5 GB to download"),
    ("cpu", "Processor", "About 1 GB to download"),
)


class RecDreamerPreferences(bpy.types.AddonPreferences):
    bl_idname = base_package

    data_folder: StringProperty(
        name="Data Folder",
        description="Jobs, templates and the backend are kept here, also when the extension is removed",
        subtype="DIR_PATH",
        default=str(default_data_folder()),
    )
    backend_python: StringProperty(
        name="Interpreter",
        description="A Python that has the backend's dependencies. Empty: the one that Set Up makes",
        subtype="FILE_PATH",
    )
    build: EnumProperty(name="Build for", description="Which PyTorch Set Up fetches", items=BUILDS)
    device: EnumProperty(name="Device", description="Where jobs run", items=DEVICES)
    views_model: StringProperty(
        name="Novel-View Model",
        description="Folder of a model in diffusers format that turns one picture (Zero-1-to-3 and its kin)",
        subtype="DIR_PATH",
    )
    num_jobs: IntProperty(
        name="Jobs Listed", description="Earlier jobs in the panel", default=8, min=1, max=100
    )

    @property
    def folder(self) -> Path:
        return Path(bpy.path.abspath(self.data_folder) or default_data_folder())

    def find_interpreter(self) -> Path:
        """The Python that runs the backend. Raises RequestError when there is none."""
        return environment.find_interpreter(bpy.path.abspath(self.backend_python), self.folder)

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
        self.layout.prop(self, "views_model", placeholder="to make other views of one picture")
        self.layout.prop(self, "num_jobs")
        draw_backend(self.layout.box(), self, context)


def register() -> None:
    bpy.utils.register_class(RecDreamerPreferences)


def unregister() -> None:
    bpy.utils.unregister_class(RecDreamerPreferences)
