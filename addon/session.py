"""State of this Blender session: workers, background tasks, and the job shown in the panel.

`pump` is the only entry point for news from other processes. Blender's timer and the tests call it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import bpy

from ..backend.recdreamer.shared.folder_lock import is_locked
from ..backend.recdreamer.shared.protocol import RequestError
from . import trouble
from .jobs import environment
from .jobs.costs import Cost, Costs
from .jobs.environment import Hardware
from .jobs.errands import Check, Errand, Gallery
from .jobs.finish import finish_early
from .jobs.folder_sizes import FolderSizes
from .jobs.model_tasks import EXTRACTOR, Models, ModelTask
from .jobs.registry import Job, JobRegistry
from .jobs.task import BACKEND, Task
from .jobs.turns import next_turn
from .pictures import previews
from .preference_access import MODEL_PROPERTIES, get_preferences, use_model
from .setup.storage import Sizes

CATEGORY = "RecDreamer"
"""Name of the sidebar tab."""
BUSY_S, IDLE_S, BEHIND_S = 0.25, 1.0, 0.02
"""Time between two polls: with and without a worker of this Blender, and while job folders or pictures are read, of
which each poll takes a few."""


@dataclass(frozen=True)
class Ended:
    """A job that has ended, and when."""

    job: Job
    at_s: float
    """By time.monotonic."""


TOLD_S = 60.0
"""How long the status bar tells of a job that has ended."""
QUIET_AFTER_S = 3.0
"""After this time without a change the templates are checked."""


class Session:
    """Module state, reset by `stop` and never saved in a .blend file."""

    def __init__(self) -> None:
        self.task: Task | None = None
        """Installation or diagnostics of the backend: the running or the last one."""
        self.shown_id = ""
        """The job that the artist clicked. Empty: the running or newest one."""
        self.errand: Errand | None = None
        """Background work for the shelf: the running or the last one."""
        self.gallery: Gallery | None = None
        """Pictures for the artist to choose from."""
        self.check: Check | None = None
        """The last check of the templates."""
        self.hardware = Hardware()
        """What this machine has."""
        self.sizes = Sizes()
        """What the backend takes on the disk."""
        self.models = Models()
        """Pretrained models: which there are, and what is done about them."""
        self.folder_sizes = FolderSizes()
        """What the jobs take on the disk."""
        self.compared_id = ""
        """The job with which others are compared."""
        self.shown_template = ""
        """Image of the card that is shown beside a message about it."""
        self.scrubbed: tuple[str, Path | None] = ("", None)
        """Job and earlier preview of it that the slider shows."""
        self.is_enlarged = False
        """Whether the preview is shown in the 3D view, too."""
        self.on_tick: list[Callable[[], bool]] = []
        """What panels do in each tick; each says whether there is something to show."""
        self.ended: Ended | None = None
        """The last job of this Blender that has ended, as long as the status bar tells of it."""
        self.paused_for_render: list[str] | None = None
        """The jobs that go on after a render that is running now; None if there is none."""
        self.queue_problem = ""
        """Why the queue was held, if not by the artist."""
        self._stages: dict[str, tuple[str, float]] = {}
        """Jobs of this Blender -> their stage, and when it has begun."""
        self.checked_quietly: tuple = ()
        """The cards that were checked, or are being checked, without being asked to."""
        self._shelf_seen: tuple[tuple, float] = ((), 0.0)
        """The cards at the last look, and since when they are as they are."""
        self.after_stop: dict[str, str] = {}
        """What was chosen for jobs that are stopping: IMPORT or DELETE; FINISH while a mesh is made to import."""
        self._registry: JobRegistry | None = None
        self._costs: Costs | None = None

    @property
    def costs(self) -> Costs:
        """What jobs have cost on this computer."""
        folder = self.registry.data_folder
        if self._costs is None or self._costs.path.parent != folder:
            self._costs = Costs(folder)
        return self._costs

    def cost_of(self, scene: bpy.types.Scene) -> Cost | None:
        """What the next job will cost, if one of its kind was measured."""
        try:
            return self.costs.of(scene.recdreamer.to_request(prompt_if_empty="a", with_templates=False))
        except RequestError:
            return None

    def since(self, job: Job) -> float | None:
        """Seconds since the stage of a job of this Blender has begun."""
        found = self._stages.get(job.id)
        return None if found is None or job.client is None else time.monotonic() - found[1]

    def end_quiet_errand(self) -> None:
        """End a check that nobody asked for, because something else is to be done."""
        if self.errand is not None and self.errand.is_quiet and self.errand.task.is_running:
            self.errand.task.cancel()
            self.errand = None
            self.checked_quietly = ()  # Again when there is time.

    def note_stages(self) -> bool:
        """Note which stages have begun. True if a bar moves by time alone."""
        moves, known = False, self._stages
        self._stages = {}
        for job in self.registry.working:
            stage, began_s = known.get(job.id, ("", 0.0))
            is_new = stage != job.state.stage
            self._stages[job.id] = (job.state.stage, time.monotonic() if is_new else began_s)
            moves |= job.state.total <= 0
        return moves

    @property
    def registry(self) -> JobRegistry:
        """Jobs in the data folder that is set in the preferences."""
        folder = get_preferences().folder
        registry = self._registry
        # Running workers belong to the old folder, so it stays in use until they end.
        if registry is None or (registry.data_folder != folder and registry.running is None):
            registry = self._registry = JobRegistry(folder)
        return registry

    @property
    def shown(self) -> Job | None:
        """The job in the panel: the clicked one, else the running one, else the newest."""
        registry = self.registry
        clicked = registry.find(self.shown_id) if self.shown_id else None
        return clicked or registry.running or next(iter(registry.jobs), None)

    def stop(self) -> None:
        """End everything that runs, except jobs that continue without Blender."""
        self.hardware.stop()
        self.models.stop()
        self.models = Models()
        for task in (self.task, self.errand and self.errand.task):
            if task is not None:
                task.cancel()
                task.join()
        if self._registry is not None:
            self._registry.shut_down(kill=False)
        self.task = self.errand = self.gallery = self.check = self._registry = None
        self._costs = self.ended = None
        self.scrubbed, self.is_enlarged = ("", None), False
        self.after_stop, self.checked_quietly = {}, ()
        self.shown_id = self.shown_template = ""


session = Session()


def start_next(wanted: str = "") -> bool:
    """Start the waiting jobs whose turn it is, at most one on each device. True if one was started.

    Raises RequestError if the job `wanted` cannot be started. Any other goes back to its place, and the queue is held.
    """
    if session.registry.queue.turns:
        session.end_quiet_errand()
    has_errand = session.errand is not None and session.errand.task.is_running
    if has_errand or session.paused_for_render is not None:
        return False
    registry, preferences, started = session.registry, get_preferences(), False
    while (turn := next_turn(registry)) is not None:
        job = registry.find(turn.job_id)
        if job is None or not registry.queue.take(turn.job_id):
            break  # Another Blender was faster.
        job.is_waiting = False
        try:
            command = environment.run_command(preferences.find_interpreter())
            registry.start(job, command, BACKEND, turn.again, turn.seed, where=preferences.where)
        except RequestError as error:
            if job.id == wanted:
                raise
            registry.queue.put_back(turn)
            job.is_waiting = True
            registry.queue.hold(True)
            session.queue_problem = str(error)
            break
        started, session.queue_problem = True, ""
    return started


def pump() -> bool:
    """Read news from workers, folders and tasks, and redraw the regions that show it."""
    working = session.registry.working
    changed = session.registry.poll()
    for job in working:
        if job.client is None:
            _note_end(job)
    changed |= session.note_stages()
    changed |= _do_after_stop()
    changed |= bool(session.registry.queue.turns) and start_next()
    news = [session.task is not None and session.task.poll(), session.hardware.poll(), session.sizes.poll()]
    news.append(session.models.poll())
    if session.models.done is not None:
        _use_new_models(session.models.done)
    if any(news):
        changed = True
        _redraw("PREFERENCES", "")
    if session.errand is not None and session.errand.poll():
        changed = True
    changed |= session.folder_sizes.poll()
    changed |= _check_quietly()
    changed |= previews.trim()
    if changed and session.shown is not None and session.shown.preview is not None:
        # So that the panel never shows an empty place between two previews.
        previews.icon(session.shown.preview, is_large=True)
    changed |= previews.load_next()
    for act in session.on_tick:
        if act():
            _redraw("VIEW_3D", "")
    if changed:
        redraw_tab()
    if working or session.ended is not None:
        if session.ended is not None and time.monotonic() - session.ended.at_s > TOLD_S:
            session.ended = None
        _redraw_status_bar()
    return changed


def _note_end(job: Job) -> None:
    """Learn from a job whose worker has ended, and tell of it in the status bar."""
    if job.state.status == "done" and job.request is not None:
        session.costs.learn(job.request, job.folder.root)
    session.ended = Ended(job, time.monotonic())


def _check_quietly() -> bool:
    """Check the templates by ourselves when the artist has left them alone for a while, and nothing else is to be done.

    Once for each state of the shelf; whatever comes meanwhile ends it. True if a check was started.
    """
    windows = bpy.context.window_manager.windows
    scene = windows[0].scene if windows else bpy.context.scene
    cards = tuple(card.key for card in scene.recdreamer.enabled_templates)
    before, since_s = session._shelf_seen
    if cards != before:
        session._shelf_seen = cards, time.monotonic()
        return False
    is_known = session.check is not None and set(session.check.verdicts) == set(cards)
    if (
        not cards
        or is_known
        or cards == session.checked_quietly
        or time.monotonic() - since_s < QUIET_AFTER_S
    ):
        return False
    preferences, registry = get_preferences(), session.registry
    is_busy = session.errand is not None and session.errand.task.is_running
    if not preferences.check_quietly or is_busy or registry.working or registry.queue.turns:
        return False
    session.checked_quietly = cards
    override = bpy.context.temp_override(window=windows[0]) if windows else nullcontext()
    with override, suppress(RuntimeError):  # Nobody asked, so nobody is told why it cannot be done.
        return bpy.ops.recdreamer.check_templates.poll() and bpy.ops.recdreamer.check_templates(
            is_quiet=True
        ) == {"FINISHED"}
    return False


def _do_after_stop() -> bool:
    """Do what was chosen for jobs that have stopped by now. True if something was done."""
    done = False
    for job_id, choice in list(session.after_stop.items()):
        job = session.registry.find(job_id)
        is_busy = job is not None and (job.client is not None or job.running_on or job.is_waiting)
        # A worker of another Blender writes its last state before it lets go of the folder.
        if is_busy or (job is not None and is_locked(job.folder.root)):
            continue
        del session.after_stop[job_id]
        done = True
        if job is None:
            continue
        try:
            if choice == "DELETE":
                session.registry.delete(job)
            elif job.has_result:
                _import(job)
            elif choice == "IMPORT":
                finish_early(job)
                session.registry.enqueue(job, first=True)
                session.after_stop[job_id] = "FINISH"
        except (RequestError, OSError) as error:
            session.queue_problem = trouble.explain(error, "Stopping the job")
    return done


def _import(job: Job) -> None:
    """Import a result as if the button was pressed; in another mode than Object Mode the button waits for it."""
    windows = bpy.context.window_manager.windows
    with bpy.context.temp_override(window=windows[0]) if windows else nullcontext():
        if bpy.ops.recdreamer.import_result.poll():
            bpy.ops.recdreamer.import_result("EXEC_DEFAULT", True, job_id=job.id)


def _use_new_models(task: ModelTask) -> None:
    """What the artist has got or added is what the next job uses."""
    if task.do[0] == "get" and not task.is_dry:
        for name, kind in task.fetched:
            if kind in MODEL_PROPERTIES:
                use_model(kind, "" if name == EXTRACTOR else name)
    elif task.do[0] == "add":
        for row in [row for row in task.rows if row.is_here][:1]:
            use_model(row.kind, row.id)


def redraw_tab() -> None:
    """Let Blender draw our tab again."""
    _redraw("VIEW_3D", CATEGORY)


def _redraw(area_type: str, category: str) -> None:
    """Redraw areas of a type; with a category, only the sidebars that show this tab."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type != area_type:
                continue
            for region in area.regions:
                if not category or (region.type == "UI" and region.active_panel_category == category):
                    region.tag_redraw()


def _redraw_status_bar() -> None:
    """Let Blender draw the status bar, which is in no screen; a tool that has put a text there keeps it."""
    for window in bpy.context.window_manager.windows:
        if not window.modal_operators:
            window.workspace.status_text_set_internal(None)


def _tick() -> float:
    """Never raises: Blender drops a timer that does, and the panel would never update again."""
    try:
        pump()
        measures = session.sizes.is_behind or session.folder_sizes.is_behind
        if measures or session.registry.is_behind or previews.is_behind():
            return BEHIND_S
        return BUSY_S if _is_busy() else IDLE_S
    except Exception as error:
        with suppress(Exception):
            trouble.log(error, "Watching jobs", get_preferences().folder)
        return IDLE_S


def _is_busy() -> bool:
    tasks = (session.task, session.errand and session.errand.task, session.models.task)
    if session.models.is_listing or session.hardware.is_asking:
        return True
    return session.registry.running is not None or any(task and task.is_running for task in tasks)


def register() -> None:
    bpy.app.timers.register(_tick, first_interval=IDLE_S, persistent=True)


def unregister() -> None:
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    session.stop()
    previews.clear()
