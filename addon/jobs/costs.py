"""What jobs have cost on this computer: minutes and disk space, learned from those that were done. No bpy here."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path

from ...backend.recdreamer.shared.json_values import read_json
from ...backend.recdreamer.shared.protocol import JobRequest, RequestError, write_atomically
from ...backend.recdreamer.shared.safe_files import confined

FILE = "costs.json"
MAX_KINDS = 200
"""The least recently measured kinds of jobs are forgotten beyond this number."""

Cost = tuple[float, int]
"""Seconds and bytes."""


def kind_of(request: JobRequest) -> str:
    """What the cost of a job depends on, as far as its request says it."""
    size = [
        f"{name}={request.overrides[name]}" for name in sorted(request.overrides) if name.startswith("mesh.")
    ]
    parts = (request.prior, request.method, request.quality, request.device, *request.stages_to_run, *size)
    return " ".join(parts)


class Costs:
    """The measured costs of a data folder."""

    def __init__(self, data_folder: Path) -> None:
        self.path = data_folder / FILE
        self._known: dict[str, Cost] = {}
        self._lock = threading.Lock()
        with suppress(OSError, RequestError, ValueError, TypeError, AttributeError):
            for kind, (seconds, size) in list(read_json(self.path).items())[-MAX_KINDS:]:
                self._known[str(kind)] = (max(0.0, float(seconds)), max(0, int(size)))

    def of(self, request: JobRequest) -> Cost | None:
        """What the last job of this kind has cost; None if there was none."""
        return self._known.get(kind_of(request))

    def learn_in_background(self, request: JobRequest, folder: Path) -> threading.Thread:
        """Like `learn`, which measures a folder, in a thread of its own."""
        thread = threading.Thread(
            target=self.learn, args=(request, folder), name="recdreamer costs", daemon=True
        )
        thread.start()
        return thread

    def learn(self, request: JobRequest, folder: Path) -> None:
        """Remember what a job that is done has cost. Its own report says how long its stages took."""
        with suppress(OSError, RequestError, ValueError, TypeError, AttributeError, KeyError):
            seconds = read_json(confined(folder, "result/report.json"))["seconds"]
            total = sum(float(value) for value in seconds.values())
            kind, size = kind_of(request), size_of(folder)
            with self._lock:
                known = {other: cost for other, cost in self._known.items() if other != kind}
                self._known = dict([*known.items(), (kind, (total, size))][-MAX_KINDS:])
                write_atomically(self.path, json.dumps(self._known))


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; links are not followed."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(Path(root, name)).st_size
    return total
