"""The tab in a walk by mouse and keys: its panels, its dialogs, and the list of History.

A panel has no name for whoever asks what is under the mouse, so panels are opened by the order of their headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import bpy
import probe
from clicks import SETTLE_S, find, under_mouse, until
from undo import Walk, addon

HEADER_PX, ROW_PX = 28, 21
"""Height of the header of a closed panel, and of a row of buttons."""
LIST_PX = 160
"""From the buttons above History's list down to its end."""
PIN = 0.79
"""Where in the width of the sidebar the pins are."""


class Tab(Walk):
    """The walk, with the panels of its tab and the jobs that it has made."""

    def __init__(self) -> None:
        super().__init__()
        self.session = addon("session").session
        self.sidebar = next(region for region in self.area.regions if region.type == "UI")
        # So that the mouse over the tab does not make the view behind it draw, which takes long without a GPU.
        bpy.context.preferences.system.use_region_overlap = False

    def job_of(self, prompt: str):
        """The newest job of a prompt."""
        return next(job for job in self.session.registry.jobs if job.request.prompt == prompt)

    def folders(self) -> dict[str, list[tuple[str, int]]]:
        """Job folder -> its files and their sizes."""
        return {
            folder.name: sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))
            for folder in self.session.registry.root.iterdir()
        }

    def keys(self, *names: str) -> Iterator[float]:
        """Press keys with the mouse where it is."""
        for name in names:
            yield from self.hand.key(name)

    def over_view(self) -> Iterator[float]:
        self.hand.rest()
        yield 0.5

    def at_work(self, steps: int) -> Iterator[float]:
        """Wait until a job has begun and done some steps; returns it."""
        yield from until(lambda: self.session.registry.running is not None, 60)
        job = self.session.registry.running
        yield from until(
            lambda: job.client is None or (job.state.stage == "shape" and job.state.step >= steps)
        )
        assert job.condition == "running", f"{job.condition}: {job.state.message} {job.state.hint}"
        return job

    def dialog(self, name: str, picture: str, ok_px: int, typed: str = "") -> Iterator[float]:
        """Press a button whose dialog opens with its first field at the mouse, type into that, and press OK."""
        self.area.tag_redraw()
        x, y = yield from find(self.hand, self.area, "UI", name)
        yield from self.hand.click(name, (x, y))
        if typed:
            self.hand.do("click", "--repeat", 2, "--delay", 60, 1)
            yield 0.5
            yield from self.keys("ctrl+a")
            yield from self.hand.type(typed)
            yield from self.keys("Return")
        yield from probe.see(picture)
        yield from self.hand.click("OK", (x, y - ok_px))

    def open_only(self, title: str) -> Iterator[float]:
        """Close all panels of the tab but one, by clicks on their headers."""
        places = ("jobs.request", "jobs.job", "queue_of_jobs.queue", "queue_of_jobs.variations")
        places += ("result.result", "shelf.templates", "list_of_jobs.jobs", "jobs.advanced")
        titles = []
        with bpy.context.temp_override(window=self.window, area=self.area, region=self.view):
            for place in places:
                module, _, name = place.partition(".")
                cls = getattr(addon(f"panels.{module}"), f"RECDREAMER_PT_{name}")
                if not hasattr(cls, "poll") or cls.poll(bpy.context):
                    titles.append(cls.bl_label)
        x, top = self.sidebar.x + 0.4 * self.sidebar.width, self.sidebar.y + self.sidebar.height - 14
        self.hand.move(x, top)
        yield 0.4
        self.hand.do("keydown", "ctrl")
        yield 0.3
        self.hand.do("click", 1)  # With Ctrl, all others are closed.
        yield 0.3
        self.hand.do("keyup", "ctrl")
        yield 1.0
        self.hand.move(x, top - 50)
        yield 0.4
        if "recdreamer.prompt" in under_mouse(self.hand, self.area, self.sidebar):
            yield from self.hand.click("the first panel", (x, top))
            yield 1.0
        yield from self.hand.click(title, (x, top - HEADER_PX * titles.index(title)))
        yield 1.0

    def listed(self) -> Iterator[float]:
        """The jobs in History's list from top to bottom, by what is at their pins; and the place of each pin."""
        _, top = yield from find(self.hand, self.area, "UI", "recdreamer.clean_up", columns=(0.7,))
        self.list_top = top
        places: dict[str, tuple[float, float]] = {}
        for y in range(round(top), round(top - LIST_PX), -ROW_PX // 2):
            place = (self.sidebar.x + PIN * self.sidebar.width, y)
            self.hand.move(*place)
            yield SETTLE_S
            found = re.search(r'pin_job\(job_id="([^"]+)"', under_mouse(self.hand, self.area, self.sidebar))
            if found:
                places.setdefault(found[1], place)
        return places
