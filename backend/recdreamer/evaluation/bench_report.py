"""The benchmark as one HTML page: tables, poses over time, sheets side by side, failures, settings."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from recdreamer.evaluation.bench_summary import Table, failures_of, shares_over_time
from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.html_page import lines, page, picture, table
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
    if traces := shares_over_time(rows, out / "runs"):
        parts += ["<h2>Poses over the steps</h2>", '<p class="note">Mean of the oracle over four views.</p>']
        plots = [
            lines(name, [r["step"] for r in trace], {pose: [r[pose] for r in trace] for pose in POSES})
            for name, trace in traces.items()
        ]
        parts.append(f'<div class="plots">{"".join(plots)}</div>')
    parts.append(_sheets(out / "runs", rows))
    if failed := failures_of(rows):
        parts += [f"<h2>Failed or not run ({len(failed)})</h2>", table(("run", "reason"), failed)]
    parts += ["<h2>Settings</h2>", table(("", ""), [(name, value) for name, value in facts.items() if value])]
    write_atomically(out / "report.html", page(f"Benchmark: {title}", parts))


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
