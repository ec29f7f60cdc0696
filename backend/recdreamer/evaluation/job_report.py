"""Adds measurements to the report of a job."""

from __future__ import annotations

import json
from typing import Any

from recdreamer.shared.json_values import read_json
from recdreamer.shared.protocol import JobFolder, write_atomically
from recdreamer.shared.safe_files import FileMissing, RequestError


def add_to_report(job: JobFolder, name: str, found: dict[str, Any]) -> None:
    """Add `found` as `name` to result/report.json and keep its other entries."""
    path = job.result / "report.json"
    try:
        report = read_json(path)
    except FileMissing:
        report = {}
    if not isinstance(report, dict):
        raise RequestError("report.json is no report.", "Remove it from the result; the job makes it again.")
    report[name] = found
    job.result.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(report, indent=2, ensure_ascii=False))
