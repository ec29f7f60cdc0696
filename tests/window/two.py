"""Two Blenders on one data folder, side by side, and Quit while a job runs: by mouse and keys, in turns.

Blender runs this at its start (see inside.sh); it starts a second Blender beside it, and when that has quit, a third.
They run this file, too, with the name of their part, and tell each other by files whose turn it is.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bpy

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import clicks  # noqa: E402
import probe  # noqa: E402
import undo  # noqa: E402
from clicks import ask, until  # noqa: E402
from undo import MODULE, Walk, addon, note, ready, type_prompt  # noqa: E402

PLACE = ("1100", "0", "1100", "1000")
OUT = HERE / "out"
clicks.REST = (300, 500)


def say(word: str) -> None:
    (OUT / f"{word}.turn").touch()


def hear(word: str, limit_s: float = 600) -> Iterator[float]:
    yield from until((OUT / f"{word}.turn").exists, limit_s)


def begin(part: str) -> subprocess.Popen:
    """Start another Blender beside this one."""
    with (OUT / f"blender-{part}.log").open("w") as log:
        command = ["blender", "--factory-startup", "--offline-mode", "--no-window-focus", "-p", *PLACE]
        return subprocess.Popen(
            [*command, "--python", str(Path(__file__).resolve()), "--", part],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def workers(registry) -> list[str]:
    """The jobs of the data folder at which a worker is, of whichever Blender."""
    lock = importlib.import_module(f"{MODULE}.backend.recdreamer.shared.folder_lock")
    return [path.name for path in (registry.data_folder / "jobs").iterdir() if lock.is_locked(path)]


def watched(session, condition, limit_s: float = 900) -> Iterator[float]:
    """Wait for a condition, and count how many jobs are computing at once."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        states = [job.state.stage for job in session.registry.jobs if job.state.status == "running"]
        computing = len([stage for stage in states if stage not in ("", "waiting")])
        undo.NOTES["most jobs at once"] = max(computing, int(str(undo.NOTES.get("most jobs at once", 0))))
        yield 0.2


def script() -> Iterator[float]:
    """The first Blender, which sees all."""
    clicks.install()
    walk, session = Walk(), addon("session").session
    yield from ready(walk)
    undo.SMALL["optimize.num_steps"] = 240
    if os.environ.get("FROM", "") != "quit":
        yield from together(walk, session)
    yield from saved(walk, session)


def together(walk: Walk, session) -> Iterator[float]:
    yield from type_prompt(walk, "a red bear")
    yield from walk.press("recdreamer.generate")
    yield from until(lambda: session.registry.running is not None, 30)
    bear = session.registry.running
    yield from until(lambda: bear.preview is not None, 120)

    second = begin("second")
    yield from hear("bird waits")
    yield from walk.see("01-both")
    assert [turn.job_id for turn in session.registry.queue.turns], (
        "the first Blender sees what waits in the second"
    )
    say("stop the bear")
    yield from hear("bear stopped")
    yield from watched(session, lambda: bear.client is None)
    assert bear.condition == "cancelled", bear.condition
    yield from walk.see("04-stopped-by-the-other")
    bird = next(job for job in session.registry.jobs if job.request.prompt == "a blue bird")
    yield from watched(session, lambda: bird.condition in ("running", "running elsewhere"))
    yield from walk.see("05-next-started-by-itself")
    note("the bird runs in the", "first" if bird.client is not None else "second")
    session.shown_id = bear.id
    yield from walk.press("recdreamer.resume")
    yield from walk.see("06-bear-waits")
    assert bear.is_waiting and bear.client is None, bear.condition

    say("quit, and go on")
    yield from hear("quitting")
    began = time.monotonic()
    yield from until(lambda: second.poll() is not None, 60, 0.02)
    note("seconds from Ctrl-Q to the end of the second Blender", round(time.monotonic() - began, 2))
    yield 2.0
    session.shown_id = bird.id
    yield from walk.see("08-bird-goes-on")
    assert bird.condition in ("running", "running elsewhere"), bird.condition
    yield from watched(session, lambda: bird.condition == "done")
    yield from walk.see("09-bird-done")
    yield from watched(session, lambda: bear.client is not None)
    yield from watched(session, lambda: bear.condition == "done")
    yield 1.5
    session.shown_id = bird.id
    yield from walk.press("recdreamer.import_result", columns=(0.25,))
    yield from until(lambda: "a blue bird" in bpy.data.objects, 30)
    session.shown_id = bear.id
    yield from walk.see("10-bird-imported")
    yield from walk.press("recdreamer.import_result", columns=(0.25,))
    yield from until(lambda: "a red bear" in bpy.data.objects, 30)
    yield from walk.see("11-both-imported")


def saved(walk: Walk, session) -> Iterator[float]:
    """Quit without the choice to go on saves the job, and it can be resumed."""
    third = begin("third")
    yield from hear("quitting again")
    began = time.monotonic()
    yield from until(lambda: third.poll() is not None, 60, 0.02)
    note("seconds from Ctrl-Q to the end of the third Blender", round(time.monotonic() - began, 2))
    rabbit = next(job for job in session.registry.jobs if job.request.prompt == "a purple rabbit")
    yield from until(lambda: not workers(session.registry), 60)
    session.shown_id = rabbit.id
    yield from until(lambda: rabbit.condition == "paused", 30)
    yield from walk.see("13-saved-by-quit")
    note("steps that are kept", rabbit.state.step)
    yield from walk.press("recdreamer.resume")
    yield from watched(session, lambda: rabbit.condition == "done")
    yield from walk.see("14-resumed-and-done")
    note("conditions at the end", [f"{job.request.prompt}: {job.condition}" for job in session.registry.jobs])
    assert int(str(undo.NOTES.get("most jobs at once", 1))) == 1, undo.NOTES
    assert not workers(session.registry) and not session.registry.queue.turns


def opened(prompt: str) -> Iterator[float]:
    """Another Blender with the same extension and data folder, its tab, and a prompt."""
    import addon_utils

    assert addon_utils.enable(MODULE, default_set=True) is not None
    bpy.context.preferences.view.use_save_prompt = False
    walk = Walk()
    yield from ready(walk)
    undo.SMALL["optimize.num_steps"] = 240
    yield from type_prompt(walk, prompt)
    return walk


def second() -> Iterator[float]:
    walk = yield from opened("a blue bird")
    session = addon("session").session
    bear = session.registry.jobs[0]
    yield from until(lambda: bear.condition == "running elsewhere", 30)
    yield from walk.see("00-found-running")
    yield from walk.press("recdreamer.generate")
    yield from until(lambda: session.registry.queue.turns, 30)
    yield 1.0
    say("bird waits")
    yield from hear("stop the bear")
    session.shown_id = bear.id
    yield from ask(walk.hand, walk.area, "recdreamer.cancel(", columns=(0.6, 0.7))
    yield from probe.see("02-stop-asks")
    yield from walk.hand.key("k")  # Keep for Later.
    walk.hand.rest()
    yield from until(lambda: bear.condition != "running elsewhere", 120)
    yield from walk.see("03-stopped")
    say("bear stopped")
    yield from hear("quit, and go on")
    yield from quit_while_running(walk, session, "a blue bird", "07-chosen", "quitting", keep=True)


def third() -> Iterator[float]:
    walk = yield from opened("a purple rabbit")
    session = addon("session").session
    yield from walk.press("recdreamer.generate")
    yield from until(lambda: session.registry.running is not None, 30)
    yield from quit_while_running(walk, session, "a purple rabbit", "12-saves", "quitting again", keep=False)


def quit_while_running(
    walk: Walk, session, prompt: str, picture: str, word: str, *, keep: bool
) -> Iterator[float]:
    job = next(job for job in session.registry.jobs if job.request.prompt == prompt)
    session.shown_id = job.id
    yield from until(lambda: job.state.stage == "shape" and job.state.step > 30, 300)
    if keep and job.client is not None:
        yield from walk.press("recdreamer.keep_running")
        assert job.client.keeps_running
    yield from walk.see(picture)
    walk.hand.rest()
    yield 0.3
    say(word)
    walk.hand.do("key", "ctrl+q")
    yield 60.0
    raise AssertionError("Blender did not quit")


if __name__ == "__main__":
    part = sys.argv[sys.argv.index("--") + 1] if "--" in sys.argv else ""
    probe.run({"": script, "second": second, "third": third}[part]())
