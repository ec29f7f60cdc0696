"""The command `recdreamer evaluate`: job, mesh, classifier."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from recdreamer.paths import given_path
from recdreamer.protocol import JobFolder, write_atomically


@dataclass(frozen=True)
class EvaluateJob:
    """Evaluate a finished job of the embedded prior with the oracle; adds to its report.json."""

    job: tyro.conf.Positional[Path]


@dataclass(frozen=True)
class EvaluateMesh:
    """Compare a job's mesh with the true figure of its prompt; adds to its report.json, and writes a sheet of views."""

    job: tyro.conf.Positional[Path]
    animals: Path | None = None
    """File of the true animals, which tools/train_prior/animals.py --fetch writes."""


@dataclass(frozen=True)
class EvaluateClassifier:
    """Measure the training-free classifier on the embedded world (paper, Tables 2 and 6)."""

    out: Path
    """Folder for classifier.json, classifier.md and the templates; templates from an earlier run are reused."""
    count: int = 2400
    """Number of renders, over all kinds and colours."""
    extractor: str = "builtin"
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a job, its mesh, or the classifier."""

    what: (
        Annotated[EvaluateJob, tyro.conf.subcommand("job")]
        | Annotated[EvaluateMesh, tyro.conf.subcommand("mesh")]
        | Annotated[EvaluateClassifier, tyro.conf.subcommand("classifier")]
    )


def run_evaluate(command: Evaluate) -> int:
    """Raises RequestError and JobError."""
    match command.what:
        case EvaluateJob():
            from recdreamer.evaluation.judge_views import judge_job

            print(json.dumps(judge_job(_job(command.what.job)).as_dict(), indent=2))
        case EvaluateMesh():
            from recdreamer.evaluation.judge_mesh import judge_mesh

            print(
                json.dumps(
                    judge_mesh(_job(command.what.job), command.what.animals), indent=2, ensure_ascii=False
                )
            )
        case EvaluateClassifier():
            evaluate_classifier(command.what)
    return 0


def _job(folder: Path) -> JobFolder:
    """The job in a folder. Raises RequestError if what is written there would go elsewhere."""
    job = JobFolder(given_path(folder))
    job.check()
    return job


def evaluate_classifier(command: EvaluateClassifier) -> None:
    from recdreamer.device import choose_device
    from recdreamer.evaluation.classifier_accuracy import as_tables, measure_classifier

    found = measure_classifier(
        command.out,
        command.count,
        choose_device(command.device),
        command.extractor,
        command.seed,
        lambda what: print(what, flush=True),
    )
    write_atomically(command.out / "classifier.json", json.dumps(found, indent=2))
    write_atomically(command.out / "classifier.md", as_tables(found))
    print(as_tables(found))
