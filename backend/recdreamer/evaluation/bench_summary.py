"""Tables of a benchmark: means with intervals over prompts and seeds, as the paper's Tables 1, 3 and 5."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.evaluation.animal_oracle import oracle_of
from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.frechet import balanced, frechet_distance, picture_features
from recdreamer.evaluation.intervals import Estimate, described, mean_over_prompts
from recdreamer.evaluation.measure_result import NUM_VIEWS, split_row
from recdreamer.evaluation.view_metrics import DIRECTIONS, ClipJudge
from recdreamer.images import write_picture
from recdreamer.presets import EMBEDDED_DRAWING
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.shared.worlds import world_of

FID_VIEWS = 5
"""Views of each result that FID compares (paper, 4.2)."""
FID_RESAMPLES = 200


@dataclass(frozen=True)
class Metric:
    key: str
    title: str
    better: str
    """↑, ↓ or nothing."""
    source: str
    digits: int = 3
    failed: float | None = 0.0
    """What a failed run counts as; None leaves it out."""


CONSISTENCY = (
    Metric("pose_entropy", "entropy", "↑", "Eq. 33 over ln 4"),
    Metric("azimuth_agreement", "agreement", "↑", "share of views with the true pose at the best yaw"),
    Metric("agreement_unrotated", "unrotated", "↑", "the same with the front at -Y"),
    Metric("janus_score", "R", "↓", "C.7", 2, None),
    Metric("success", "success", "↑", "share of runs with R = 0", 2),
    Metric("wanted_share", "wanted pose", "↑", "share of 2D particles that show it", 2, None),
    Metric("hat_share", "hat", "↑", "share of views with the hat that the prompt asks for", 2, None),
    Metric("entropy_together", "all particles", "↑", "entropy of all particles together (Fig. 6)", 3, None),
    Metric("entropy_of_each", "each particle", "↑", "mean entropy of a particle alone", 3, None),
    Metric("entropy_of_worst", "worst particle", "↑", "the least entropy of a particle alone", 3, None),
)
PAPER = (
    Metric("clip_entropy_nats", "cEnt", "↑", "Table 1, by CLIP", 4, None),
    Metric("pose_entropy_nats", "pEnt", "↑", "Table 1, Eq. 33 with its sign", 4, None),
    Metric("clip_score", "CLIP", "↓", "Table 1, 1 - cos", 4, None),
)
TRUTH = (
    Metric("field_chamfer", "Chamfer", "↓", "mean distance over the figure's height", 4, None),
    Metric("field_f_score", "F 2 %", "↑", "points within 2 % of the height", 3, None),
    Metric("field_normals", "normals", "↑", "mean cosine", 3, None),
    Metric("views_psnr_db", "PSNR", "↑", "24 views at the best yaw, dB", 2, None),
    Metric("views_patch_distance", "patch distance", "↓", "LPIPS type, by the extractor", 4, None),
    Metric("opposite_cosine", "front · back", "↓", "cosine of features", 3, None),
)
COST = (
    Metric("seconds", "seconds", "↓", "Table 3", 0, None),
    Metric("peak_gib", "peak GiB", "↓", "on a CPU: of the worker so far", 2, None),
)


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    numbers: dict[str, dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return {"title": self.title, "numbers": self.numbers}


Rows = Sequence[dict[str, Any]]


def grouped(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    """Rows by method, in their first order."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["method"]].append(row)
    return dict(groups)


def estimate_of(rows: Rows, metric: Metric) -> Estimate | None:
    """The mean of a metric over prompts and seeds; None if no run has it. Failed runs count as the metric says."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if "failed" in row and metric.failed is not None:
            values[row["prompt"]].append(metric.failed)
        elif isinstance(row.get(metric.key), (int, float)) and math.isfinite(row[metric.key]):
            values[row["prompt"]].append(float(row[metric.key]))
    return mean_over_prompts(values) if values else None


def _estimate(numbers: Sequence[float], count: int) -> Estimate:
    mean, low, high = numbers
    return Estimate(mean, low, high, count)


def written(estimate: Estimate | None, digits: int) -> str:
    """A mean with its interval.

    >>> written(Estimate(0.5, 0.25, 0.75, 4), 2), written(Estimate(0.5, math.nan, math.nan, 1), 1), written(None, 1)
    ('0.50 [0.25, 0.75]', '0.5', '')
    """
    if estimate is None:
        return ""
    mean = f"{estimate.mean:.{digits}f}"
    if math.isnan(estimate.low):
        return mean
    return f"{mean} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def means_table(title: str, rows: Rows, metrics: Sequence[Metric]) -> Table:
    """A row for each method, a column for each metric that a run has."""
    groups = grouped(rows)
    found = {name: {m.key: estimate_of(runs, m) for m in metrics} for name, runs in groups.items()}
    # A metric that only failed runs have, as 0, belongs to another kind of run.
    measured = {key for row in rows if "failed" not in row for key in row}
    used = [m for m in metrics if m.key in measured]
    note = (
        "Mean [95 % interval over prompts and seeds]. "
        + "; ".join(f"{m.title}: {m.source}" for m in used)
        + "."
    )
    counted = lambda runs: f"{sum('failed' not in run for run in runs)} of {len(runs)}"  # noqa: E731
    return Table(
        title,
        note,
        ("method", "finished", *(f"{m.title} {m.better}".strip() for m in used)),
        {
            name: (counted(groups[name]), *(written(row[m.key], m.digits) for m in used))
            for name, row in found.items()
        },
        {
            name: {
                m.key: None if (e := row[m.key]) is None else {"mean": e.mean, "low": e.low, "high": e.high}
                for m in used
            }
            for name, row in found.items()
        },
    )


def scores_table(rows: Rows) -> Table | None:
    """Table 5: the distribution of R by method. None if no run has one."""
    values = {
        name: [run["janus_score"] for run in runs if "janus_score" in run]
        for name, runs in grouped(rows).items()
    }
    stats = {name: described(scores) for name, scores in values.items() if scores}
    if not stats:
        return None
    keys = ("mean", "std", "median", "mode", "min", "max", "range")
    return Table(
        "Janus score R (Table 5)",
        "1 for each face and 0.5 for each back, tail, pack, ear or crest too many or missing; 0 is perfect.",
        ("method", *keys),
        {name: tuple(f"{row[key]:.2f}" for key in keys) for name, row in stats.items()},
        dict(stats),
    )


@dataclass(frozen=True)
class Reference:
    """Features of the prior's own pictures, to which FID and uFID compare."""

    name: str
    features: Float[Tensor, "pictures width"]
    prompts: tuple[str, ...]
    """Of each picture."""
    poses: Tensor
    """Of each picture, by the oracle or by CLIP's directions."""
    measure: Callable[[Tensor], Tensor]


def reference_features(
    folder: Path, prompts: Sequence[str], prior_name: str, device: torch.device, count: int
) -> Reference:
    """Draw `count` pictures of each prompt, a third each with words for front, side and back (paper, C.1.1), and read
    their poses. Pictures that were drawn before are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    prior: DiffusionPrior | None = None
    world = world_of(prior_name)
    pictures, owners = [], []
    phrases = (
        list(EMBEDDED_DRAWING.phrases().values())
        if world is not None
        else [d.removeprefix("from ") for d in DIRECTIONS]
    )
    for number, prompt in enumerate(prompts):
        path = folder / f"{number:02d}.png"
        if not path.exists():
            prior = prior or DiffusionPrior.load(prior_name, device, torch.float32)
            generator = torch.Generator(device=device).manual_seed(number)
            texts = [f"{prior.read(prompt, [phrases[k % 3]]).text}, {phrases[k % 3]}" for k in range(count)]
            drawn = torch.cat([prior.sample(texts[k : k + 8], generator) for k in range(0, count, 8)])
            write_picture(path, torch.cat(list(drawn), 2))
        pictures.append(split_row(path, count))
        owners += [prompt] * count
    images, features = torch.cat(pictures), picture_features(device)
    if world is not None:
        poses = torch.cat([oracle_of(world).pose_probs(some) for some in images.split(64)]).argmax(-1)
    else:
        poses = torch.cat(
            [
                ClipJudge(prompt, "clip").pose_probs(some).argmax(-1)
                for prompt, some in zip(prompts, pictures, strict=True)
            ]
        )
    return Reference(
        features.name,
        features(images.to(device)),
        tuple(owners),
        poses.cpu(),
        lambda p: features(p.to(device)),
    )


def distance_table(rows: Rows, runs: Path, reference: Reference) -> Table:
    """FID and uFID of each method, from five views of each run, with intervals over prompts."""
    found: dict[str, dict[str, Any]] = {}
    for name, group in grouped(rows).items():
        features: dict[str, list[Tensor]] = defaultdict(list)
        for row in group:
            path = runs / row["folder"] / "views.png"
            if "failed" not in row and path.exists():
                views = split_row(path, NUM_VIEWS)[
                    [round(k * NUM_VIEWS / FID_VIEWS) for k in range(FID_VIEWS)]
                ]
                features[row["prompt"]].append(reference.measure(views))
        if features:
            found[name] = fid_of({prompt: torch.cat(parts) for prompt, parts in features.items()}, reference)
    columns = ("method", "pictures", f"FID by {reference.name} ↓", f"uFID by {reference.name} ↓")
    return Table(
        f"Fréchet distances by the {reference.name} (Table 1)",
        "Five views of each run against pictures that the prior draws of the same prompts; uFID against the same with "
        "equally many of each pose. They depend on the number of pictures: compare rows of equal numbers only.",
        columns,
        {
            name: (
                str(row["pictures"]),
                *(written(_estimate(row[key], row["pictures"]), 3) for key in ("fid", "ufid")),
            )
            for name, row in found.items()
        },
        found,
    )


def fid_of(features: dict[str, Tensor], reference: Reference) -> dict[str, Any]:
    """FID and uFID as (mean, low, high): the value of all prompts, and an interval over resampled prompts."""
    prompts, random = list(features), np.random.default_rng(0)

    def both(chosen: Sequence[str]) -> tuple[float, float]:
        found = torch.cat([features[prompt] for prompt in chosen])
        picked = torch.tensor(
            [k for prompt in chosen for k, owner in enumerate(reference.prompts) if owner == prompt]
        )
        truth, poses = reference.features[picked], reference.poses[picked]
        return frechet_distance(found, truth), frechet_distance(found, truth[balanced(poses)])

    value = both(prompts)
    if len(prompts) < 3:
        low = high = (math.nan, math.nan)
    else:
        drawn = [
            both([prompts[k] for k in random.integers(len(prompts), size=len(prompts))])
            for _ in range(FID_RESAMPLES)
        ]
        # A resample has fewer different prompts, so its distances are biased: only their spread is used.
        spread = np.array(drawn) - np.mean(drawn, 0)
        low, high = (tuple(np.array(value) + np.quantile(spread, q, axis=0)) for q in (0.025, 0.975))
    return {
        "pictures": sum(map(len, features.values())),
        "fid": [value[0], float(low[0]), float(high[0])],
        "ufid": [value[1], float(low[1]), float(high[1])],
    }


def tables_of(rows: Rows, runs: Path, reference: Reference | None) -> list[Table]:
    """Every table for which there are numbers."""
    tables = [means_table("Consistency", rows, CONSISTENCY)]
    if scores := scores_table(rows):
        tables.append(scores)
    if reference is not None:
        tables.append(distance_table(rows, runs, reference))
    for title, metrics in (
        ("Entropies and fit to the prompt (Table 1)", PAPER), ("Distance from the truth", TRUTH), ("Cost (Table 3)", COST)
    ):  # fmt: skip
        tables.append(means_table(title, rows, metrics))
    return [table for table in tables if len(table.columns) > 2 and table.rows]


def failures_of(rows: Rows) -> list[tuple[str, str]]:
    """Runs without a result, with the reason."""
    return [(row["folder"], row["failed"]) for row in rows if "failed" in row]


def as_markdown(tables: Sequence[Table], facts: dict[str, str], rows: Rows = ()) -> str:
    """tables.md."""
    text = "".join(f"- {name}: {value}\n" for name, value in facts.items() if value) + "\n"
    for table in tables:
        text += f"## {table.title}\n{table.note}\n\n| {' | '.join(table.columns)} |\n|{'---|' * len(table.columns)}\n"
        text += "".join(f"| {' | '.join((name, *cells))} |\n" for name, cells in table.rows.items()) + "\n"
    if failed := failures_of(rows):
        text += "## Failed or not run\n" + "".join(f"- {name}: {reason}\n" for name, reason in failed)
    return text


def shares_over_time(rows: Rows, runs: Path) -> dict[str, list[dict[str, float | int]]]:
    """The oracle's shares of the poses by step, averaged over the runs of a method that have them."""
    import json

    found = {}
    for name, group in grouped(rows).items():
        traces = [
            json.loads(path.read_text(encoding="utf-8"))
            for row in group
            if (path := runs / row["folder"] / "poses.json").exists()
        ]
        by_step: dict[int, list[dict[str, float | int]]] = defaultdict(list)
        for record in (record for trace in traces for record in trace):
            by_step[record["step"]].append(record)
        found[name] = [
            {"step": step, **{pose: float(np.mean([r[pose] for r in records])) for pose in POSES}}
            for step, records in sorted(by_step.items())
        ]
    return {name: trace for name, trace in found.items() if trace}
