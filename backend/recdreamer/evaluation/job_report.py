"""What judges add to a job's report."""

from __future__ import annotations

import json
from typing import Any

from recdreamer.protocol import JobFolder, write_atomically


def add_to_report(job: JobFolder, name: str, found: dict[str, Any]) -> None:
    """Put `found` under `name` into result/report.json, beside what is there."""
    path = job.result / "report.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report[name] = found
    write_atomically(path, json.dumps(report, indent=2, ensure_ascii=False))
