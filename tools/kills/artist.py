"""An artist in a Blender without a window, who may be killed at any time; see proof.py. The Python is one with bpy.

Installs the extension if it is not there, then does what is to be done next: resume what was interrupted, import what is
done, generate until OUT/enough is there. Writes what it does to OUT/status.json.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

import bpy

OUT, BACKEND = Path(sys.argv[1]), sys.argv[2]
MODULE = "bl_ext.user_default.recdreamer"
SMALL = {
    "optimize.num_steps": 30, "optimize.preview_every": 5, "optimize.checkpoint_every_s": 1.0,
    "rectifier.drawing.num_samples": 2, "rectifier.drawing.num_steps": 5,
    "geometry.num_steps": 15, "texture.num_steps": 15,
    "mesh.resolution": 40, "mesh.target_faces": 2000, "mesh.texture_size_px": 128,
}  # fmt: skip
TICK_S = 0.1


def module(name: str):
    return importlib.import_module(f"{MODULE}.addon.{name}")


def start_up():
    """Enable the extension, with its data in OUT; returns its session."""
    import addon_utils  # Which bpy brings.

    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    if addon_utils.enable(MODULE, default_set=True) is None:
        bpy.ops.extensions.package_install_files(
            filepath=str(OUT / "extension.zip"), repo="user_default", enable_on_install=True
        )
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.data_folder, preferences.backend_python, preferences.device = (
        str(OUT / "data"),
        BACKEND,
        "cpu",
    )
    preferences.check_quietly = False
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.quality = "a red bear", "quick"
    return module("session").session


def note(name: str, line: str) -> None:
    with (OUT / name).open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")


def write_status(**values: object) -> None:
    temporary = OUT / f"status.{os.getpid()}"
    temporary.write_text(json.dumps(values), encoding="utf-8")
    temporary.replace(OUT / "status.json")


def press(name: str, **properties: object) -> bool:
    """Press a button; what it refuses is noted."""
    operator = getattr(bpy.ops.recdreamer, name)
    try:
        return operator(**properties) == {"FINISHED"}
    except RuntimeError as error:
        note("refused.txt", f"{name}: {error}".strip())
        return False


def act(jobs) -> str:
    """Do the next thing; returns what it was."""
    imported = (OUT / "imported.txt").read_text("utf-8").split() if (OUT / "imported.txt").exists() else []
    for job in jobs:
        if job.condition == "damaged":
            note("refused.txt", f"damaged: {job.id} {job.problem}")
            return "damaged"
        if not job.why_not_resume:
            if job.state.status == "failed" and job.state.kind != "out_of_memory":
                # A worker that was killed looks like one without memory, as it should: systems kill it then.
                note("refused.txt", f"failed: {job.id} {job.state.message} {job.state.hint}")
            press("resume", job_id=job.id)
            return "resume"
        if job.condition == "done" and job.id not in imported:
            before = len(bpy.context.scene.objects)
            if press("import_result", job_id=job.id) and len(bpy.context.scene.objects) == before + 1:
                note("imported.txt", job.id)
            return "import"
    if not (OUT / "enough").exists():
        settings = bpy.context.scene.recdreamer
        settings.seed, settings.keep_running = len(jobs) % 2, len(jobs) % 3 == 0
        if press("generate", overrides=json.dumps(SMALL)):
            note("generated.txt", module("session").session.shown.id)
        return "generate"
    return "done"


def main() -> None:
    session, pump = start_up(), module("session").pump
    seen_s = time.monotonic()
    while True:
        pump()
        registry = session.registry
        busy = [job for job in registry.jobs if job.is_busy]
        doing = f"{busy[0].condition}: {busy[0].state.stage}" if busy else "between jobs"
        is_read = time.monotonic() - seen_s > 1.0  # Folders are read a few in each tick.
        write_status(phase="", is_up=is_read, is_busy=bool(busy), doing=doing, pid=os.getpid())
        if is_read and not busy and act(list(registry.jobs)) == "done":
            session.stop()
            write_status(phase="done", is_up=True, is_busy=False, doing="done", pid=os.getpid())
            return
        time.sleep(TICK_S)


try:
    main()
finally:
    sys.stdout.flush()
    os._exit(0 if sys.exc_info()[0] is None else 1)  # Blender hangs or crashes when it ends as a module.
