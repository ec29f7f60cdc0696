"""What this run of Blender knows beside the folders: workers, a set-up under way, the job in view.

`pump` is the one place where news from outside come in. Blender's timer calls it, and so do the tests.
"""

from __future__ import annotations

import traceback

import bpy

from . import previews
from .jobs.errands import Check, Errand, Gallery
from .jobs.registry import Job, JobRegistry
from .jobs.task import Task
from .preference_access import get_preferences

CATEGORY = "RecDreamer"
"""Name of the sidebar tab."""
BUSY_S, IDLE_S = 0.25, 1.0
"""Time between two looks, with and without a worker of ours."""


class Session:
    """Module state, forgotten by `stop`; nothing of it is saved in a .blend."""

    def __init__(self) -> None:
        self.task: Task | None = None
        """Set-up or check of the backend, running or the last one."""
        self.shown_id = ""
        """The job that the artist clicked; empty: the newest."""
        self.errand: Errand | None = None
        """Background work for the shelf, running or the last one."""
        self.gallery: Gallery | None = None
        """Pictures that wait to be picked."""
        self.check: Check | None = None
        """What the machine makes of the shelf."""
        self._registry: JobRegistry | None = None

    @property
    def registry(self) -> JobRegistry:
        """Jobs of the data folder that the preferences name now."""
        folder = get_preferences().folder
        registry = self._registry
        # Running workers belong to the old folder; it stays in view until they are through.
        if registry is None or (registry.data_folder != folder and registry.running is None):
            registry = self._registry = JobRegistry(folder)
        return registry

    @property
    def shown(self) -> Job | None:
        """The job in view: the clicked one, else the running one, else the newest."""
        registry = self.registry
        return registry.find(self.shown_id) or registry.running or next(iter(registry.jobs), None)

    def stop(self) -> None:
        """End or let go of everything that runs."""
        for task in (self.task, self.errand and self.errand.task):
            if task is not None:
                task.cancel()
                task.join()
        if self._registry is not None:
            self._registry.stop_all()
        self.task = self.errand = self.gallery = self.check = self._registry = None
        self.shown_id = ""


session = Session()


def pump() -> bool:
    """Take in what workers, folders and tasks have to tell, and redraw where it shows."""
    changed = session.registry.poll()
    if session.task is not None and session.task.poll():
        changed = True
        _redraw("PREFERENCES", "")
    if session.errand is not None and session.errand.poll():
        changed = True
    previews.trim()
    if changed:
        _redraw("VIEW_3D", CATEGORY)
    return changed


def _redraw(area_type: str, category: str) -> None:
    """Redraw the areas of a type, of 3D views only the sidebars that show our tab."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type != area_type:
                continue
            for region in area.regions:
                if not category or (region.type == "UI" and region.active_panel_category == category):
                    region.tag_redraw()


def _tick() -> float:
    try:
        pump()
    except Exception:
        # A timer that raises is dropped by Blender, and the panel would stand still for ever.
        traceback.print_exc()
    tasks = (session.task, session.errand and session.errand.task)
    is_busy = session.registry.running is not None or any(task and task.is_running for task in tasks)
    return BUSY_S if is_busy else IDLE_S


def register() -> None:
    bpy.app.timers.register(_tick, first_interval=IDLE_S, persistent=True)


def unregister() -> None:
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    session.stop()
    previews.clear()
