"""Draws README's first picture: VSD and USD side by side, with the numbers of all runs, from a folder of the benchmark.

    .venv/backend/bin/python tools/pictures/side_by_side.py out/janus --out docs/images/bar.png

Shown are the first prompt of each kind and the first seed of the suite `bar`, whatever they look like; the numbers are
the means over all prompts and seeds in the folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

METHODS = {"vsd": "VSD", "usd-camera": "USD, camera control"}
SHOWN = ("a red bear", "a blue bird", "a yellow robot", "a purple rabbit")
SEED = 2001
VIEWS, VIEW_PX = (0, 4, 8, 12, 16, 20), 64
"""Of the 24 in views.png: 60 degrees apart."""
CROP = slice(6, 60), slice(8, 56)
"""Rows and columns of a view that hold the figure."""


def row_of(folder: Path) -> np.ndarray:
    """Six views of a run, 2 px apart."""
    sheet = np.asarray(Image.open(folder / "views.png").convert("RGB"))
    views = [sheet[:VIEW_PX, VIEW_PX * k : VIEW_PX * (k + 1)][CROP] for k in VIEWS]
    gap = np.full((views[0].shape[0], 2, 3), views[0][0, 0], np.uint8)
    return np.concatenate([part for view in views for part in (view, gap)][:-1], 1)


def numbers_of(rows: list[dict]) -> str:
    entropy, agreement = (fmean(row[key] for row in rows) for key in ("pose_entropy", "azimuth_agreement"))
    return f"entropy {entropy:.2f}, agreement {agreement:.2f}"


def draw(bench: Path, out: Path) -> None:
    rows = [json.loads(line) for line in (bench / "results.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplots(len(SHOWN), len(METHODS), gridspec_kw={"wspace": 0.03, "hspace": 0.0})
    for column, (method, title) in enumerate(METHODS.items()):
        of_method = [row for row in rows if row["method"] == method and "failed" not in row]
        for line, prompt in enumerate(SHOWN):
            (shown,) = (row for row in of_method if row["prompt"] == prompt and row["seed"] == SEED)
            place = axes[line, column]
            place.imshow(row_of(bench / "runs" / shown["folder"]), interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
            for side in place.spines.values():
                side.set_visible(False)
            if not column:
                place.set_ylabel(prompt.removeprefix("a ").replace(" ", "\n"), fontsize=10)
        axes[0, column].set_title(f"{title}\n{numbers_of(of_method)} ({len(of_method)} runs)", fontsize=12)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", type=Path, help="folder of `recdreamer bench janus --suite bar`")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    draw(arguments.bench, arguments.out)
