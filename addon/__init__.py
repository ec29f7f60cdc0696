"""The Blender add-on. Modules without bpy can be imported and tested anywhere."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

MODULES = (
    "language.translation",
    "preferences",
    "start.fitness",
    "start.properties",
    "properties",
    "packed_pictures",
    "operators.jobs",
    "operators.check_start",
    "operators.stop",
    "operators.queue",
    "operators.history",
    "operators.scripts",
    "operators.assets",
    "operators.results",
    "operators.quads",
    "operators.quads_bake",
    "operators.lods",
    "operators.cards",
    "operators.capture",
    "operators.gallery",
    "operators.inspect",
    "operators.setup",
    "operators.models",
    "operators.next_steps",
    "operators.presets",
    "panels.model_lists",
    "panels.prompt",
    "panels.start",
    "panels.enlarged",
    "panels.job_progress",
    "panels.jobs",
    "panels.queue_of_jobs",
    "panels.list_of_jobs",
    "panels.shelf",
    "panels.actions",
    "panels.shortcuts",
    "result.live_mesh",
    "panels.result",
    "panels.target_box",
    "shelf.front_gizmo",
    "shelf.coverage",
    "session",
)
"""In order of registration: each module may use those before it."""


def _modules() -> list[ModuleType]:
    return [import_module(f".{name}", __package__) for name in MODULES]


def register() -> None:
    for module in _modules():
        module.register()


def unregister() -> None:
    for module in reversed(_modules()):
        module.unregister()
