"""What happens to an artist's file and disk while a job runs: several scenes, a new file, a full disk, one that cannot be
written. By mouse and keys.

Blender runs this at its start (see inside.sh). Jobs have fewer steps than an artist's, so that the walk takes minutes.
The disks are file systems in memory. FROM is the first part.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bpy

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import clicks  # noqa: E402
import probe  # noqa: E402
import undo  # noqa: E402
from clicks import find, until  # noqa: E402
from tab import Tab  # noqa: E402
from undo import MODULE, done, note, ready, type_prompt  # noqa: E402

clicks.SCREEN_PX, clicks.STEP_PX = 1400, 16
FEW, MANY = 40, 150
"""Steps of a job that is to be done, and of one during which something happens."""
BEAR, BIRD, ROBOT, RABBIT = "a red bear", "a blue bird", "a yellow robot", "a purple rabbit"
SMALL_DISK, LARGE_DISK = "3m", "600m"
"""The first is full soon after a job has begun."""


def script() -> Iterator[float]:
    clicks.install()
    walk = Tab()
    yield from ready(walk)
    parts = (scenes, new_file, full_disk, read_only)
    names = [part.__name__ for part in parts]
    for part in parts[names.index(os.environ.get("FROM") or names[0]) :]:
        note("part", part.__name__)
        walk = (yield from part(walk)) or walk
    note("part", "all")


def generate(walk: Tab, prompt: str, steps: int) -> Iterator[float]:
    undo.SMALL["optimize.num_steps"] = steps
    yield from type_prompt(walk, prompt)
    yield from walk.press("recdreamer.generate")


def scenes(walk: Tab) -> Iterator[float]:
    """Three scenes, each with a request of its own; a result goes into the one that is shown."""
    first = bpy.context.scene
    yield from generate(walk, BEAR, MANY)
    job = yield from walk.at_work(6)
    others = [bpy.data.scenes.new(name) for name in ("Second", "Third")]
    yield from show(walk, others[0])
    assert not walk.settings.prompt, "a request belongs to its scene"
    yield from walk.see("01-second-scene")
    walk.settings.quality = "quick"
    yield from generate(walk, BIRD, FEW)
    yield from until(lambda: walk.session.registry.queue.turns, 30)
    yield from walk.see("02-waits-in-the-second")
    bird = walk.job_of(BIRD)
    assert first.recdreamer.prompt == BEAR and job.client is not None
    yield from show(walk, others[1])
    yield from done(job)
    walk.session.shown_id = job.id
    yield from walk.press("recdreamer.import_result", columns=(0.25,))
    yield from until(lambda: BEAR in bpy.data.objects, 30)
    yield from walk.see("03-imported-into-the-third")
    yield from done(bird)
    yield from show(walk, others[0])
    walk.session.shown_id = bird.id
    yield from walk.press("recdreamer.import_result", columns=(0.25,))
    yield from until(lambda: BIRD in bpy.data.objects, 30)
    yield from walk.see("04-imported-into-the-second")
    found = {scene.name: sorted(obj.name for obj in scene.objects) for scene in bpy.data.scenes}
    note("objects of the scenes", found)
    assert BEAR in found["Third"] and BIRD in found["Second"]
    assert BEAR not in found["Second"] and not {BEAR, BIRD} & {*found[first.name]}
    yield from show(walk, first)
    for other in others:
        bpy.data.scenes.remove(other)


def show(walk: Tab, scene: bpy.types.Scene) -> Iterator[float]:
    walk.window.scene = scene
    walk.settings = scene.recdreamer
    walk.area.tag_redraw()
    yield 1.0


def new_file(walk: Tab) -> Iterator[float]:
    """Ctrl N while a job runs: the file is another, the job goes on, and its result can be imported."""
    yield from generate(walk, ROBOT, MANY)
    job = yield from walk.at_work(6)
    step, before = job.state.step, bpy.context.scene.as_pointer()
    bpy.context.preferences.view.use_save_prompt = False
    yield from walk.over_view()
    yield from walk.keys("ctrl+n")
    yield from probe.see("05-new-file-asks")
    yield from walk.keys("Return")
    yield from until(lambda: bpy.context.window_manager.windows[0].scene.as_pointer() != before, 30)
    yield 2.0
    walk = Tab()
    walk.hand.rest()
    yield 1.0
    if not walk.area.spaces.active.show_region_ui:
        yield from walk.keys("n")
        yield from clicks.open_tab(walk.hand, walk.area, walk.sidebar)
    assert not walk.settings.prompt and "Cube" in bpy.data.objects
    yield from until(lambda: job.state.step > step + 4, 120)
    assert walk.session.registry.running is job, job.condition
    yield from walk.see("06-goes-on")
    yield from done(job)
    yield from walk.press("recdreamer.import_result", columns=(0.25,))
    yield from until(lambda: ROBOT in bpy.data.objects, 30)
    yield from walk.see("07-imported-into-the-new-file")
    walk.settings.quality = "quick"
    return walk


def resume(walk: Tab, job) -> Iterator[float]:
    """A click that comes while Blender draws the tab anew is lost."""
    for _ in range(3):
        yield from walk.press("recdreamer.resume")
        yield 3.0
        if job.is_waiting or job.client is not None:
            return
    raise AssertionError(f"the job does not go on: {job.condition}")


def full_disk(walk: Tab) -> Iterator[float]:
    """A disk that is full in the middle of a job: one sentence, and Resume goes on when there is room."""
    yield from on_disk(walk, "small disk", f"size={SMALL_DISK}")
    yield from generate(walk, RABBIT, MANY)
    yield from until(lambda: walk.session.registry.jobs, 30)
    job = walk.session.registry.jobs[0]
    yield from until(lambda: job.client is None and not job.is_waiting, 300)
    note("a full disk", [job.condition, job.state.message, job.state.hint, job.state.step])
    yield from walk.see("08-the-disk-is-full")
    assert job.condition == "failed" and "full" in job.state.message, job.state.message
    assert walk.settings.prompt == RABBIT and not walk.session.queue_problem
    mount("-o", f"remount,size={LARGE_DISK}", str(disk()))
    yield from resume(walk, job)
    yield from done(job)
    yield from walk.press("recdreamer.import_result", columns=(0.25,))
    yield from until(lambda: RABBIT in bpy.data.objects, 30)
    yield from walk.see("09-resumed-with-room")
    yield from leave_disk(walk)


def read_only(walk: Tab) -> Iterator[float]:
    """A data folder that cannot be written: what was done is listed and can be imported; Generate says why not."""
    yield from on_disk(walk, "large disk", f"size={LARGE_DISK}")
    yield from generate(walk, BIRD, FEW)
    yield from until(lambda: walk.session.registry.jobs, 30)
    yield from done(walk.job_of(BIRD))
    before = walk.folders()
    mount("-o", "remount,ro", str(disk()))
    yield from generate(walk, BEAR, FEW)
    yield 1.5
    yield from probe.see("10-cannot-be-written")
    yield from walk.keys("Escape")  # The message lies upon the tab.
    assert walk.session.registry.running is None and not walk.session.registry.queue.turns
    assert walk.folders() == before and walk.settings.prompt == BEAR
    names = {obj.name for obj in bpy.data.objects}
    walk.session.shown_id = walk.job_of(BIRD).id
    yield from walk.press("recdreamer.import_result", columns=(0.25,))
    yield from until(lambda: {obj.name for obj in bpy.data.objects} > names, 30)
    yield from walk.see("11-imported-from-a-disk-that-cannot-be-written")
    assert (yield from find(walk.hand, walk.area, "UI", "recdreamer.generate")) is not None
    mount("-o", "remount,rw", str(disk()))
    yield from generate(walk, BEAR, FEW)
    yield from done(walk.job_of(BEAR))
    yield from walk.see("12-goes-on-when-it-can-be-written")
    yield from leave_disk(walk)


def disk() -> Path:
    return Path(bpy.context.preferences.addons[MODULE].preferences.data_folder)


def on_disk(walk: Tab, name: str, options: str) -> Iterator[float]:
    """Keep the jobs of what follows on a file system of its own."""
    folder = Path(os.environ["XDG_DATA_HOME"], name)
    folder.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", options, "disk", str(folder))
    bpy.context.preferences.addons[MODULE].preferences.data_folder = str(folder)
    walk.session.shown_id = ""
    walk.area.tag_redraw()
    yield 1.0
    assert walk.session.registry.data_folder == folder and not walk.session.registry.jobs


def leave_disk(walk: Tab) -> Iterator[float]:
    left = disk()
    bpy.context.preferences.addons[MODULE].preferences.data_folder = ""
    walk.area.tag_redraw()
    yield 1.5
    assert walk.session.registry.data_folder != left
    subprocess.run(["umount", "--lazy", str(left)], check=True)


def mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True)


if __name__ == "__main__":
    probe.run(script())
