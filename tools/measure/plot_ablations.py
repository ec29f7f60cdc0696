"""Plots the ablations of n_ema and of the number of classes (paper, Fig. 7 and 8), from finished runs.

python tools/measure/compare_methods.py --out out/n_ema \\
    --variants tools/measure/n_ema.json --methods usd-marginal --seeds 1 2
python tools/measure/compare_methods.py --out out/classes \\
    --templates out/templates/turntable* --methods usd-marginal …
python tools/measure/plot_ablations.py --n-ema out/n_ema --classes out/classes --out docs/images
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.pose.draw import LABELS
from recdreamer.presets import resolve
from recdreamer.shared.protocol import JobFolder

DPI = 110


def plot_n_ema(folder: Path, path: Path) -> None:
    """The marginal over the intervals of t at the end of the runs: a line per class, a panel per n_ema."""
    groups: dict[int, list[Any]] = defaultdict(list)
    for job in jobs_in(folder):
        checkpoint = CheckpointStore(job.checkpoints).newest("shape")
        assert checkpoint is not None
        n_ema = resolve(job.read_request()).rectifier.n_ema
        groups[n_ema].append((checkpoint.tensors["marginal"], row_of(job)))
    # Templates drawn by the prior.
    labels = (*LABELS, "left")
    figure, axes = plt.subplots(1, len(groups), figsize=(3.4 * len(groups), 3.0), sharey=True, squeeze=False)
    for axis, (n_ema, runs) in zip(axes[0], sorted(groups.items()), strict=True):
        mean = torch.stack([marginal for marginal, _ in runs]).mean(0)
        for index, label in enumerate(labels):
            axis.plot(mean[:, index], label=label)
        entropy = sum(row["pose_entropy"] for _, row in runs) / len(runs)
        agreement = sum(row["azimuth_agreement"] for _, row in runs) / len(runs)
        axis.set_title(f"n_ema {n_ema}: entropy {entropy:.2f}, agreement {agreement:.2f}", fontsize=9)
        axis.set_xlabel("interval of t")
        axis.set_ylim(0, 1)
    axes[0, 0].set_ylabel("running marginal")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)


def plot_classes(folder: Path, path: Path) -> None:
    """Entropy and agreement for each number of classes; a dot per run, a bar for the mean."""
    groups: dict[int, list[Any]] = defaultdict(list)
    for job in jobs_in(folder):
        groups[len(job.read_request().labels)].append(row_of(job))
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.0), sharey=True)
    counts = sorted(groups)
    for axis, name in zip(axes, ("pose_entropy", "azimuth_agreement"), strict=True):
        values = [[row[name] for row in groups[count]] for count in counts]
        axis.bar(range(len(counts)), [sum(v) / len(v) for v in values], color="#9bbbe0")
        for place, found in enumerate(values):
            axis.plot([place] * len(found), found, "k.", markersize=5)
        axis.set_xticks(range(len(counts)), [f"{count} classes" for count in counts])
        axis.set_title(name.replace("_", " "), fontsize=9)
    axes[0].set_ylim(0, 1.05)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)


def jobs_in(folder: Path) -> list[JobFolder]:
    return [JobFolder(row.parent) for row in sorted(folder.glob("*/row.json"))]


def row_of(job: JobFolder) -> dict[str, Any]:
    return json.loads((job.root / "row.json").read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-ema", type=Path)
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.n_ema:
        plot_n_ema(options.n_ema, options.out / "n-ema.png")
    if options.classes:
        plot_classes(options.classes, options.out / "number-of-classes.png")
