"""Runs a worker and shows its progress on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from recdreamer.shared.json_values import parse_json

HOME = Path(__file__).resolve().parents[2]
"""Folder that has this package. Neither the job folder nor the one where one works: there may be anything."""


def worker_environment() -> dict[str, str]:
    """Environment of a worker, which imports this package, and nothing from the folder where it happens to start."""
    paths = [str(HOME), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    absolute = [path for path in paths if os.path.isabs(path)]  # noqa: PTH117 — "" means the working folder.
    # The policy is read when the worker loads torch; see cli/work.py.
    return {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(absolute)), "PYTHONSAFEPATH": "1",
    }  # fmt: skip


def follow(folder: Path, options: tuple[str, ...] = ()) -> int:
    """Run a worker on a job folder and show its events. Ctrl+C saves and stops. Returns the worker's exit code."""
    from rich.console import Console

    console = Console()
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "recdreamer", "run", str(folder.absolute()), *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True,
        cwd=HOME, env=worker_environment(),
    )  # fmt: skip
    assert worker.stdin is not None and worker.stdout is not None
    # Leaving the block closes the pipes, so if this view fails, the worker saves and stops.
    with worker, console.status("starting …") if console.is_terminal else nullcontext() as status:
        view = EventView(console, status)
        while True:
            try:
                for line in worker.stdout:
                    view.hear(line)
                break
            except KeyboardInterrupt:
                with suppress(OSError):  # The worker may be gone already.
                    worker.stdin.write("pause\n")
                    worker.stdin.flush()
    return worker.wait()


class EventView:
    """Shows events as lines: one that is updated on a terminal, one per tenth of a stage elsewhere."""

    def __init__(self, console: Any, status: Any) -> None:
        self.console, self.status = console, status
        self.stage, self.last_tenth = "", -1

    def hear(self, line: str) -> None:
        """Show an event; other lines are stray output of a library, and are left out."""
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            self.show(parse_json(line))

    def show(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "stage":
                self.stage, self.last_tenth = event["name"], -1
            case "progress":
                self._progress(event)
            case "warning":
                self._print(f"Warning: {event['message']}")
            case "error":
                self._print(f"{event['message']} {event['hint']}")
            case "paused":
                self._print("Saved. Repeat the command to resume.")
            case "cancelled":
                self._print("Cancelled.")
            case "result":
                self._print("Done.")

    def _progress(self, event: dict[str, Any]) -> None:
        step, total, eta_s = event["step"], event["total"], event["eta_s"]
        left = "" if eta_s is None else f", {int(eta_s) // 60}:{int(eta_s) % 60:02d} left"
        line = f"{self.stage} {step}/{total}, {event['it_per_s']:.2f} it/s{left}"
        if self.status is not None:
            self.status.update(line)
        elif (tenth := 10 * step // max(1, total)) != self.last_tenth:
            self.last_tenth = tenth
            self._print(line)

    def _print(self, line: str) -> None:
        if self.status is not None:
            self.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)
