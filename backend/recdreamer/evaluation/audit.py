"""The audit: which of the field's metrics see a second face, on results whose truth is known?

A result is a folder of a run with row.json, which has the oracle's verdict, and its pictures: views.png with 24 views, or
result/contact-sheet.png with 12.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import bootstrap, spearmanr
from torch import Tensor

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.figurines import COLORS, KINDS, POSES
from recdreamer.evaluation.html_page import page, scatter, table
from recdreamer.evaluation.measure_result import classified, measure_views, split_row
from recdreamer.evaluation.mesh_distance import figure_or_none
from recdreamer.evaluation.mesh_views import true_views
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.evaluation.view_metrics import ClipJudge, distance_up_to_yaw
from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
from recdreamer.pose.features import FeatureExtractor
from recdreamer.pose.templates import PoseTemplate
from recdreamer.shared.json_values import read_json
from recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, RequestError, write_atomically

VIEW_PX = 64
GOOD, BAD = 0.9, 1.0
"""Consistent: agreement of GOOD and more and R = 0. Janus: R of BAD and more."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Audited:
    """A metric as it is published."""

    key: str
    title: str
    sign: int
    """1 if higher is better, -1 if lower is."""
    source: str


METRICS = (
    Audited("classifier_entropy", "pEnt", 1, "paper, Table 1: training-free classifier with true templates"),
    Audited("clip_entropy", "cEnt", 1, "paper, Table 1: CLIP with three directions"),
    Audited("clip_score", "CLIP score", -1, "paper, Table 1: 1 - cos with the prompt"),
    Audited("best_view", "best view", 1, "T3Bench's way to take the quality, by CLIP"),
    Audited("opposite_clip_cosine", "front · back, CLIP", -1, "MV-SDI's Janus score"),
    Audited("opposite_cosine", "front · back, DINO", -1, "the same by the extractor"),
    Audited("neighbor_cosine", "neighboring views", 1, "pairwise consistency, as MEt3R and View-CS ask"),
    Audited(
        "classifier_agreement", "agreement, classifier", 1, "ours: classes in their order, without an oracle"
    ),
    Audited("pose_entropy", "entropy, oracle", 1, "ours: Eq. 33 by the oracle"),
)


@dataclass(frozen=True)
class AuditedResult:
    name: str
    prompt: str
    pictures: Float[Tensor, "views 3 side side"]
    azimuth_deg: Float[Tensor, "views"]


def find_results(folders: Sequence[Path]) -> list[AuditedResult]:
    """All runs of the embedded world at any depth in these folders. Raises RequestError if there are none."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("row.json")):
            result = _read_result(path.parent)
            if result is not None:
                found.append(result)
    if not found:
        raise RequestError(
            "There are no results with pictures in these folders.",
            "Give the folder `runs` of a benchmark, with row.json and views.png in its subfolders.",
        )
    return found


def _read_result(run: Path) -> AuditedResult | None:
    """None without pictures, or for a prompt without a true figure."""
    prompt = prompt_of(run)
    if prompt is None or figure_or_none(prompt) is None:
        return None
    for path, count in ((run / "views.png", 24), (run / "result" / "contact-sheet.png", 12)):
        if path.exists():
            pictures = torch.nn.functional.interpolate(
                split_row(path, count), (VIEW_PX, VIEW_PX), mode="area"
            )
            # Contact sheets show every second view of 24.
            return AuditedResult(
                run.as_posix(), prompt, pictures, 7.5 + torch.arange(count) * (360.0 / count)
            )
    return None


def prompt_of(run: Path) -> str | None:
    """From its job, else from its name: "vsd_a-red-bear_2" says "a red bear".

    >>> prompt_of(Path("usd-marginal/07_a-blue-bird_41133")), prompt_of(Path("y1"))
    ('a blue bird', None)
    """
    if (run / "job.json").exists():
        request = read_json(run / "job.json")
        return request.get("prompt") if isinstance(request, dict) else None
    words = re.search(rf"({'|'.join(COLORS)})-({'|'.join(KINDS)})", run.name)
    return f"a {words[1]} {words[2]}" if words else None


class Auditor:
    """Measures results of the embedded world, with what each prompt needs made once."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.oracle = device, load_oracle(device)
        self.extractor = FeatureExtractor("builtin").to(device)
        self.of_prompt: dict[str, tuple[ClipJudge, PoseClassifier]] = {}

    @torch.no_grad()
    def measure(self, result: AuditedResult) -> dict[str, Any]:
        clip, classifier = self._prepared(result.prompt)
        pictures = result.pictures.to(self.device)
        found = measure_views(pictures, result.azimuth_deg, self.extractor, clip)
        probs = classifier(pictures).exp().cpu()
        by_classifier = classified(probs, classifier.labels, result.azimuth_deg)
        truth = classified(self.oracle.pose_probs(pictures).cpu(), POSES, result.azimuth_deg)
        figure = figure_or_none(result.prompt)
        assert figure is not None
        true = true_views(figure, _cameras(result.azimuth_deg), VIEW_PX).to(self.device)
        kind = result.prompt.split()[-1]
        return {
            "name": result.name, "prompt": result.prompt, "kind": kind, **truth,
            **{f"views_{key}": value for key, value in distance_up_to_yaw(self.extractor, pictures, true).items()},
            "classifier_entropy": by_classifier["pose_entropy"],
            "classifier_agreement": by_classifier["azimuth_agreement"],
            **found,
        }  # fmt: skip

    def _prepared(self, prompt: str) -> tuple[ClipJudge, PoseClassifier]:
        if prompt not in self.of_prompt:
            figure = figure_or_none(prompt)
            assert figure is not None
            shots = true_views(figure, _cameras(torch.tensor([*CLASS_AZIMUTHS_DEG.values()])), VIEW_PX)
            templates = [
                PoseTemplate(label, shot.to(self.device), None, azimuth)
                for (label, azimuth), shot in zip(CLASS_AZIMUTHS_DEG.items(), shots, strict=True)
            ]
            classifier = PoseClassifier(self.extractor, templates, ClassifierConfig())
            self.of_prompt[prompt] = ClipJudge(prompt, device=self.device), classifier
        return self.of_prompt[prompt]


def _cameras(azimuth_deg: Float[Tensor, "views"]) -> Any:
    return orbit_cameras(azimuth_deg, torch.full_like(azimuth_deg, 10.0), 4.0, 30.0)


def is_good(row: dict[str, Any]) -> bool:
    return row["azimuth_agreement"] >= GOOD and row["janus_score"] == 0


def is_bad(row: dict[str, Any]) -> bool:
    return row["janus_score"] >= BAD


def prefers_janus(rows: Sequence[dict[str, Any]], metric: Audited) -> tuple[float, int]:
    """Share of the pairs of a consistent and a Janus result of one prompt in which the metric prefers the latter, ties by
    half, and the number of pairs; 0.5 is chance."""
    wrong, pairs = 0.0, 0
    for prompt in {row["prompt"] for row in rows}:
        own = [row for row in rows if row["prompt"] == prompt]
        for good in filter(is_good, own):
            for bad in filter(is_bad, own):
                difference = metric.sign * (bad[metric.key] - good[metric.key])
                wrong += 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0
                pairs += 1
    return (wrong / pairs if pairs else math.nan), pairs


def rank_correlation(
    rows: Sequence[dict[str, Any]], metric: Audited, truth: str = "azimuth_agreement"
) -> tuple[float, float, float]:
    """Spearman's correlation of a metric, higher being better, with the truth, and its 95 % bootstrap interval."""
    values = metric.sign * np.array([row[metric.key] for row in rows], dtype=float)
    true = np.array([row[truth] for row in rows], dtype=float)
    if len(rows) < 4 or np.ptp(values) == 0 or np.ptp(true) == 0:
        return math.nan, math.nan, math.nan

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        if not (np.ptp(a) and np.ptp(b)):
            return 0.0
        return float(spearmanr(a, b)[0])  # pyright: ignore[reportArgumentType]

    interval = bootstrap(
        (values, true), correlation, paired=True, vectorized=False, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return correlation(values, true), float(interval.low), float(interval.high)


def audit(folders: Sequence[Path], out: Path, device: torch.device) -> dict[str, Any]:
    """Measure all results and write audit.jsonl, audit.json, audit.md and audit.html to `out`. Results that were measured
    before are not measured again. Raises RequestError."""
    results, auditor = find_results(folders), Auditor(device)
    out.mkdir(parents=True, exist_ok=True)
    path, known = out / "audit.jsonl", {}
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        known = {row["name"]: row for row in map(json.loads, lines)}
    rows = []
    with path.open("a", encoding="utf-8") as file:
        for number, result in enumerate(results, 1):
            if result.name not in known:
                known[result.name] = auditor.measure(result)
                file.write(json.dumps(known[result.name]) + "\n")
                file.flush()
                print(f"{number} of {len(results)}: {result.name}", flush=True)
            rows.append(known[result.name])
    return write_audit(rows, out)


def write_audit(rows: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """audit.json, audit.md and audit.html from measured results."""
    found, cells = {}, []
    for metric in METRICS:
        correlation, low, high = rank_correlation(rows, metric)
        wrong, pairs = prefers_janus(rows, metric)
        found[metric.key] = {"correlation": [correlation, low, high], "prefers_janus": wrong, "pairs": pairs}
        title = f"{metric.title} {'↑' if metric.sign > 0 else '↓'}"
        cells.append((title, f"{correlation:.2f} [{low:.2f}, {high:.2f}]", f"{wrong:.0%}", metric.source))
    goods, bads = sum(map(is_good, rows)), sum(map(is_bad, rows))
    note = (
        f"{len(rows)} results of {len({row['prompt'] for row in rows})} prompts: {goods} consistent (agreement of at "
        f"least {GOOD} and R = 0), {bads} Janus (R of at least {BAD:g}). Spearman's rank correlation with the oracle's "
        "agreement [95 % interval], and how often the metric prefers a Janus result to a consistent one of the same "
        "prompt (50 % is chance)."
    )
    columns = ("metric", "rank correlation with the truth", "prefers the Janus one", "source")
    text = f"# Audit\n{note}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    write_atomically(out / "audit.md", text + "".join(f"| {' | '.join(row)} |\n" for row in cells))
    summary = {"results": len(rows), "consistent": goods, "janus": bads, "metrics": found}
    write_atomically(out / "audit.json", json.dumps(summary, indent=2))
    agreement, colors = [row["azimuth_agreement"] for row in rows], [_color(row) for row in rows]
    plots = [
        scatter(metric.title, agreement, [row[metric.key] for row in rows], colors) for metric in METRICS
    ]
    parts = [
        f'<p class="verdict">{note}</p>',
        table(columns, cells),
        "<h2>Each metric over the true agreement</h2>",
        '<p class="note">Blue: consistent. Red: Janus. Yellow: between.</p>',
        f'<div class="plots">{"".join(plots)}</div>',
    ]
    write_atomically(out / "audit.html", page("Audit: which metrics see a second face?", parts))
    return summary


def _color(row: dict[str, Any]) -> int:
    return 2 if is_good(row) else 0 if is_bad(row) else 3
