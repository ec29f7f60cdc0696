"""`recdreamer models` of the stand-in: the same events, with a download of a few steps and no network.

The folder of models has a file `fake.json`: what is installed and accepted, and how the next download ends.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

SET = ("taesd", "dinov2-small", "stable-diffusion-2-1-base")
ABOUT = {
    "stable-diffusion-2-1-base": ("Stable Diffusion 2.1 base", "prior", 2_581_649_281),
    "dinov2-small": ("DINOv2 small with registers", "extractor", 88_261_236),
    "taesd": ("TAESD", "decoder", 9_793_843),
}
STEPS = 20


def say(kind: str, /, **values: Any) -> None:
    print(json.dumps({"type": kind, **values}), flush=True)


def main(arguments: list[str]) -> int:
    do, folder = arguments[0], Path(arguments[arguments.index("--folder") + 1])
    names = [word for word in arguments[1:] if not word.startswith("--") and word != str(folder)]
    path = folder / "fake.json"
    state: dict[str, Any] = {"installed": [], "accepted": False, "fail": None, "step_s": 0.01, "added": []}
    if path.exists():
        state |= json.loads(path.read_text())
    if do == "list":
        for name, (title, kind, size) in ABOUT.items():
            here = {"state": "installed", "path": str(folder / name)} if name in state["installed"] else {}
            accepted = state["accepted"] or kind != "prior"
            row = {"id": name, "title": title, "kind": kind, "about": f"About {title}.", "bytes": size}
            row["recommended"] = kind == "prior"
            say("model", **row | {"state": "available", "license": "Open RAIL", "accepted": accepted} | here)
        for added in state["added"]:
            refused = {
                "state": "refused",
                "reason": "This is Stable Diffusion XL, which is not supported yet.",
            }
            how = refused if "xl" in added else {"state": "added", "bytes": 4_000_000_000}
            say("model", id=added, title=Path(added).name, kind="prior", path=added, **how)
    elif do == "get":
        code = get(folder, state, "--dry-run" in arguments, "--accept-license" in arguments)
        if code:
            return code
    elif do == "add":
        if not Path(names[0]).exists():
            say("error", kind="request", message=f"There is no model {names[0]}.", hint="Choose one.")
            return 1
        state["added"].append(names[0])
        say("model", id=names[0], title=Path(names[0]).name, kind="prior", state="added", path=names[0])
    elif do == "remove":
        state["installed"] = [name for name in state["installed"] if name != names[0]]
        state["added"] = [name for name in state["added"] if name != names[0]]
        say("removed", id=names[0], bytes=1)
    elif do == "verify":
        for name in state["installed"]:
            say("checking", id=name, file="unet/config.json")
            say(
                "verified",
                id=name,
                wrong=["config.json"] if name == state.get("damaged") else [],
                revision="1",
            )
    say("result", folder=str(folder))
    if do != "list":
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(state))
    return 1 if do == "verify" and state.get("damaged") else 0


def get(folder: Path, state: dict[str, Any], dry: bool, accept: bool) -> int:
    total = sum(size for _, _, size in ABOUT.values())
    if not state["accepted"]:
        say(
            "license",
            id="rail",
            title="Open RAIL",
            url="https://example.invalid/license",
            text="Section I\n\nYou agree not to use the Model for harm. " + "It restricts use. " * 400,
            models=["Stable Diffusion 2.1 base"],
        )
        if not dry and not accept:
            say("error", kind="license", message="The license is not accepted yet.", hint="Accept it.")
            return 1
    state["accepted"] |= accept
    models = [{"id": name, "title": ABOUT[name][0], "bytes": ABOUT[name][2]} for name in SET]
    present = state.get("present", 0)
    say("plan", models=models, bytes=total, present_bytes=present, free_bytes=50 * 10**9)
    if dry:
        return 0
    cancelled = threading.Event()
    threading.Thread(
        target=lambda: [cancelled.set() for line in sys.stdin if "cancel" in line], daemon=True
    ).start()
    for step in range(STEPS * present // total, STEPS + 1):
        if cancelled.is_set() or state["fail"] == step:
            state["present"] = total * step // STEPS
            (folder / "fake.json").write_text(json.dumps(state | {"fail": None}))
            if cancelled.is_set():
                say("cancelled")
                return 4
            say("error", kind="network", message="The connection to the hub was cut.", hint="Try again.")
            return 1
        say("progress", bytes=total * step // STEPS, total=total, bytes_per_s=10, eta_s=3.0, id="x", file="y")
        time.sleep(state["step_s"])
    for name in SET:
        say("model", id=name, kind=ABOUT[name][1], path=str(folder / name), bytes=ABOUT[name][2])
    state["installed"], state["present"] = list(SET), 0
    return 0
