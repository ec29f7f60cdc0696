"""Measures how well the training-free classifier reads poses, and whether its gradient is meaningful.

On true renders of the embedded world (paper, Table 6), on the prior's estimates of them, on sketches (Table 2), and on
shapes without a pose. The prior draws the templates, as in a job without templates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.classifier_gradient import ascent, leaving_a_state, on_shapeless
from recdreamer.evaluation.classifier_subjects import ClassifierBench, Subject
from recdreamer.evaluation.figurines import COLORS, KINDS, POSES, Figurines, pose_class
from recdreamer.evaluation.sketches import draw_sketches
from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
from recdreamer.pose.templates import PoseTemplate
from recdreamer.presets import EMBEDDED_CAMERAS

TIMESTEPS = (100, 300, 500, 700, 900)
BORDER_DEG = 10.0
"""Views nearer to a border between two poses are reported separately: there both answers are nearly right."""
BRANCHES = ("full", "orientation", "texture")


def measure_classifier(
    folder: Path,
    count: int,
    device: torch.device,
    extractor: str,
    seed: int,
    say: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """All measurements, as values for JSON; `as_tables` formats them."""
    bench = ClassifierBench(folder, device, extractor, seed)
    subjects = []
    for kind in range(len(KINDS)):
        for color in range(len(COLORS)):
            subjects.append(bench.subject(kind, color))
            say(f"templates of {subjects[-1].prompt}")
    one_of_each = subjects[:: len(COLORS) + 1]
    found: dict[str, Any] = {"extractor": extractor}
    found |= on_renders(bench, subjects, count, say)
    say("estimates of the prior")
    found["estimates"] = on_estimates(bench, subjects, max(1, count // 5 // len(subjects)))
    say("sketches")
    found["sketches"] = on_sketches(bench, one_of_each)
    say("shapes without a pose")
    found["shapeless"] = on_shapeless(bench, one_of_each)
    say("gradient")
    found["ascent"] = ascent(bench, one_of_each)
    say("marginal form")
    found["leaving"] = leaving_a_state(bench, one_of_each)
    return found


def scores(
    truth: Int[Tensor, "n"], guess: Int[Tensor, "n"], num_classes: int = len(POSES)
) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 averaged over the classes (macro)."""
    table = torch.zeros(num_classes, num_classes, dtype=torch.long)
    table.index_put_((truth.cpu(), guess.cpu()), torch.ones(len(truth), dtype=torch.long), accumulate=True)
    right = table.diagonal().float()
    precision = right / table.sum(0).clamp_min(1)
    recall = right / table.sum(1).clamp_min(1)
    f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
    return {
        "accuracy": (right.sum() / table.sum()).item(),
        "precision": precision.mean().item(),
        "recall": recall.mean().item(),
        "f1": f1.mean().item(),
    }


def far_from_borders(azimuth_deg: Float[Tensor, "n"]) -> Bool[Tensor, "n"]:
    return ((azimuth_deg % 90) - 45).abs() > BORDER_DEG


def on_renders(
    bench: ClassifierBench, subjects: list[Subject], count: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Table 6 on held-out renders, for the branches and for the three normalisations."""
    variants: dict[str, dict[str, Any]] = {branch: {"branches": branch} for branch in BRANCHES}
    # The variant "full" already has the normalization of the released code, the default.
    variants |= {name: {"normalization": name} for name in ("paper", "centered")}
    azimuths, guesses = [], {name: [] for name in variants}
    surety: dict[str, list[Tensor]] = {name: [] for name in variants}
    each = -(-count // len(subjects))
    for subject in subjects:
        azimuth_deg = 360 * torch.rand(each, generator=bench.generator, device=bench.device)
        images, truth = bench.photos(subject, azimuth_deg), pose_class(azimuth_deg)
        azimuths.append(azimuth_deg)
        for name, settings in variants.items():
            probs = bench.probs(bench.classifier(subject, **settings), images)
            guesses[name].append(probs.argmax(1))
            surety[name].append(probs.gather(1, truth[:, None])[:, 0])
        say(f"renders of {subject.prompt}")
    azimuth_deg = torch.cat(azimuths)
    truth, far = pose_class(azimuth_deg), far_from_borders(azimuth_deg)
    table = {}
    for name in variants:
        guess = torch.cat(guesses[name])
        table[name] = {
            "clear": scores(truth[far], guess[far]),
            "border": scores(truth[~far], guess[~far]),
            "prob_of_truth": torch.cat(surety[name])[far].mean().item(),
        }
    right = (torch.cat(guesses["full"]) == truth).float()
    by_kind = {}
    for index, kind in enumerate(KINDS):
        rows = torch.zeros_like(far)
        rows[index * len(COLORS) * each : (index + 1) * len(COLORS) * each] = True
        by_kind[kind] = right[rows & far].mean().item()
    return {"renders": table, "views": len(truth), "clear_views": int(far.sum()), "by_kind": by_kind}


def on_estimates(bench: ClassifierBench, subjects: list[Subject], each: int) -> dict[str, Any]:
    """Accuracy of the full classifier on the prior's estimates from timestep t."""
    right: dict[int, list[Tensor]] = {t: [] for t in TIMESTEPS}
    for subject in subjects:
        azimuth_deg = 360 * torch.rand(each, generator=bench.generator, device=bench.device)
        far = far_from_borders(azimuth_deg)
        classifier = bench.classifier(subject)
        with torch.no_grad():
            latents = bench.prior.encode(bench.photos(subject, azimuth_deg))
            for t in TIMESTEPS:
                images = bench.estimates(subject, latents, torch.full((each,), t, device=bench.device))
                guess = bench.probs(classifier, images).argmax(1)
                right[t].append((guess == pose_class(azimuth_deg))[far].float())
    return {str(t): torch.cat(parts).mean().item() for t, parts in right.items()}


def on_sketches(bench: ClassifierBench, subjects: list[Subject], each: int = 48) -> dict[str, Any]:
    """Photos with sketches as templates, clean and drawn by an unsteady hand, and sketches with photos as templates."""
    guesses: dict[str, list[Tensor]] = {"clean": [], "by hand": [], "read by pictures": []}
    truths = []
    for subject in subjects:
        azimuth_deg = 360 * torch.rand(4 * each, generator=bench.generator, device=bench.device)
        azimuth_deg = azimuth_deg[far_from_borders(azimuth_deg)][:each]
        truths.append(pose_class(azimuth_deg))
        images = bench.photos(subject, azimuth_deg)
        for name, hand in (("clean", None), ("by hand", bench.generator)):
            drawn = sketch_templates(bench, subject, hand)
            classifier = PoseClassifier(bench.extractor, drawn, ClassifierConfig(), bench.seed)
            guesses[name].append(bench.probs(classifier, images).argmax(1))
        figures, cameras, _ = bench.views(subject, azimuth_deg)
        sketches = draw_sketches(figures, cameras, bench.prior.image_px)
        guesses["read by pictures"].append(bench.probs(bench.classifier(subject), sketches).argmax(1))
    return {name: scores(torch.cat(truths), torch.cat(parts)) for name, parts in guesses.items()}


def sketch_templates(
    bench: ClassifierBench, subject: Subject, hand: torch.Generator | None
) -> list[PoseTemplate]:
    """Four sketches: three drawn, the second side mirrored."""
    azimuths = torch.tensor([0.0, 90.0, 180.0], device=bench.device)
    same = torch.zeros(3, dtype=torch.long, device=bench.device)
    figures = Figurines.of(same + subject.kind, same + subject.color)
    cameras = orbit_cameras(
        azimuths, torch.full_like(azimuths, 8.0), EMBEDDED_CAMERAS.distance[0], EMBEDDED_CAMERAS.fov_y_deg[0]
    )
    front, right, back = draw_sketches(figures, cameras, bench.prior.image_px, hand)
    pictures = {"front": front, "right": right, "back": back, "left": right.flip(-1)}
    return [PoseTemplate(label, picture, None, None) for label, picture in pictures.items()]


def as_tables(found: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    names = ("accuracy", "precision", "recall", "f1")
    clear = f"{found['clear_views']} of them clear (not within {BORDER_DEG:.0f}° of a border)"
    lines = [f"{found['views']} renders, {clear}.", ""]
    lines += _header("variant", (*names, "accuracy at borders", "probability of the truth"))
    for name, values in found["renders"].items():
        lines.append(
            _row(
                name,
                [*(values["clear"][n] for n in names), values["border"]["accuracy"], values["prob_of_truth"]],
            )
        )
    lines += ["", *_header("kind", list(found["by_kind"])), _row("accuracy", found["by_kind"].values())]
    lines += ["", *_header("t", list(found["estimates"])), _row("accuracy", found["estimates"].values())]
    lines += ["", *_header("sketches", names)]
    lines += [_row(name, [values[n] for n in names]) for name, values in found["sketches"].items()]
    lines += ["", *_header("without a pose", (*POSES, "right - left"))]
    lines += [_row(name, values.values()) for name, values in found["shapeless"].items()]
    lines += ["", *_header("ascent", ("oracle agrees", "oracle log p", "classifier log p"))]
    lines += [_row(name, values.values()) for name, values in found["ascent"].items()]
    lines += ["", *_header("marginal form", ("slope", "entropy before", "entropy after"))]
    lines += [_row(name, values.values()) for name, values in found["leaving"].items()]
    return "\n".join(lines) + "\n"


def _header(first: str, columns: Iterable[str]) -> list[str]:
    columns = list(columns)
    return [f"| {first} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]


def _row(first: str, values: Iterable[float]) -> str:
    return f"| {first} | {' | '.join(f'{value:.3f}' for value in values)} |"
