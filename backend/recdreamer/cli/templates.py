"""The command `recdreamer templates`: draw, gallery, views, check."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from recdreamer.cli.job_command import model_name, settings_of
from recdreamer.cli.settings import Settings
from recdreamer.paths import given_path
from recdreamer.shared.protocol import (
    BUILTIN_PRIOR,
    NO_PROMPT,
    JobFolder,
    JobRequest,
    RequestError,
    Template,
)

if TYPE_CHECKING:
    from recdreamer.pose.anchoring import Drawn
    from recdreamer.pose.classifier import ClassifierConfig
    from recdreamer.pose.features import FeatureExtractor
    from recdreamer.prior.diffusion import DiffusionPrior

MAX_DRAWN = 20
"""Number of prompts whose pictures are cached for the next check."""


@dataclass(frozen=True)
class Draw:
    """Let the prior draw templates of a prompt: its most typical pictures of each pose."""

    prompt: str
    out: Path
    seed: int = 0
    prior: str = BUILTIN_PRIOR
    device: str = "auto"
    set: Settings = field(default=())
    """Settings of the backend, for example extractor=FOLDER."""


@dataclass(frozen=True)
class Gallery(Draw):
    """Let the prior draw many pictures of a prompt, sorted by pose. Delete those that do not fit."""


@dataclass(frozen=True)
class Views:
    """Make all sides from one picture of the front, with a model of the Zero-1-to-3 type."""

    image: Path
    """Preferably with alpha; without it the background becomes part of the object."""
    model: Path
    """Folder of the model in the format of diffusers."""
    out: Path
    elevation_deg: float = 0.0
    """Camera elevation of the picture."""
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Check:
    """Show how the classifier reads a folder of templates: masks, confusion, advice. Writes pictures to FOLDER/check."""

    folder: tyro.conf.Positional[Path]
    """Pictures named front.png, back.png, left.png …, or a job folder."""
    prompt: str = ""
    """The labels are compared with the prior's own pictures of this prompt. Default: the prompt of the job, if any."""
    prior: str = ""
    """Default: the prior of the job, else builtin."""
    device: str = ""
    """Default: the device of the job, else auto."""
    set: Settings = field(default=())
    """Settings of the backend, for example extractor=FOLDER."""


@dataclass(frozen=True)
class Templates:
    """Pose templates: draw them, pick them, make them from one picture, check them."""

    do: (
        Annotated[Draw, tyro.conf.subcommand("draw")]
        | Annotated[Gallery, tyro.conf.subcommand("gallery")]
        | Annotated[Views, tyro.conf.subcommand("views")]
        | Annotated[Check, tyro.conf.subcommand("check")]
    )


def run_templates(command: Templates) -> int:
    """Raises RequestError and JobError."""
    match command.do:
        case Gallery():  # Before Draw, which it extends.
            return gallery(command.do)
        case Draw():
            return draw(command.do)
        case Views():
            return views(command.do)
        case Check():
            return check(command.do)


def draw(command: Draw) -> int:
    from recdreamer.pose.draw import draw_templates, side_doubt
    from recdreamer.presets import resolve

    if any(command.out.glob("*.png")):
        raise RequestError(f"{command.out} already has pictures.", "Choose another folder, or empty it.")
    request = _request(command)
    prior, extractor, _ = _models(request)
    command.out.mkdir(parents=True, exist_ok=True)
    drawing = resolve(request).rectifier.drawing
    for template in draw_templates(command.out, prior, extractor, request.prompt, request.seed, drawing):
        _print_template(template, command.out)
    if doubt := side_doubt(command.out):
        print(doubt)
    return 0


def gallery(command: Gallery) -> int:
    from recdreamer.pose.draw import draw_gallery
    from recdreamer.presets import resolve

    request = _request(command)
    prior, extractor, _ = _models(request)
    command.out.mkdir(parents=True, exist_ok=True)
    drawing = resolve(request).rectifier.drawing
    for sample in draw_gallery(command.out, prior, extractor, request.prompt, request.seed, drawing, _tick):
        print(f"{sample.label}: {command.out / sample.image} ({100 * sample.share:.0f} %)")
    return 0


def views(command: Views) -> int:
    import torch

    from recdreamer.device import choose_device
    from recdreamer.pose.novel_views import NovelViews, write_views
    from recdreamer.pose.templates import load_templates
    from recdreamer.prior.loading import quieten

    quieten()
    # Read at twice the size of the views, because its object is cropped later.
    path = given_path(command.image).absolute()
    (picture,) = load_templates(JobFolder(path.parent), (Template("front", path.name),), 512)
    device = choose_device(command.device)
    model = NovelViews.load(
        given_path(command.model), device, torch.float16 if device.type == "cuda" else torch.float32
    )
    generator = torch.Generator(device=device).manual_seed(command.seed)
    command.out.mkdir(parents=True, exist_ok=True)
    for template in write_views(
        command.out, model, picture, generator, elevation_deg=command.elevation_deg, tick=_tick
    ):
        _print_template(template, command.out)
    return 0


def check(command: Check) -> int:
    import torch

    from recdreamer.cache import cache_folder
    from recdreamer.pose.check import check_templates
    from recdreamer.pose.features import PATCHES
    from recdreamer.pose.templates import load_templates
    from recdreamer.prior.attention import attention_to_prompt

    job = JobFolder(given_path(command.folder))
    job.check()
    request = _request_to_check(job, command)
    prior, extractor, config = _models(request)
    loaded = load_templates(job, request.templates, prior.image_px)
    attention = drawn = None
    if request.prompt != NO_PROMPT:
        images = torch.stack([template.image for template in loaded]).to(prior.device)
        generator = torch.Generator(device=prior.device).manual_seed(0)
        attention = attention_to_prompt(prior, images, request.prompt, PATCHES, generator)
        drawn = _drawn(prior, extractor, request)
    verdicts, advice = check_templates(
        job.root, request.templates, loaded, extractor, attention, drawn, cache_folder("features"), config
    )
    for template, verdict in zip(request.templates, verdicts, strict=True):
        _print_template(template)
        shares = ", ".join(f"{label} {100 * prob:.0f} %" for label, prob in verdict.pose_probs.items())
        print(f"  {shares}; object on {100 * verdict.coverage:.0f} % of the picture")
        for warning in verdict.warnings:
            print(f"  {warning.message} {warning.hint}")
    for warning in advice:
        print(f"{warning.message} {warning.hint}")
    print(f"Masks and matches are in {job.root / 'check'}.")
    return 0


def _request_to_check(job: JobFolder, command: Check) -> JobRequest:
    """The request of a job folder, or one for a folder of pictures. Options of the command take precedence."""
    from recdreamer.pose.templates import templates_in

    if job.request.exists():
        request = job.read_request()
        if not request.templates:  # The prior drew its own.
            drawn = templates_in(job.templates)
            drawn = tuple(replace(template, image=f"templates/{template.image}") for template in drawn)
            request = replace(request, templates=drawn)
    else:
        request = JobRequest(NO_PROMPT, pose_mode="marginal", templates=templates_in(job.root))
    given = {"prompt": command.prompt, "prior": model_name(command.prior), "device": command.device}
    request = replace(request, **{name: value for name, value in given.items() if value})
    request = replace(request, overrides=request.overrides | settings_of(command.set))
    request.validate()
    return request


def _drawn(prior: DiffusionPrior, extractor: FeatureExtractor, request: JobRequest) -> Drawn:
    """The prior's own pictures of the prompt's poses, cached for the next check."""
    from recdreamer import __version__
    from recdreamer.cache import cache_folder
    from recdreamer.pose.anchoring import Drawn
    from recdreamer.pose.draw import draw_templates
    from recdreamer.pose.templates import load_templates
    from recdreamer.presets import resolve

    name = Path(request.prior).resolve() if Path(request.prior).is_dir() else request.prior
    key = f"{__version__}\n{name}\n{extractor.fingerprint}\n{request.prompt}"
    folder = cache_folder("drawn") / hashlib.sha256(key.encode()).hexdigest()[:24]
    for old in sorted(folder.parent.glob("*"), key=lambda path: path.stat().st_mtime)[:-MAX_DRAWN]:
        shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    drawing = resolve(request).rectifier.drawing
    templates = draw_templates(folder, prior, extractor, request.prompt, 0, drawing)
    loaded = load_templates(JobFolder(folder), templates, prior.image_px)
    return Drawn(loaded, [template.image for template in templates])


def _request(command: Draw) -> JobRequest:
    request = JobRequest(
        command.prompt, seed=command.seed, prior=model_name(command.prior), device=command.device,
        overrides=settings_of(command.set),
    )  # fmt: skip
    request.validate()
    return request


def _models(request: JobRequest) -> tuple[DiffusionPrior, FeatureExtractor, ClassifierConfig]:
    """The prior, extractor and classifier settings of a request."""
    from recdreamer.device import choose_device, choose_dtype
    from recdreamer.pose.features import FeatureExtractor
    from recdreamer.presets import resolve
    from recdreamer.prior.diffusion import DiffusionPrior
    from recdreamer.prior.loading import quieten

    quieten()
    config, device = resolve(request), choose_device(request.device)
    prior = DiffusionPrior.load(request.prior, device, choose_dtype(request.prior, device, config.precision))
    return (
        prior,
        FeatureExtractor(config.extractor, config.extractor_px).to(device),
        config.rectifier.classifier,
    )


def _print_template(template: Template, folder: Path = Path()) -> None:
    print(f"{template.label}: {folder / template.image}{' (mirrored)' if template.mirrored else ''}")


def _tick(done: int, total: int) -> None:
    """Print a line that the add-on shows as it is."""
    print(f"{done} of {total}", flush=True)
