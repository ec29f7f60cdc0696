"""The benchmark as one HTML page: tables, poses over time, sheets side by side, failures, settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from recdreamer.evaluation.bench_summary import (
    CONSISTENCY,
    Table,
    estimate_of,
    failures_of,
    grouped,
    shares_over_time,
)
from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.html_page import lines, page, picture, table, whiskers
from recdreamer.shared.protocol import write_atomically

MAX_SHEETS = 240


def write_report(
    out: Path, title: str, rows: Sequence[dict[str, Any]], tables: Sequence[Table], facts: dict[str, str]
) -> None:
    """Write report.html, which needs no other file."""
    parts = [f'<p class="verdict">{escape(facts["what it asks"])}</p>']
    for found in tables:
        parts += [f"<h2>{escape(found.title)}</h2>", f'<p class="note">{escape(found.note)}</p>']
        parts.append(table(found.columns, [(name, *cells) for name, cells in found.rows.items()]))
    if plots := _compared(rows):
        parts += [
            "<h2>Compared</h2>",
            '<p class="note">Mean and 95 % interval over prompts and seeds.</p>',
            plots,
        ]
    if traces := shares_over_time(rows, out / "runs"):
        parts += [
            "<h2>Poses over the steps</h2>",
            '<p class="note">Mean of the oracle over four views, or over all 2D particles.</p>',
        ]
        plots = [
            lines(name, [r["step"] for r in trace], {pose: [r[pose] for r in trace] for pose in POSES})
            for name, trace in traces.items()
        ]
        parts.append(f'<div class="plots">{"".join(plots)}</div>')
    parts.append(_readings(out / "readings.json"))
    parts.append(_sheets(out / "runs", rows))
    if failed := failures_of(rows):
        parts += [f"<h2>Failed or not run ({len(failed)})</h2>", table(("run", "reason"), failed)]
    parts += ["<h2>Settings</h2>", table(("", ""), [(name, value) for name, value in facts.items() if value])]
    write_atomically(out / "report.html", page(f"Benchmark: {title}", parts))


def _compared(rows: Sequence[dict[str, Any]]) -> str:
    """A plot of each measure of consistency over the methods and variants; nothing to compare gives ""."""
    groups, drawn = grouped(rows), ""
    measured = {key for row in rows if "failed" not in row for key in row}
    for metric in CONSISTENCY if len(groups) > 1 else ():
        found = {name: estimate_of(runs, metric) for name, runs in groups.items()}
        estimates = {name: (e.mean, e.low, e.high) for name, e in found.items() if e is not None}
        if metric.key in measured and estimates:
            drawn += whiskers(f"{metric.title} {metric.better}".strip(), _shortened(estimates))
    return f'<div class="plots">{drawn}</div>' if drawn else ""


def _shortened(estimates: dict[str, tuple[float, float, float]]) -> dict[str, tuple[float, float, float]]:
    """Without the method where all have the same one: the variant is what is compared.

    >>> list(_shortened({"usd-marginal, with": (1.0, 1.0, 1.0), "usd-marginal, without": (1.0, 1.0, 1.0)}))
    ['with', 'without']
    """
    methods = {name.split(", ", 1)[0] for name in estimates}
    if len(methods) > 1 or any(", " not in name for name in estimates):
        return estimates
    return {name.split(", ", 1)[1]: estimate for name, estimate in estimates.items()}


def _readings(path: Path) -> str:
    """What is read from noisy pictures and from their clean estimates, if that was asked."""
    if not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    note = "Of true renders with noise, by the timestep of the noise. Of four poses, chance is 0.25."
    drawn = "".join(
        lines(title, found["timesteps"], found[key])
        for key, title in (("accuracy", "accuracy"), ("truth", "mean probability of the true pose"))
    )
    return f'<h2>What is read from noise</h2><p class="note">{note}</p><div class="plots">{drawn}</div>'


def _sheets(runs: Path, rows: Sequence[dict[str, Any]]) -> str:
    """The contact sheets by prompt and seed, so that the methods stand below each other."""
    finished = [
        row
        for row in rows
        if "failed" not in row and (runs / row["folder"] / "result" / "contact-sheet.png").exists()
    ]
    finished.sort(key=lambda row: (row["prompt"], row["seed"]))
    text, shown = "<h2>Sheets</h2>", None
    if len(finished) > MAX_SHEETS:
        text += f'<p class="note">The first {MAX_SHEETS} of {len(finished)}; all are in the folders of the runs.</p>'
    for row in finished[:MAX_SHEETS]:
        if (row["prompt"], row["seed"]) != shown:
            shown = row["prompt"], row["seed"]
            text += f"<h3>{escape(row['prompt'])}, seed {row['seed']}</h3>"
        scores = [
            f"{name} {row[key]:.2f}"
            for key, name in (
                ("pose_entropy", "entropy"),
                ("azimuth_agreement", "agreement"),
                ("janus_score", "R"),
            )
            if isinstance(row.get(key), (int, float))
        ]
        text += picture(
            runs / row["folder"] / "result" / "contact-sheet.png", ", ".join([row["method"], *scores])
        )
    return text
