"""The command `recdreamer templates`: draw, gallery, views, check."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from recdreamer.protocol import BUILTIN_PRIOR, JobFolder, JobRequest, Template

if TYPE_CHECKING:
    from recdreamer.pose.classifier import PoseClassifier
    from recdreamer.pose.features import FeatureExtractor
    from recdreamer.prior.diffusion import DiffusionPrior


@dataclass(frozen=True)
class Draw:
    """Let the prior draw templates of a prompt: the most typical pictures of each pose."""

    prompt: str
    out: Path
    seed: int = 0
    prior: str = BUILTIN_PRIOR
    device: str = "auto"


@dataclass(frozen=True)
class Gallery:
    """Let the prior draw many pictures of a prompt, sorted by pose, to pick from: delete those that do not fit."""

    prompt: str
    out: Path
    seed: int = 0
    prior: str = BUILTIN_PRIOR
    device: str = "auto"


@dataclass(frozen=True)
class Views:
    """Let a model of the Zero-1-to-3 kind turn one picture, which shows the front, to all sides."""

    image: Path
    """Best with alpha: what is not cut out is part of the object."""
    model: Path
    """Folder of the model, in diffusers' format."""
    out: Path
    elevation_deg: float = 0.0
    """From which the picture was taken."""
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Check:
    """Say what the classifier makes of the templates of a folder: masks, confusion, advice; pictures in FOLDER/check."""

    folder: tyro.conf.Positional[Path]
    """Pictures named front.png, back.png, left.png …, or a job folder."""
    prompt: str = ""
    """Lets the prior's own pictures of the prompt say whether a label is right."""
    prior: str = BUILTIN_PRIOR
    device: str = "auto"


@dataclass(frozen=True)
class Templates:
    """Pose templates: draw them, pick them, turn a picture, check them."""

    do: (
        Annotated[Draw, tyro.conf.subcommand("draw")]
        | Annotated[Gallery, tyro.conf.subcommand("gallery")]
        | Annotated[Views, tyro.conf.subcommand("views")]
        | Annotated[Check, tyro.conf.subcommand("check")]
    )


def run_templates(command: Templates) -> int:
    """Raises RequestError and JobError."""
    match command.do:
        case Draw():
            return draw(command.do)
        case Gallery():
            return gallery(command.do)
        case Views():
            return views(command.do)
        case Check():
            return check(command.do)


def draw(command: Draw) -> int:
    from recdreamer.pose.draw import draw_templates

    prior, extractor = _models(command.prompt, command.prior, command.device)
    for template in draw_templates(command.out, prior, extractor, command.prompt, command.seed):
        _tell(template, command.out)
    return 0


def gallery(command: Gallery) -> int:
    from recdreamer.pose.draw import draw_gallery

    prior, extractor = _models(command.prompt, command.prior, command.device)
    listed = draw_gallery(command.out, prior, extractor, command.prompt, command.seed, _tick)
    for sample in listed:
        print(f"{sample.label}: {command.out / sample.image} ({100 * sample.share:.0f} %)")
    return 0


def views(command: Views) -> int:
    import torch

    from recdreamer.generate import choose_device
    from recdreamer.pose.novel_views import NovelViews, write_views
    from recdreamer.pose.templates import load_templates

    # Read at twice the size of the views, as its object is cut out.
    (picture,) = load_templates(JobFolder(Path()), (Template("front", str(command.image.absolute())),), 512)
    device = choose_device(command.device)
    model = NovelViews.load(command.model, device, torch.float16 if device.type == "cuda" else torch.float32)
    generator = torch.Generator(device=device).manual_seed(command.seed)
    for template in write_views(
        command.out, model, picture, generator, elevation_deg=command.elevation_deg, tick=_tick
    ):
        _tell(template, command.out)
    return 0


def check(command: Check) -> int:
    import torch

    from recdreamer.cache import cache_folder
    from recdreamer.pose.check import check_templates
    from recdreamer.pose.features import PATCHES
    from recdreamer.pose.templates import load_templates, templates_in
    from recdreamer.prior.attention import attention_to_prompt

    job, prompt, prior_name = JobFolder(command.folder), command.prompt, command.prior
    if job.request.exists():
        request = job.read_request()
        templates, prompt, prior_name = request.templates, prompt or request.prompt, request.prior
    else:
        templates = templates_in(command.folder)
    JobRequest(prompt or "a check", pose_mode="marginal", templates=templates).validate()
    prior, extractor = _models(prompt or "a check", prior_name, command.device)
    loaded = load_templates(job, templates, prior.image_px)
    attention = reference = None
    if prompt:
        images = torch.stack([template.image for template in loaded]).to(prior.device)
        generator = torch.Generator(device=prior.device).manual_seed(0)
        attention = attention_to_prompt(prior, images, prompt, PATCHES, generator)
        reference = _reference(prior, extractor, prompt, prior_name)
    verdicts, advice = check_templates(
        command.folder, templates, loaded, extractor, attention, reference, cache_folder("features")
    )
    for template, verdict in zip(templates, verdicts, strict=True):
        _tell(template)
        shares = ", ".join(f"{label} {100 * prob:.0f} %" for label, prob in verdict.pose_probs.items())
        print(f"  {shares}; object on {100 * verdict.coverage:.0f} % of the picture")
        for warning in verdict.warnings:
            print(f"  {warning.message} {warning.hint}")
    for warning in advice:
        print(f"{warning.message} {warning.hint}")
    print(f"Masks and matches are in {command.folder / 'check'}.")
    return 0


def _reference(
    prior: DiffusionPrior, extractor: FeatureExtractor, prompt: str, prior_name: str
) -> PoseClassifier:
    """A classifier of the prior's own pictures of the prompt, which are kept for the next check."""
    from recdreamer.cache import cache_folder
    from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
    from recdreamer.pose.draw import draw_templates
    from recdreamer.pose.templates import load_templates

    key = hashlib.sha256(f"{prior_name}\n{extractor.fingerprint}\n{prompt}".encode()).hexdigest()[:24]
    folder = cache_folder("drawn") / key
    drawn = draw_templates(folder, prior, extractor, prompt, seed=0)
    loaded = load_templates(JobFolder(folder), drawn, prior.image_px)
    return PoseClassifier(extractor, loaded, ClassifierConfig(), cache=cache_folder("features"))


def _models(prompt: str, prior_name: str, device_name: str) -> tuple[DiffusionPrior, FeatureExtractor]:
    from recdreamer.config import resolve
    from recdreamer.generate import choose_device, choose_dtype
    from recdreamer.pose.features import FeatureExtractor
    from recdreamer.pretrained import quieten
    from recdreamer.prior.diffusion import DiffusionPrior

    request = JobRequest(prompt, prior=prior_name, device=device_name)
    request.validate()
    quieten()
    device = choose_device(device_name)
    prior = DiffusionPrior.load(prior_name, device, choose_dtype(prior_name, device))
    return prior, FeatureExtractor(resolve(request).extractor).to(device)


def _tell(template: Template, folder: Path = Path()) -> None:
    print(f"{template.label}: {folder / template.image}{' (mirrored)' if template.mirrored else ''}")


def _tick(done: int, total: int) -> None:
    """One line that the add-on shows as it is."""
    print(f"{done} of {total}", flush=True)
