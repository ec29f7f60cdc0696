"""Runs methods × prompts × seeds on the embedded world and evaluates them with the oracle.

    python tools/measure/compare_methods.py --out out/compare --workers 2

Writes a job folder for each run, table.md, table.json and a sheet of all contact sheets. Runs that are finished are
not repeated. Only the first stage is run: it decides the geometry.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

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


def main() -> None:
    from recdreamer.shared.protocol import JobRequest

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/compare"))
    parser.add_argument("--prompts", nargs="+", default=["a red bear", "a blue bird"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--set", nargs="*", default=[], help="settings, for example optimize.num_steps=300", dest="settings"
    )
    parser.add_argument(
        "--variants", type=Path, help="JSON file: name -> settings, each run with every method"
    )
    parser.add_argument(
        "--templates",
        type=Path,
        nargs="*",
        default=[],
        help="folders, each with a folder of pictures for each prompt",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    options = parser.parse_args()

    common = parse_settings(options.settings)
    variants = json.loads(options.variants.read_text()) if options.variants else {"": {}}
    folders = []
    cells = product(options.templates or [None], variants, options.prompts, options.seeds, options.methods)
    for source, variant, prompt, seed, method in cells:
        slug = prompt.replace(" ", "-")
        name = "_".join(filter(None, (source and source.name, variant, method, slug, str(seed))))
        request = JobRequest(
            prompt,
            seed=seed,
            device=options.device,
            stages=FIRST_STAGE,
            overrides=common | variants[variant],
            templates=templates_from(source / slug) if source else (),
            **METHODS[method],
        )
        folders.append(options.out / name)
        prepare(folders[-1], request)

    run_all(folders, options.workers, options.threads, options.device)
    rows = {folder.name: read_row(folder) for folder in folders}
    (options.out / "table.json").write_text(json.dumps(rows, indent=2))
    (options.out / "table.md").write_text(table_of(rows))
    print(table_of(rows))
    save_contact_sheets(folders, options.out / "sheet.png")


if __name__ == "__main__":
    main()
