"""What jobs have cost on this computer: minutes, memory of the GPU and disk space, as those that are done report it.

No bpy here.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ...backend.recdreamer.shared.json_values import read_json
from ...backend.recdreamer.shared.protocol import JobRequest, RequestError, write_atomically
from ...backend.recdreamer.shared.safe_files import confined
from ..setup.tree_sizes import tree_size

FILE = "costs.json"
MAX_KINDS = 200
"""The least recently measured kinds of jobs are forgotten beyond this number."""


class Cost(NamedTuple):
    """What a job takes."""

    seconds: float
    size: int
    """Bytes on the disk."""
    gpu: int = 0
    """Bytes of the GPU's memory at most; 0 without a GPU."""
    gpu_total: int = 0
    """Bytes of the whole GPU."""

    @staticmethod
    def of(seconds: float, *sizes: float) -> Cost:
        """From the numbers of a file. Raises TypeError and ValueError."""
        return Cost(max(0.0, float(seconds)), *(max(0, int(size)) for size in sizes))


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
        with suppress(OSError, RequestError, ValueError, TypeError, AttributeError):
            for kind, numbers in list(read_json(self.path).items())[-MAX_KINDS:]:
                self._known[str(kind)] = Cost.of(*numbers)

    def of(self, request: JobRequest) -> Cost | None:
        """What the last job of this kind has cost; None if there was none."""
        return self._known.get(kind_of(request))

    def learn(self, request: JobRequest, folder: Path) -> None:
        """Remember what a job that is done has cost. Its own report says how long its stages took."""
        with suppress(OSError, RequestError, ValueError, TypeError, AttributeError, KeyError):
            report = read_json(confined(folder, "result/report.json"))
            memory = report.get("gpu_memory", {})
            seconds = sum(float(value) for value in report["seconds"].values())
            cost = Cost.of(seconds, tree_size(folder), memory.get("peak", 0), memory.get("total", 0))
            kind = kind_of(request)
            known = {other: found for other, found in self._known.items() if other != kind}
            self._known = dict([*known.items(), (kind, cost)][-MAX_KINDS:])
            write_atomically(self.path, json.dumps(self._known))
