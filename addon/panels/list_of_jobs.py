"""History in the sidebar: Blender's own list of all jobs, and what can be done with the selected one."""

from __future__ import annotations

import time

import bpy
from bpy.props import CollectionProperty, EnumProperty, IntProperty, StringProperty

from .. import describe
from ..jobs.comparison import differences
from ..jobs.job import Job
from ..jobs.origin import origin_of
from ..language.translation import poses, say
from ..layout import draw_text, shortened, text_px
from ..pictures import previews
from ..preference_access import get_preferences
from ..session import session
from .jobs import CONDITION_ICONS, SidebarPanel, name_of

ROWS = 6
ROW_OTHER_PX = 92
"""What a row has beside name, size and age: a picture, the pin, the scroll bar and the frames."""
MAX_SHOWN = 8
"""Differences of two jobs that are shown."""
ADDED_AT_ONCE = 100
"""New rows for each tick of the timer, which is to be short."""
STATES = (
    ("ALL", "All", "All jobs"),
    ("RESULTS", "Results", "Jobs that have a result"),
    ("UNFINISHED", "Unfinished", "Jobs that wait, run, were stopped or have failed"),
    ("PINNED", "Pinned", "Jobs that are pinned"),
)

_listed: list[str] = []
"""The jobs of the rows, as the rows cannot be read quickly."""
_seen: list[tuple[int, int, int] | None] = [None]
"""List of jobs, its length and that of the rows at the last comparison."""


def _select(manager: bpy.types.WindowManager, context: bpy.types.Context) -> None:
    index = manager.recdreamer_job_index
    if 0 <= index < len(manager.recdreamer_jobs):
        job_id = manager.recdreamer_jobs[index].job_id
        if session.shown is None or session.shown.id != job_id:
            session.shown_id = job_id


class RecDreamerJobRow(bpy.types.PropertyGroup):
    """A row of History; the job folder has all the rest."""

    job_id: StringProperty(name="Job", description="ID of the job")


def synchronize() -> bool:
    """Let the rows be those of the jobs that there are, and select the job in the panel. True if something changed."""
    manager = bpy.context.window_manager
    rows = manager.recdreamer_jobs
    if len(rows) != len(_listed):  # Another file was opened.
        rows.clear()
        _listed.clear()
        _seen[0] = None
    changed = False
    # To compare thousands of names takes a millisecond, so that is done when there may be something new.
    all_jobs = session.registry.jobs
    seen = (id(all_jobs), len(all_jobs), len(_listed))
    if seen != _seen[0]:
        changed = _renew_rows(rows, {job.id: job for job in all_jobs})
        _seen[0] = (id(all_jobs), len(all_jobs), len(_listed))
    shown = session.shown
    if shown is not None:
        index = manager.recdreamer_job_index
        if not (0 <= index < len(_listed)) or _listed[index] != shown.id:
            found = _listed.index(shown.id) if shown.id in _listed else -1
            changed |= index != found
            manager.recdreamer_job_index = found
    return changed


def _renew_rows(rows: bpy.types.bpy_prop_collection, jobs: dict[str, Job]) -> bool:
    """Remove the rows of jobs that are gone, and add some of the new ones. True if there were any."""
    if jobs.keys() == set(_listed):
        return False
    for index in reversed([i for i, job_id in enumerate(_listed) if job_id not in jobs]):
        rows.remove(index)
        del _listed[index]
    for job_id in list(jobs.keys() - set(_listed))[:ADDED_AT_ONCE]:
        row = rows.add()
        row.job_id, row.name = job_id, name_of(jobs[job_id])
        _listed.append(job_id)
    return True


class RECDREAMER_UL_jobs(bpy.types.UIList):
    """Earlier jobs, pinned ones first, else newest first"""

    state: EnumProperty(name="Show", description="Which jobs are listed", items=STATES)

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index):
        job = session.registry.find(item.job_id)
        if job is None:
            return
        age = describe.age(time.time() - job.state.updated_s) if job.state.updated_s else ""
        size = session.folder_sizes.of(job)
        side = "  ".join(filter(None, (describe.gigabytes(size) if size is not None else "", say(age))))
        name = shortened(name_of(job), context, ROW_OTHER_PX + text_px(side))
        picture = previews.icon(job.preview) if job.preview is not None else 0
        row = layout.row(align=True)
        if picture and job.has_result:
            row.label(text=name, icon_value=picture)
        else:
            row.label(text=name, icon=CONDITION_ICONS[job.condition])
        right = row.row()
        right.alignment = "RIGHT"
        right.label(text=side)
        pin = row.operator(
            "recdreamer.pin_job", text="", icon="PINNED" if job.is_pinned else "UNPINNED", emboss=False
        )
        pin.job_id, pin.pin = job.id, not job.is_pinned

    def draw_filter(self, context, layout):
        layout.prop(self, "filter_name", text="", icon="VIEWZOOM")
        layout.prop(self, "state", text="")

    def filter_items(self, context, data, name):
        rows = getattr(data, name)
        jobs = {job.id: job for job in session.registry.jobs}
        found = [jobs.get(job_id) for job_id in _listed] if len(_listed) == len(rows) else []
        return shown_rows(found, self.filter_name, self.state, self.bitflag_filter_item)


def shown_rows(jobs: list[Job | None], words: str, state: str, flag: int) -> tuple[list[int], list[int]]:
    """Flags of the rows that are shown, and the places of all rows: pinned ones first, then the newest."""
    words = words.strip().casefold()
    flags = [flag if job is not None and _matches(job, words, state) else 0 for job in jobs]
    ranked = sorted(
        range(len(jobs)),
        key=lambda i: (jobs[i] is not None and jobs[i].is_pinned, jobs[i].id if jobs[i] else ""),
        reverse=True,
    )
    places = [0] * len(jobs)
    for place, index in enumerate(ranked):
        places[index] = place
    return flags, places


def _matches(job: Job, words: str, state: str) -> bool:
    if words and words not in name_of(job).casefold():
        return False
    match state:
        case "RESULTS":
            return job.has_result
        case "UNFINISHED":
            return not job.has_result
        case "PINNED":
            return job.is_pinned
    return True


class RECDREAMER_PT_jobs(SidebarPanel, bpy.types.Panel):
    bl_label = "History"
    bl_order = 4
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context):
        return bool(session.registry.jobs) or not get_preferences().why_no_backend

    def draw(self, context):
        layout, manager = self.layout, context.window_manager
        row = layout.row(align=True)
        row.operator("recdreamer.open_job", text="Open Folder…", icon="FILE_FOLDER")
        row.operator_context = "INVOKE_DEFAULT"
        if not session.registry.jobs:
            layout.label(text="No jobs yet.")
            return
        row.operator("recdreamer.clean_up", icon="BRUSH_DATA")
        layout.template_list(
            "RECDREAMER_UL_jobs", "", manager, "recdreamer_jobs", manager, "recdreamer_job_index", rows=ROWS
        )
        job = session.shown
        if job is not None:
            self._draw_selected(layout, job, context)

    def _draw_selected(self, layout, job: Job, context) -> None:
        earlier = session.registry.find(origin_of(job.folder, job.request).of)
        if earlier is not None:
            name = shortened(say("From {0}").format(name_of(earlier)), context, ROW_OTHER_PX)
            layout.operator("recdreamer.show_job", text=name, icon="LOOP_BACK").job_id = earlier.id
        row = layout.row(align=True)
        row.operator("recdreamer.use_settings", icon="LOOP_BACK").job_id = job.id
        row.operator_menu_enum("recdreamer.copy_command", "language", text="Command").job_id = job.id
        row = layout.row(align=True)
        row.operator("recdreamer.open_folder", text="Folder", icon="FILE_FOLDER").job_id = job.id
        row.operator("recdreamer.compare_job", depress=session.compared_id == job.id).job_id = job.id
        row.operator("recdreamer.delete_job", text="Delete", icon="TRASH").job_id = job.id
        other = session.registry.find(session.compared_id) if session.compared_id else None
        if other is not None and other is not job:
            self._draw_comparison(layout, other, job, context)

    def _draw_comparison(self, layout, first: Job, second: Job, context) -> None:
        box = layout.box()
        if first.request is not None and second.request is not None:
            lines = differences(first.request, second.request)
            for name, one, two in lines[:MAX_SHOWN]:
                # Settings of the backend are named as they are written.
                label = name if "." in name else say(name.capitalize())
                if name == "templates":
                    one, two = poses(one), poses(two)
                words = f"{label}: {describe.one_line(one, 30)} → {describe.one_line(two, 30)}"
                draw_text(box, words, context)
            if not lines:
                box.label(text="Same settings.")
        box.operator("recdreamer.show_other", icon="ARROW_LEFTRIGHT").job_id = second.id


CLASSES = (RECDREAMER_PT_jobs,)
_OTHERS = (RecDreamerJobRow, RECDREAMER_UL_jobs)


def register() -> None:
    for cls in (*_OTHERS, *CLASSES):
        bpy.utils.register_class(cls)
    bpy.types.WindowManager.recdreamer_jobs = CollectionProperty(type=RecDreamerJobRow)
    bpy.types.WindowManager.recdreamer_job_index = IntProperty(
        name="Job", description="The selected job", update=_select
    )
    session.on_tick.append(synchronize)


def unregister() -> None:
    session.on_tick.remove(synchronize)
    _listed.clear()
    _seen[0] = None
    del bpy.types.WindowManager.recdreamer_job_index, bpy.types.WindowManager.recdreamer_jobs
    for cls in reversed((*_OTHERS, *CLASSES)):
        bpy.utils.unregister_class(cls)
