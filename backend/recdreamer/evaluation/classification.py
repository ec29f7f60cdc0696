"""How well the training-free classifier reads poses, and whether its gradient means what it says.

On true renders of the embedded world (paper, Table 6), on the prior's estimates of them, on sketches (Table 2), and on
shapes that have no pose. Templates are drawn by the prior itself, as in a generation without templates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cache import cache_folder
from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.figurines import (
    CAMERA,
    COLORS,
    KINDS,
    POSES,
    Figurines,
    pose_class,
    render_figurines,
    sample_grounds,
)
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.evaluation.sketches import draw_sketches
from recdreamer.pose.classifier import ClassifierConfig, Normalization, PoseClassifier
from recdreamer.pose.draw import draw_templates
from recdreamer.pose.features import PATCHES, FeatureExtractor
from recdreamer.pose.marginal import PoseMarginal
from recdreamer.pose.rectifier import marginal_log_ratio
from recdreamer.pose.templates import PoseTemplate, load_templates
from recdreamer.prior.attention import attention_to_prompt
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.protocol import JobFolder

TIMESTEPS = (100, 300, 500, 700, 900)
BORDER_DEG = 10.0
"""Views nearer to a border between two poses are reported apart: any answer is nearly right there."""
BRANCHES = ("full", "orientation", "texture")
ASCENT_STEPS, ASCENT_LENGTH = 16, 0.35
"""Normalised steps in latent space, and their length as a share of the latents' own norm divided by their number."""


@dataclass(frozen=True)
class Subject:
    """One figure of the world with its templates."""

    kind: int
    color: int
    templates: list[PoseTemplate]
    attention: Tensor
    text: Float[Tensor, "1 tokens width"]

    @property
    def prompt(self) -> str:
        return f"a {list(COLORS)[self.color]} {KINDS[self.kind]}"


class Bench:
    """The models, the generator and the subjects that every measurement shares."""

    def __init__(self, folder: Path, device: torch.device, extractor: str, seed: int) -> None:
        self.folder, self.device, self.seed = folder, device, seed
        self.prior = DiffusionPrior.load("builtin", device, torch.float32)
        self.extractor = FeatureExtractor(extractor).to(device)
        self.oracle = load_oracle(device)
        self.generator = torch.Generator(device=device).manual_seed(seed + 909)

    def subject(self, kind: int, color: int) -> Subject:
        prompt = f"a {list(COLORS)[color]} {KINDS[kind]}"
        folder = self.folder / "templates" / prompt.replace(" ", "-")
        drawn = draw_templates(folder, self.prior, self.extractor, prompt, self.seed)
        templates = load_templates(JobFolder(folder), drawn, self.prior.image_px)
        images = torch.stack([template.image for template in templates]).to(self.device)
        attention = attention_to_prompt(self.prior, images, prompt, PATCHES, self.generator)
        return Subject(kind, color, templates, attention, self.prior.encode_text([prompt]))

    def classifier(self, subject: Subject, **settings: Any) -> PoseClassifier:
        return PoseClassifier(
            self.extractor, subject.templates, ClassifierConfig(**settings), self.seed, subject.attention,
            cache_folder("features"),
        )  # fmt: skip

    def probs(
        self, classifier: PoseClassifier, images: Float[Tensor, "batch 3 s s"], chunk: int = 25
    ) -> Float[Tensor, "batch poses"]:
        """In the order of POSES."""
        with torch.no_grad():
            found = torch.cat([classifier(part).exp() for part in images.split(chunk)])
        return found[:, [classifier.labels.index(pose) for pose in POSES]]

    def views(
        self, subject: Subject, azimuth_deg: Float[Tensor, "batch"]
    ) -> tuple[Figurines, Any, Float[Tensor, "batch 3"]]:
        """Figures a little varied, cameras at any elevation that the prior has seen, and plain grounds."""
        count = len(azimuth_deg)
        same = torch.full((count,), 0, device=self.device)
        figures = Figurines.of(same + subject.kind, same + subject.color).varied(self.generator)
        low, high = CAMERA.elevation_deg
        elevation = low + (high - low) * torch.rand(count, generator=self.generator, device=self.device)
        cameras = orbit_cameras(azimuth_deg, elevation, CAMERA.distance[0], CAMERA.fov_y_deg[0])
        return figures, cameras, sample_grounds(count, self.generator, self.device)

    def photos(self, subject: Subject, azimuth_deg: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3 s s"]:
        return render_figurines(*self._arguments(subject, azimuth_deg))

    def _arguments(self, subject: Subject, azimuth_deg: Tensor) -> tuple[Any, ...]:
        figures, cameras, ground = self.views(subject, azimuth_deg)
        return figures, cameras, self.prior.image_px, ground

    def estimates(
        self, subject: Subject, latents: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch 3 s s"]:
        """The prior's one-step estimates of noised latents, decoded, with gradient through all of it."""
        x0_hat = self.clean_latents(subject, latents, t, keep_jacobian=True)
        return self.prior.decode(x0_hat)

    def clean_latents(
        self, subject: Subject, latents: Tensor, t: Tensor, keep_jacobian: bool
    ) -> Float[Tensor, "batch c h w"]:
        schedule = self.prior.schedule
        eps = torch.randn(latents.shape, generator=self.generator, device=self.device)
        latents_t = schedule.add_noise(latents, eps, t)
        with torch.set_grad_enabled(keep_jacobian and torch.is_grad_enabled()):
            seen = self.prior.eps(latents_t, t, subject.text.expand(len(t), -1, -1))
        return schedule.x0_hat(latents_t, seen, t)


def measure_classifier(
    folder: Path,
    count: int,
    device: torch.device,
    extractor: str,
    seed: int,
    say: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """All measurements, as numbers that JSON holds; `as_tables` writes them out."""
    bench = Bench(folder, device, extractor, seed)
    subjects = []
    for kind in range(len(KINDS)):
        for color in range(len(COLORS)):
            subjects.append(bench.subject(kind, color))
            say(f"templates of {subjects[-1].prompt}")
    one_of_each = subjects[:: len(COLORS) + 1]
    found: dict[str, Any] = {"views": count, "extractor": extractor}
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


def far_from_borders(azimuth_deg: Float[Tensor, "n"]) -> Tensor:
    return ((azimuth_deg % 90) - 45).abs() > BORDER_DEG


def on_renders(
    bench: Bench, subjects: list[Subject], count: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Table 6 on held-out renders, for the branches and for the three normalisations."""
    variants: dict[str, dict[str, Any]] = {branch: {"branches": branch} for branch in BRANCHES}
    variants |= {name: {"normalization": name} for name in get_args(Normalization)}
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
    return {"renders": table, "clear_views": int(far.sum()), "by_kind": by_kind}


def on_estimates(bench: Bench, subjects: list[Subject], each: int) -> dict[str, Any]:
    """Accuracy of the whole classifier on the prior's estimates from timestep t."""
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


def on_sketches(bench: Bench, subjects: list[Subject], each: int = 48) -> dict[str, Any]:
    """Pictures read by sketches as templates, clean and by an unsteady hand, and sketches read by pictures."""
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


def sketch_templates(bench: Bench, subject: Subject, hand: torch.Generator | None) -> list[PoseTemplate]:
    """Four sketches: three drawn, the second side mirrored."""
    azimuths = torch.tensor([0.0, 90.0, 180.0], device=bench.device)
    same = torch.zeros(3, dtype=torch.long, device=bench.device)
    figures = Figurines.of(same + subject.kind, same + subject.color)
    cameras = orbit_cameras(azimuths, torch.full_like(azimuths, 8.0), CAMERA.distance[0], CAMERA.fov_y_deg[0])
    front, right, back = draw_sketches(figures, cameras, bench.prior.image_px, hand)
    pictures = {"front": front, "right": right, "back": back, "left": right.flip(-1)}
    return [PoseTemplate(label, picture, None, None) for label, picture in pictures.items()]


def shapeless(bench: Bench, subject: Subject, count: int = 16) -> dict[str, Float[Tensor, "batch 3 s s"]]:
    """Pictures without a pose: mirror images laid over each other, plain bodies, and what is left at t = 950."""
    evenly = torch.arange(count, device=bench.device) * 360 / count
    photos = bench.photos(subject, evenly)
    figures, cameras, ground = bench.views(subject, evenly)
    body = replace(
        figures,
        centers=figures.centers[:, :1] * 0,
        radii=torch.tensor([0.38, 0.38, 0.75], device=bench.device).expand(count, 1, 3).contiguous(),
        pitch_rad=figures.pitch_rad[:, :1] * 0,
        is_box=figures.is_box[:, :1] * 0,
        colors=figures.colors[:, :1],
    )
    with torch.no_grad():
        latents = bench.prior.encode(photos)
        vague = bench.estimates(subject, latents, torch.full((count,), 950, device=bench.device)).clamp(0, 1)
    return {
        "symmetric": 0.5 * (photos + photos.flip(-1)),
        "plain body": render_figurines(body, cameras, bench.prior.image_px, ground),
        "estimate at t = 950": vague,
    }


def on_shapeless(bench: Bench, subjects: list[Subject]) -> dict[str, Any]:
    """Mean answer on pictures without a pose, and how much it prefers one side to the other on average."""
    answers: dict[str, list[Tensor]] = {}
    for subject in subjects:
        classifier = bench.classifier(subject)
        for name, images in shapeless(bench, subject).items():
            answers.setdefault(name, []).append(bench.probs(classifier, images))
    found = {}
    for name, parts in answers.items():
        probs = torch.cat(parts)
        left, right = probs[:, POSES.index("left")], probs[:, POSES.index("right")]
        found[name] = dict(zip(POSES, probs.mean(0).tolist(), strict=True))
        found[name]["right - left"] = (right - left).mean().item()
    return found


def ascent(bench: Bench, subjects: list[Subject], per_class: int = 2) -> dict[str, Any]:
    """Log-probabilities of a wanted pose before and after a few steps along the gradient, from a symmetric picture.

    By the classifier itself and by the oracle, with the U-Net's Jacobian and without: a gradient that pleases the
    classifier alone means nothing.
    """
    rows: dict[str, list[Tensor]] = {}
    for subject in subjects:
        azimuth_deg = torch.arange(len(POSES) * per_class, device=bench.device) * 90.0 + 90.0
        wanted = pose_class(azimuth_deg - 90)
        photos = bench.photos(subject, azimuth_deg)
        start = bench.prior.encode(0.5 * (photos + photos.flip(-1))).detach()
        classifier = bench.classifier(subject)
        columns = torch.tensor([classifier.labels.index(POSES[int(pose)]) for pose in wanted])
        ends = {"before": start}
        for name, keep in (("with the Jacobian", True), ("without", False)):
            ends[name] = _climb(
                bench, subject, start, keep,
                lambda images, classifier=classifier, columns=columns: classifier(
                    images, bench.generator
                ).gather(1, columns.to(bench.device)[:, None])[:, 0],
            )  # fmt: skip
        for name, latents in ends.items():
            with torch.no_grad():
                images = bench.prior.decode(latents).clamp(0, 1)
            pick = lambda probs, wanted=wanted: probs.gather(1, wanted[:, None])[:, 0].clamp_min(1e-6).log()  # noqa: E731
            rows.setdefault(name, []).append(
                torch.stack((pick(bench.oracle.pose_probs(images)), pick(bench.probs(classifier, images))), 1)
            )
    means = {name: torch.cat(parts).mean(0).tolist() for name, parts in rows.items()}
    return {name: {"oracle": oracle, "classifier": own} for name, (oracle, own) in means.items()}


def _climb(
    bench: Bench,
    subject: Subject,
    start: Float[Tensor, "batch c h w"],
    keep_jacobian: bool,
    value_of: Callable[[Tensor], Tensor],
    steps: int = ASCENT_STEPS,
) -> Float[Tensor, "batch c h w"]:
    latents = start.clone()
    norm = lambda x: x.flatten(1).norm(dim=1)[:, None, None, None]  # noqa: E731
    length = ASCENT_LENGTH * norm(start) / ASCENT_STEPS
    for _ in range(steps):
        latents.requires_grad_()
        t = torch.randint(250, 700, (len(latents),), generator=bench.generator, device=bench.device)
        images = bench.prior.decode(bench.clean_latents(subject, latents, t, keep_jacobian))
        (grad,) = torch.autograd.grad(value_of(images).sum(), latents)
        latents = (latents + length * grad / norm(grad).clamp_min(1e-12)).detach()
    return latents


def leaving_a_state(
    bench: Bench, subjects: list[Subject], count: int = 16, steps: int = 24
) -> dict[str, Any]:
    """Does the marginal form move pictures that are all alike and have no pose? For each normalisation.

    Where it answers all classes alike, the ratio is flat: the marginal is its own answer. `slope` is the mean norm of
    the gradient of log r where the marginal has settled; `entropy` is the oracle's over the pictures (of ln 4), before
    and after steps along it, taken with the marginal running.
    """
    found = {}
    for normalization in get_args(Normalization):
        slopes, before, after = [], [], []
        for subject in subjects:
            classifier = bench.classifier(subject, normalization=normalization)
            photo = bench.photos(subject, torch.tensor([90.0], device=bench.device))
            blob = bench.prior.encode(0.5 * (photo + photo.flip(-1))).detach()
            start = blob.expand(count, -1, -1, -1).contiguous()
            marginal = PoseMarginal(len(classifier.labels), num_intervals=1, n_ema=32).to(bench.device)
            target = torch.full((len(classifier.labels),), 1 / len(classifier.labels), device=bench.device)
            everywhere = torch.zeros(count, dtype=torch.long, device=bench.device)

            def log_ratio(
                images: Tensor, classifier=classifier, marginal=marginal, target=target, everywhere=everywhere
            ) -> Tensor:
                log_probs = classifier(images, bench.generator)
                ratio = marginal_log_ratio(log_probs, marginal.at(everywhere), target)
                marginal.update(everywhere, log_probs.exp())
                return ratio

            t = torch.randint(250, 700, (count,), generator=bench.generator, device=bench.device)
            for _ in range(6):
                with torch.no_grad():
                    log_ratio(bench.estimates(subject, start, t))
            latents = start.clone().requires_grad_()
            images = bench.estimates(subject, latents, t)
            (grad,) = torch.autograd.grad(log_ratio(images).sum(), latents)
            slopes.append(grad.flatten(1).norm(dim=1).mean())
            end = _climb(bench, subject, start, True, log_ratio, steps)
            with torch.no_grad():
                for latents_now, into in ((start, before), (end, after)):
                    shares = bench.oracle.pose_probs(bench.prior.decode(latents_now).clamp(0, 1)).mean(0)
                    into.append(-(shares * shares.clamp_min(1e-12).log()).sum() / torch.tensor(4.0).log())
        found[normalization] = {
            "slope": torch.stack(slopes).mean().item(),
            "entropy before": torch.stack(before).mean().item(),
            "entropy after": torch.stack(after).mean().item(),
        }
    return found


def as_tables(found: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    names = ("accuracy", "precision", "recall", "f1")
    header = lambda first, columns: [
        f"| {first} | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]  # noqa: E731
    row = lambda first, values: f"| {first} | {' | '.join(f'{value:.3f}' for value in values)} |"  # noqa: E731
    clear = f"{found['clear_views']} of them clear (not within {BORDER_DEG:.0f}° of a border)"
    lines = [f"{found['views']} renders, {clear}.", ""]
    lines += header("variant", (*names, "accuracy at borders", "probability of the truth"))
    for name, values in found["renders"].items():
        lines.append(
            row(
                name,
                [*(values["clear"][n] for n in names), values["border"]["accuracy"], values["prob_of_truth"]],
            )
        )
    lines += ["", *header("kind", list(found["by_kind"])), row("accuracy", found["by_kind"].values())]
    lines += ["", *header("t", list(found["estimates"])), row("accuracy", found["estimates"].values())]
    lines += ["", *header("sketches", names)]
    lines += [row(name, [values[n] for n in names]) for name, values in found["sketches"].items()]
    lines += ["", *header("without a pose", (*POSES, "right - left"))]
    lines += [row(name, values.values()) for name, values in found["shapeless"].items()]
    lines += ["", *header("ascent", ("oracle log p", "classifier log p"))]
    lines += [row(name, values.values()) for name, values in found["ascent"].items()]
    lines += ["", *header("marginal form", ("slope", "entropy before", "entropy after"))]
    lines += [row(name, values.values()) for name, values in found["leaving"].items()]
    return "\n".join(lines) + "\n"
