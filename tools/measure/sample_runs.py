"""Evaluates settings on a random sample of prompts and seeds with the oracle: mean, worst run and interval.

    PYTHONPATH=backend python3 tools/measure/sample_runs.py --draw 7 --runs 24 --methods usd-marginal --workers 2
    … --templates "out/blockouts/solid/{kind}-grey-face"
    … --world animals

`--draw` is the number of the sample: the same number draws the same prompts and seeds, and more runs extend fewer. Each
kind comes equally often, and so does each colour of a kind. Evaluate settings on another draw than they were chosen on.

Writes sample.json (the sample and its options), table.md, table.json, and for each method and source of templates a
folder of jobs with sheet.png to OUT. Finished runs are not repeated. A failed run counts as 0.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import numpy as np

from recdreamer.evaluation.job_runs import (
    FIRST_STAGE,
    METHODS,
    parse_settings,
    prepare,
    read_row,
    run_all,
    save_contact_sheets,
    table_of,
    templates_from,
)
from recdreamer.shared.worlds import DEFAULT_WORLD, WORLDS, described

SEEDS = range(1_000, 1_000_000)
"""Excludes the small seeds, on which the documentation and the presets were tuned."""
SCORES = {"entropy": "pose_entropy", "agreement": "azimuth_agreement", "unrotated": "agreement_unrotated"}
MESH_SCORES = {"F 2 %": "f_score", "normals": "normals", "PSNR": "psnr_db", "watertight": "is_watertight"}
"""Additional scores of whole jobs."""


@dataclass(frozen=True)
class SampledRun:
    """One run of a sample."""

    kind: str
    color: str
    seed: int

    @property
    def prompt(self) -> str:
        return described(self.kind, self.color)


def draw(number: int, num_runs: int, looks: Mapping[str, Sequence[str]]) -> list[SampledRun]:
    """The first runs of sample `number` of the kinds in `looks` and their colours, without repeated seeds.

    In rounds in which each kind comes once, in random order; the colours of each kind also come in rounds.
    """
    kinds = list(looks)
    # Unlike NumPy's, these methods are the same in all versions of Python.
    generator = random.Random(number)
    sample: list[SampledRun] = []
    colors_left: dict[str, list[str]] = {kind: [] for kind in kinds}
    used: set[int] = set()
    while len(sample) < num_runs:
        for kind in generator.sample(kinds, len(kinds)):
            if not colors_left[kind]:
                colors_left[kind] = generator.sample(looks[kind], len(looks[kind]))
            seed = generator.choice(SEEDS)
            while seed in used:
                seed = generator.choice(SEEDS)
            used.add(seed)
            sample.append(SampledRun(kind, colors_left[kind].pop(), seed))
    return sample[:num_runs]


def bootstrap_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean over resamples of the same size, drawn with replacement."""
    picks = np.random.default_rng(0).integers(len(values), size=(20_000, len(values)))
    means = np.asarray(values, dtype=float)[picks].mean(1)
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def summary_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean, worst run and interval of each score; `one front` is the share of runs with exactly one front."""
    finished = [row for row in rows if "failed" not in row]
    scores = SCORES | (MESH_SCORES if any("f_score" in row for row in rows) else {})
    values = {name: [float(row.get(key, 0.0)) for row in rows] for name, key in scores.items()}
    values["one front"] = [float(row.get("fronts") == 1) for row in rows]
    summary: dict[str, Any] = {"runs": len(rows), "failed": len(rows) - len(finished)}
    for name, numbers in values.items():
        summary[name] = {
            "mean": fmean(numbers), "worst": min(numbers), "interval": bootstrap_interval(numbers),
        }  # fmt: skip
    if finished:
        summary["fronts"] = {
            "mean": fmean(row["fronts"] for row in finished),
            "worst": max((row["fronts"] for row in finished), key=lambda fronts: abs(fronts - 1)),
        }
    return summary


def summary_table(summaries: dict[str, dict[str, Any]]) -> str:
    """A line for each group of runs, in Markdown: mean, interval and worst."""
    known = [name for name in (*SCORES, *MESH_SCORES) if any(name in s for s in summaries.values())]
    names = (*known, "one front")
    lines = [f"| | runs | failed | {' | '.join(names)} | fronts |", f"|{'---|' * (len(names) + 4)}"]
    for group, summary in summaries.items():
        cells = []
        for name in names:
            if name not in summary:
                cells.append("")
                continue
            score = summary[name]
            low, high = score["interval"]
            worst = "" if name == "one front" else f", worst {score['worst']:.3f}"
            cells.append(f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]{worst}")
        fronts = summary.get("fronts")
        cells.append(f"{fronts['mean']:.2f}, worst {fronts['worst']}" if fronts else "")
        lines.append(f"| {group} | {summary['runs']} | {summary['failed']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def folder_of(source: str, drawn: SampledRun) -> Path:
    """The folder of templates for a figure: `source` with {kind} and {color} filled in, or its subfolder named after the
    prompt, the kind and colour, or the kind."""
    if "{" in source:
        return Path(source.format(kind=drawn.kind, color=drawn.color))
    names = (drawn.prompt.replace(" ", "-"), f"{drawn.kind}-{drawn.color}", drawn.kind)
    return next(
        (folder for name in names if (folder := Path(source) / name).is_dir()), Path(source) / names[0]
    )


def name_of(source: str) -> str:
    """A short name of a source of templates: the last two parts of its path, without placeholders."""
    last = "/".join(Path(source).parts[-2:]).replace("{kind}", "").replace("{color}", "")
    return re.sub(r"\W+", "-", last).strip("-")


def main() -> None:
    from recdreamer.shared.protocol import JobRequest, Quality, RequestError, Stage

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draw", type=int, required=True, help="number of the sample")
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--world", default=DEFAULT_WORLD.name, choices=WORLDS)
    parser.add_argument("--methods", nargs="+", default=["usd-marginal"], choices=METHODS)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="settings")
    parser.add_argument("--quality", default="standard", choices=get_args(Quality))
    parser.add_argument(
        "--templates", nargs="+", default=[], metavar="SOURCE",
        help="folders of templates, each with one for each prompt or kind, or with {kind} and {color} in their path",
    )  # fmt: skip
    parser.add_argument(
        "--whole", action="store_true", help="all stages, and the mesh against the true figure"
    )
    parser.add_argument("--out", type=Path, help="default: out/sample-DRAW")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1, help="processes, spread over all GPUs")
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    options = parser.parse_args()
    out = options.out or Path("out") / f"sample-{options.draw}"

    sample = draw(options.draw, options.runs, WORLDS[options.world].looks)
    groups: dict[str, list[Path]] = {}
    for source, method in product(options.templates or [""], options.methods):
        group = "_".join(filter(None, (method, name_of(source))))
        groups[group] = []
        for index, drawn in enumerate(sample):
            try:
                templates = templates_from(folder_of(source, drawn)) if source else ()
            except RequestError as error:
                raise SystemExit(str(error)) from error
            request = JobRequest(
                drawn.prompt,
                seed=drawn.seed,
                prior=options.world,
                device=options.device,
                quality=options.quality,
                stages=get_args(Stage) if options.whole else FIRST_STAGE,
                overrides=parse_settings(options.settings),
                templates=templates,
                **METHODS[method],
            )
            slug = drawn.prompt.replace(" ", "-")
            groups[group].append(out / group / f"{index:02d}_{slug}_{drawn.seed}")
            prepare(groups[group][-1], request)
    facts = {name: value for name, value in vars(options).items() if name not in ("out", "workers")}
    facts["sample"] = [asdict(drawn) for drawn in sample]
    (out / "sample.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")

    run_all(
        [folder for folders in groups.values() for folder in folders],
        options.workers, options.threads, options.device,
    )  # fmt: skip

    rows = {group: {f.name: read_row(f) for f in folders} for group, folders in groups.items()}
    summaries = {group: summary_of(list(runs.values())) for group, runs in rows.items()}
    text = (
        f"Draw {options.draw}, {options.quality}: mean [95 % bootstrap interval over runs], worst run. "
        f"A failed run counts as 0.\n\n{summary_table(summaries)}"
    )
    for group, runs in rows.items():
        text += f"\n## {group}\n{table_of(runs)}"
        save_contact_sheets(groups[group], out / group / "sheet.png")
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "table.json").write_text(json.dumps({"summary": summaries, "runs": rows}, indent=2))
    print(text)


if __name__ == "__main__":
    main()
