"""Evaluates camera control with block-outs as templates: all cases of a draw, as few runs as they need.

    python tools/pictures/blockouts.py --out out/blockouts
    PYTHONPATH=backend python3 tools/measure/blockout_runs.py --draw 7 --blockouts out/blockouts --workers 2

A case is a figure, a seed, a look of the viewport, and a block-out in grey or in the figure's colour, with or without a
face. A run depends on the block-out only through the templates that come of it (`pose/anchoring.py`), so cases whose
templates are the same share a run. Writes cases.json, table.md, table.json and sheet.png to OUT. Finished runs are not
repeated, and a failed run counts as 0, as in `sample_runs.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sample_runs import SEEDS, summary_of, summary_table

from recdreamer.evaluation.job_runs import (
    FIRST_STAGE,
    METHODS,
    prepare,
    read_row,
    run_all,
    save_contact_sheets,
    table_of,
    templates_from,
)

if TYPE_CHECKING:
    from recdreamer.pose.templates import PoseTemplate

FIGURES = {"bear": "red", "bird": "blue", "robot": "yellow", "rabbit": "purple"}
"""Kinds and the colours that the coloured block-outs have."""
LOOKS = ("solid", "material", "rendered")


@dataclass(frozen=True)
class Case:
    """One block-out in one look for one figure and seed."""

    kind: str
    seed: int
    look: str
    color: str
    face: str

    @property
    def prompt(self) -> str:
        return f"a {FIGURES[self.kind]} {self.kind}"

    @property
    def blockout(self) -> str:
        return f"{self.look}/{self.kind}-{self.color}-{self.face}"


def cases(draw: int, num_seeds: int) -> list[Case]:
    """All cases of sample `draw`, without repeated seeds."""
    seeds = iter(random.Random(draw).sample(SEEDS, num_seeds * len(FIGURES)))
    return [
        Case(kind, seed, look, color, face)
        for kind, own in FIGURES.items()
        for seed in [next(seeds) for _ in range(num_seeds)]
        for look, color, face in product(LOOKS, ("grey", own), ("face", "faceless"))
    ]


def digest(templates: Sequence[PoseTemplate]) -> str:
    """Equal for equal templates, whatever files they came from."""
    found = hashlib.sha256()
    for template in templates:
        found.update(template.image.cpu().numpy().tobytes())
        found.update(repr((template.label, template.azimuth_deg, template.weight)).encode())
    return found.hexdigest()


def shared_runs(digests: dict[Case, str]) -> dict[Case, list[Case]]:
    """The cases by the first with the same prompt, seed and templates, which is run for all of them."""
    first: dict[tuple[str, int, str], Case] = {}
    runs: dict[Case, list[Case]] = {}
    for case, found in digests.items():
        runs.setdefault(first.setdefault((case.prompt, case.seed, found), case), []).append(case)
    return runs


def templates_of(folders: dict[Case, Path], device: str) -> dict[Case, str]:
    """The digest of the templates that each case's job will use."""
    from recdreamer.device import choose_device, choose_dtype
    from recdreamer.presets import resolve
    from recdreamer.prior.diffusion import DiffusionPrior
    from recdreamer.shared.protocol import JobFolder
    from recdreamer.stages.guidance import prepare_classifier

    chosen = choose_device(device)
    found, prior = {}, None
    drawn: dict[tuple[str, int], Path] = {}
    for case, folder in folders.items():
        job = JobFolder(folder)
        # The prior's own pictures, which look and block-out do not change, are drawn once.
        own = drawn.setdefault((case.prompt, case.seed), job.templates / "drawn")
        if own.exists():
            shutil.copytree(own, job.templates / "drawn", dirs_exist_ok=True)
        config = resolve(job.read_request())
        prior = prior or DiffusionPrior.load(config.prior, chosen, choose_dtype(config.prior, chosen))
        found[case] = digest(prepare_classifier(job, config, prior)[1])
    return found


def main() -> None:
    from recdreamer.shared.protocol import JobRequest, Quality

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draw", type=int, required=True, help="number of the sample")
    parser.add_argument("--blockouts", type=Path, required=True, help="folder of tools/pictures/blockouts.py")
    parser.add_argument("--seeds", type=int, default=2, help="for each figure")
    parser.add_argument("--quality", default="standard", choices=get_args(Quality))
    parser.add_argument("--out", type=Path, help="default: out/blockouts-DRAW-QUALITY")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1, help="processes, spread over all GPUs")
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    options = parser.parse_args()
    out = options.out or Path("out") / f"blockouts-{options.draw}-{options.quality}"

    folders: dict[Case, Path] = {}
    for case in cases(options.draw, options.seeds):
        folders[case] = out / "runs" / f"{case.kind}_{case.seed}_{case.blockout.replace('/', '-')}"
        request = JobRequest(
            case.prompt,
            seed=case.seed,
            device=options.device,
            quality=options.quality,
            stages=FIRST_STAGE,
            templates=templates_from(options.blockouts / case.blockout),
            **METHODS["usd-camera"],
        )
        prepare(folders[case], request)
    listed = out / "cases.json"
    if listed.exists():
        digests = dict(zip(folders, json.loads(listed.read_text(encoding="utf-8"))["digests"], strict=True))
    else:
        digests = templates_of(folders, options.device)
        described = {"cases": [asdict(case) for case in folders], "digests": list(digests.values())}
        listed.write_text(json.dumps(described, indent=2), encoding="utf-8")
    runs = shared_runs(digests)
    print(f"{len(folders)} cases, {len(runs)} runs", flush=True)

    run_all([folders[case] for case in runs], options.workers, options.threads, options.device)
    rows: dict[str, dict[str, Any]] = {folders[case].name: read_row(folders[case]) for case in runs}
    by_case = [rows[folders[first].name] for first, sharing in runs.items() for _ in sharing]
    summaries = {"by run": summary_of(list(rows.values())), "by case": summary_of(by_case)}
    text = f"Draw {options.draw}, {options.quality}.\n\n{summary_table(summaries)}\n{table_of(rows)}"
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "table.json").write_text(json.dumps({"summary": summaries, "runs": rows}, indent=2))
    save_contact_sheets([folders[case] for case in runs], out / "sheet.png")
    print(text)


if __name__ == "__main__":
    main()
