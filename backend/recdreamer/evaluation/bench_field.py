"""Times the Warp kernels against plain torch and against another version, in turns within one run.

The speed of a shared machine varies by a factor of two. In turns all candidates meet the same conditions, so the ratio of
two times of one round is more reliable than the times.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from recdreamer.evaluation import bench_field_cases
from recdreamer.evaluation.bench_field_cases import Case
from recdreamer.evaluation.bench_tables import FieldTable
from recdreamer.shared.protocol import write_atomically

OURS = {"levels": 8, "log2_table_size": 16, "base": 8, "finest": 128}
INSTANT_NGP = {"levels": 16, "log2_table_size": 19, "base": 16, "finest": 1024}
STYLES = ("-o", "--s", ":^")
"""Line styles of Warp, torch and the other version."""
RAYS = ("march", "composite", "picture")
TABLES: dict[FieldTable, tuple[str, str, list[Case]]] = {
    "hash-grid": (
        "Hash grid of 262,144 points, forward + backward; the bar is 10 times plain torch",
        "levels",
        [{"part": "hash grid", "points": 1 << 18, **grid} for grid in (OURS, INSTANT_NGP)],
    ),
    "resolution": (
        "Cost against picture size, four views",
        "size_px",
        [{"part": part, "size_px": px, "step_size": 0.04} for part in RAYS for px in (32, 64, 128)],
    ),
    "samples": (
        "Cost against the distance between samples, four views of 64 px",
        "step_size",
        [{"part": part, "size_px": 64, "step_size": step} for part in RAYS for step in (0.08, 0.04, 0.02)],
    ),
    "grid-size": (
        "Cost against the rows of a level (as a power of two), 65,536 points",
        "log2_table_size",
        [{"part": "hash grid", "points": 1 << 16, **OURS, "log2_table_size": size} for size in (12, 14, 16, 18)],
    ),
    "faces": (
        "Cost against faces: rays of four views of 64 px, a texture of 128 px",
        "faces",
        [{"part": "ray cast", "faces": faces, "size_px": 64} for faces in (1000, 10_000, 100_000)]
        + [{"part": "bake", "faces": faces, "texture_size_px": 128} for faces in (1000, 10_000, 100_000)],
    ),
    "step": (
        "Rendering, regularizers and update of one view, at Stable Diffusion's settings near the start of a run",
        "size_px",
        [{"part": part, "size_px": px} for part in ("step", "recorded step") for px in (64, 128, 256)],
    ),
}  # fmt: skip


@runtime_checkable
class Runner(Protocol):
    """A candidate of the comparison."""

    def prepare(self, case: Case) -> str | None:
        """Set up a case. Returns the reason if it cannot run here, else None."""

    def run(self) -> float:
        """Milliseconds of one repetition."""
        ...


class Here:
    """This version, with Warp or the reference."""

    def __init__(self, backend: str, device: torch.device) -> None:
        self.backend, self.device = backend, device

    def prepare(self, case: Case) -> str | None:
        try:
            self._run = bench_field_cases.prepare(case, self.backend, self.device)
        except ValueError as error:
            return str(error)
        return None

    def run(self) -> float:
        return bench_field_cases.milliseconds(self._run)


class There:
    """Another version with Warp, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], device: torch.device) -> None:
        self.process, self.device = process, device

    def prepare(self, case: Case) -> str | None:
        threads = torch.get_num_threads()
        asked = {"case": case, "backend": "warp", "device": str(self.device), "threads": threads}
        return self._ask(asked).get("cannot")

    def run(self) -> float:
        return self._ask({}).get("ms", float("nan"))

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        answer = ""
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        return json.loads(answer) if answer else {"cannot": "Its process ended; see its output."}


@contextmanager
def another_version(folder: Path, device: torch.device) -> Iterator[There]:
    """The version in a `backend` folder. Raises ValueError if there is none."""
    if not (folder / "recdreamer" / "__init__.py").exists():
        raise ValueError(f"{folder} has no recdreamer. Give the folder `backend` of another checkout.")
    # Without its own folder on the path (-P) the script imports the other version, and only that.
    process = subprocess.Popen(
        [sys.executable, "-P", bench_field_cases.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        encoding="utf-8", env=os.environ | {"PYTHONPATH": str(folder.absolute())},
    )  # fmt: skip
    try:
        yield There(process, device)
    finally:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.wait()
        process.stdout.close()


def bench_field(
    tables: Sequence[FieldTable],
    device: torch.device,
    repeats: int,
    seconds: float,
    against: Path | None = None,
) -> dict[str, Any]:
    """Medians and paired ratios of every case of the tables. Raises ValueError.

    A case ends after `repeats` rounds, or after `seconds` if that is earlier.
    """
    with contextlib.ExitStack() as stack:
        runners: dict[str, Runner] = {"Warp": Here("warp", device), "torch": Here("torch", device)}
        if against is not None:
            runners[str(against)] = stack.enter_context(another_version(against, device))
        found = {
            table: [measured(case, runners, repeats, seconds) for case in TABLES[table][2]]
            for table in tables
        }
    return {"device": device_name(device), "threads": torch.get_num_threads(), "tables": found}


def measured(case: Case, runners: dict[str, Runner], repeats: int, seconds: float) -> dict[str, Any]:
    """Median milliseconds of each runner, and the median over rounds of its time relative to the first runner."""
    refusals = {name: runner.prepare(case) for name, runner in runners.items()}
    able = [name for name, refusal in refusals.items() if refusal is None]
    rounds: list[dict[str, float]] = []
    started = time.perf_counter()
    for number in range(repeats):
        # In alternating order, so that no runner is always later in a round.
        rounds.append({name: runners[name].run() for name in (able[::-1] if number % 2 else able)})
        if time.perf_counter() - started > seconds:
            break
    first = next(iter(runners))
    return {
        "case": case,
        "rounds": len(rounds),
        "ms": {name: statistics.median(row[name] for row in rounds) for name in able},
        "ratio": {
            name: statistics.median(row[name] / row[first] for row in rounds)
            for name in able
            if name != first and first in able
        },
        "cannot": {name: refusal for name, refusal in refusals.items() if refusal is not None},
    }


def device_name(device: torch.device) -> str:
    """Name of the GPU, or "CPU" and the name of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"CPU, {line.split(':', 1)[1].strip()}"
    return f"CPU, {platform.processor() or platform.machine()}"


def as_tables(found: dict[str, Any]) -> str:
    """The measurement as Markdown tables."""
    lines = [
        f"Measured on: {found['device']}; torch with {found['threads']} thread(s), and on a CPU Warp has one."
    ]
    for table, rows in found["tables"].items():
        title, varied, _ = TABLES[table]
        names = list(dict.fromkeys(name for row in rows for name in [*row["ms"], *row["cannot"]]))
        names.sort(key=lambda name: name != "Warp")
        heads = [f"{name}, ms" for name in names] + [f"{name} / Warp" for name in names[1:]]
        lines += ["", f"## {title}", "", "| | " + " | ".join([varied, *heads, "rounds"]) + " |"]
        lines.append("|---" * (len(heads) + 3) + "|")
        for row in rows:
            cells = [row["case"]["part"], str(row["case"][varied])]
            cells += [_cell(row["ms"].get(name), "{:.1f}") for name in names]
            cells += [_cell(row["ratio"].get(name), "{:.2f}") for name in names[1:]]
            lines.append("| " + " | ".join([*cells, str(row["rounds"])]) + " |")
        reasons = {f"{name}: {why}" for row in rows for name, why in row["cannot"].items()}
        lines += ["", *(f"Left out: {reason}" for reason in sorted(reasons))] if reasons else []
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def save(found: dict[str, Any], folder: Path) -> list[Path]:
    """Write field.json, field.md and, if matplotlib is installed, field.png. Returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "field.json", folder / "field.md"]
    write_atomically(paths[0], json.dumps(found, indent=2))
    write_atomically(paths[1], as_tables(found) + "\n")
    if importlib.util.find_spec("matplotlib") is not None:
        paths.append(folder / "field.png")
        plot(found, paths[-1])
    return paths


def plot(found: dict[str, Any], path: Path) -> None:
    """Milliseconds against the varied quantity of each table; a colour per part, a line style per runner."""
    from matplotlib.figure import Figure

    tables = found["tables"]
    figure = Figure(figsize=(5 * len(tables), 4), layout="constrained")
    for axes, (table, rows) in zip(
        figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True
    ):
        varied = TABLES[table][1]
        parts = list(dict.fromkeys(row["case"]["part"] for row in rows))
        names = list(dict.fromkeys(name for row in rows for name in row["ms"]))
        for row_of, part in enumerate(parts):
            for style, name in zip(STYLES, names, strict=False):
                shown = [row for row in rows if row["case"]["part"] == part and name in row["ms"]]
                if shown:
                    values = [row["case"][varied] for row in shown], [row["ms"][name] for row in shown]
                    axes.plot(*values, style, color=f"C{row_of}", label=f"{part}, {name}", markersize=4)
        ticks = sorted({row["case"][varied] for row in rows})
        axes.set(xlabel=varied, ylabel="ms", title=table, yscale="log", xscale="log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.suptitle(f"Measured on: {found['device']}", fontsize=9)
    figure.savefig(path, dpi=120)
