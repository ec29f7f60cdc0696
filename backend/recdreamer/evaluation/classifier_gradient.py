"""Tests whether the classifier's gradient is meaningful: moves pictures along it and asks the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.evaluation.classifier_subjects import ClassifierBench, Subject
from recdreamer.evaluation.consistency import category_entropy
from recdreamer.evaluation.figurines import POSES, pose_class, render_figurines
from recdreamer.pose.classifier import Normalization
from recdreamer.pose.marginal import PoseMarginal
from recdreamer.pose.rectifier import marginal_log_ratio

ASCENT_STEPS, ASCENT_LENGTH = 24, 2.0
"""Number of normalised steps in latent space, and their total length relative to the norm of the latents."""
JUDGED_AT = 150
"""The ends of an ascent are judged on the prior's estimates from this timestep, which lack what it regards as noise."""


def shapeless(
    bench: ClassifierBench, subject: Subject, count: int = 16
) -> dict[str, Float[Tensor, "batch 3 s s"]]:
    """Pictures without a pose: photos blended with their mirror images, plain bodies, and estimates at t = 950."""
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


def on_shapeless(bench: ClassifierBench, subjects: list[Subject]) -> dict[str, Any]:
    """Mean answer on pictures without a pose, and its mean preference for one side."""
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


def ascent(bench: ClassifierBench, subjects: list[Subject], per_class: int = 2) -> dict[str, Any]:
    """How far a few steps along the gradient lead from a symmetric picture towards a wanted pose.

    Judged by the classifier and by the oracle, with the U-Net's Jacobian and without. A gradient that improves only the
    classifier's own score would be meaningless.
    """
    rows: dict[str, list[Tensor]] = {}
    for subject in subjects:
        azimuth_deg = torch.arange(len(POSES) * per_class, device=bench.device) * 90.0 + 90.0
        wanted = pose_class(azimuth_deg - 90)
        photos = bench.photos(subject, azimuth_deg)
        start = bench.prior.encode(0.5 * (photos + photos.flip(-1))).detach()
        classifier = bench.classifier(subject)
        places = [classifier.labels.index(POSES[int(pose)]) for pose in wanted]
        columns = torch.tensor(places, device=bench.device)[:, None]
        ends = {"before": start}
        for name, keep in (("with the Jacobian", True), ("without", False)):
            bench.generator.manual_seed(bench.seed)  # The same noise for both.
            ends[name] = _climb(
                bench, subject, start, keep,
                lambda images, classifier=classifier, columns=columns: classifier(
                    images, bench.generator
                ).gather(1, columns)[:, 0],
            )  # fmt: skip
        for name, latents in ends.items():
            images = _seen(bench, subject, latents)
            judged, own = bench.oracle.pose_probs(images), bench.probs(classifier, images)
            rows.setdefault(name, []).append(torch.stack((
                (judged.argmax(1) == wanted).float(),
                judged.gather(1, wanted[:, None])[:, 0].clamp_min(1e-6).log(),
                own.gather(1, wanted[:, None])[:, 0].clamp_min(1e-6).log(),
            ), 1))  # fmt: skip
    columns = ("oracle agrees", "oracle log p", "classifier log p")
    return {
        name: dict(zip(columns, torch.cat(parts).mean(0).tolist(), strict=True))
        for name, parts in rows.items()
    }


@torch.no_grad()
def _seen(
    bench: ClassifierBench, subject: Subject, latents: Float[Tensor, "batch c h w"]
) -> Float[Tensor, "batch 3 s s"]:
    t = torch.full((len(latents),), JUDGED_AT, device=bench.device)
    return bench.estimates(subject, latents, t).clamp(0, 1)


def _climb(
    bench: ClassifierBench,
    subject: Subject,
    start: Float[Tensor, "batch c h w"],
    keep_jacobian: bool,
    value_of: Callable[[Tensor], Tensor],
) -> Float[Tensor, "batch c h w"]:
    latents = start.clone()
    norm = lambda x: x.flatten(1).norm(dim=1)[:, None, None, None]  # noqa: E731
    length = ASCENT_LENGTH * norm(start) / ASCENT_STEPS
    for _ in range(ASCENT_STEPS):
        latents.requires_grad_()
        t = torch.randint(250, 700, (len(latents),), generator=bench.generator, device=bench.device)
        images = bench.prior.decode(bench.clean_latents(subject, latents, t, keep_jacobian))
        (grad,) = torch.autograd.grad(value_of(images).sum(), latents)
        latents = (latents + length * grad / norm(grad).clamp_min(1e-12)).detach()
    return latents


def leaving_a_state(bench: ClassifierBench, subjects: list[Subject], count: int = 16) -> dict[str, Any]:
    """Does the marginal form move identical pictures without a pose? For each normalisation.

    If the classifier gives all classes the same probability, the ratio is flat, because the marginal equals the answer.
    `slope` is the mean norm of the gradient of log r with a settled marginal. `entropy` is the oracle's entropy over the
    pictures, relative to ln 4, before and after steps along the gradient with a running marginal.
    """
    found = {}
    starts = []
    for subject in subjects:
        photo = bench.photos(subject, torch.tensor([90.0], device=bench.device))
        blob = bench.prior.encode(0.5 * (photo + photo.flip(-1))).detach()
        starts.append(blob.expand(count, -1, -1, -1).contiguous())
    for normalization in get_args(Normalization):
        bench.generator.manual_seed(bench.seed)  # The same noise for each.
        slopes, before, after = [], [], []
        for subject, start in zip(subjects, starts, strict=True):
            classifier = bench.classifier(subject, normalization=normalization)
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
            slopes.append(grad.flatten(1).norm(dim=1).mean().item())
            end = _climb(bench, subject, start, True, log_ratio)
            for latents_now, into in ((start, before), (end, after)):
                into.append(
                    category_entropy(bench.oracle.pose_probs(_seen(bench, subject, latents_now)).mean(0))
                )
        found[normalization] = {
            "slope": fmean(slopes),
            "entropy before": fmean(before),
            "entropy after": fmean(after),
        }
    return found
