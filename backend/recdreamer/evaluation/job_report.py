"""Adds measurements to the report of a job."""

from __future__ import annotations

import json
from typing import Any

from recdreamer.protocol import JobFolder, write_atomically


def add_to_report(job: JobFolder, name: str, found: dict[str, Any]) -> None:
    """Add `found` as `name` to result/report.json and keep its other entries."""
    path = job.result / "report.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report[name] = found
    job.result.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(report, indent=2, ensure_ascii=False))
