"""The command `recdreamer evaluate`: job, mesh, classifier, janus, audit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from recdreamer.evaluation.bench_tables import OracleName
from recdreamer.paths import given_path
from recdreamer.shared.protocol import JobFolder, write_atomically


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
class EvaluateJanus:
    """Look at a mesh file of any tool from all sides: how many fronts does it have?"""

    file: tyro.conf.Positional[Path]
    """.glb, .gltf, .obj, .ply or .stl; colors are read from glTF."""
    out: Path | None = None
    """Folder for report.html, sheet.png and inspection.json; by default FILE-inspection beside the file."""
    prompt: str = ""
    """What it is, for CLIP and for the embedded oracle: "a red bear"."""
    oracle: OracleName = "auto"
    """Who says which side is seen. auto: templates or Orient Anything if given, embedded for a prompt of its world, else
    CLIP."""
    orient: Path | None = None
    """Weights of Orient Anything, its dino_weight.pt as .safetensors."""
    templates: Path | None = None
    """Folder of pictures named front.png, back.png, left.png …"""
    extractor: str = "builtin"
    """builtin, a DINOv2 folder, or one from `recdreamer models list`."""
    clip: str = "builtin"
    """builtin, a CLIP folder, or one from `recdreamer models list`."""
    device: str = "auto"


@dataclass(frozen=True)
class EvaluateAudit:
    """Ask of the field's metrics which of them see a second face, on results of the embedded world."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders with runs of `recdreamer bench janus` at any depth."""
    out: Path
    """Folder for audit.jsonl, audit.json, audit.md and audit.html; what was measured before is kept."""
    device: str = "auto"


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a job, its mesh, the classifier, any mesh, or metrics."""

    what: (
        Annotated[EvaluateJob, tyro.conf.subcommand("job")]
        | Annotated[EvaluateMesh, tyro.conf.subcommand("mesh")]
        | Annotated[EvaluateClassifier, tyro.conf.subcommand("classifier")]
        | Annotated[EvaluateJanus, tyro.conf.subcommand("janus")]
        | Annotated[EvaluateAudit, tyro.conf.subcommand("audit")]
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
        case EvaluateJanus():
            evaluate_janus(command.what)
        case EvaluateAudit():
            evaluate_audit(command.what)
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


def evaluate_janus(command: EvaluateJanus) -> None:
    from recdreamer.evaluation.inspect_mesh import default_folder, inspect_mesh

    file = given_path(command.file)
    out = given_path(command.out) if command.out else default_folder(file)
    found = inspect_mesh(
        file, out, command.prompt, command.oracle, command.templates, command.extractor, command.clip,
        command.device, command.orient,
    )  # fmt: skip
    print(json.dumps(found, indent=2, ensure_ascii=False))
    print(f"{found['verdict']}\nWritten: {out / 'report.html'}")


def evaluate_audit(command: EvaluateAudit) -> None:
    from recdreamer.device import choose_device
    from recdreamer.evaluation.audit import audit

    out = given_path(command.out)
    audit([given_path(folder) for folder in command.folders], out, choose_device(command.device))
    print((out / "audit.md").read_text(encoding="utf-8"))
    print(f"Written: {out / 'audit.html'}")
