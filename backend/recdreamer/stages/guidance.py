"""Assemble a job's guides: the method, the prompt in all its forms, the branch and the rectifiers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from recdreamer.cache import cache_folder
from recdreamer.config import GenerateConfig, StepName
from recdreamer.distillation.debiasing import PromptDebiaser
from recdreamer.distillation.guidance_config import GuidanceConfig
from recdreamer.distillation.methods import LORA_METHODS, Guide
from recdreamer.distillation.noised import add_noise
from recdreamer.pose import anchoring
from recdreamer.pose.anchoring import Drawn, anchored, read_drawn
from recdreamer.pose.attribute_classifier import AttributeClassifier
from recdreamer.pose.classifier import PoseClassifier
from recdreamer.pose.control import YawPosterior
from recdreamer.pose.draw import draw_templates, side_doubt
from recdreamer.pose.features import PATCHES, FeatureExtractor
from recdreamer.pose.rectifier import Rectifier
from recdreamer.pose.templates import PoseTemplate, are_placed, class_azimuths, load_templates
from recdreamer.prior.attention import attention_to_prompt
from recdreamer.prior.denoiser import Denoiser
from recdreamer.prior.diffusion import DiffusionPrior, TinyDecoder, TinyEncoder
from recdreamer.prior.lora import LoraBranch
from recdreamer.prior.prompts import VIEWS, Prompts
from recdreamer.prior.words import Read, Words, doubts
from recdreamer.report import Warn, no_warn
from recdreamer.shared.protocol import USD_METHODS, JobFolder, RequestError


def prepare_guide(
    job: JobFolder, config: GenerateConfig, prior: DiffusionPrior, warn: Warn = no_warn
) -> Guide:
    """A guide for the job's method, with its branch, prompts and rectifiers."""
    guidance, branch, rectifiers = config.guidance, None, []
    # Before anything that takes time.
    if doubt := prompt_doubts(config, prior.read):
        warn(doubt)
    prompts = prepare_prompts(config.prompt, guidance, prior)
    if config.method in USD_METHODS:
        rectifiers = prepare_rectifiers(job, config, prior, warn)
        if config.rectifier.marginal == "sampled":
            _fix_marginals(rectifiers, config, prior, prompts)
    if config.method in LORA_METHODS:
        branch = LoraBranch(prior, guidance.lora_rank, guidance.lora_targets, config.seed)
    decoder = TinyDecoder(config.rectifier.tiny_decoder, prior) if config.rectifier.tiny_decoder else None
    denoiser = Denoiser(prior, branch, decoder)
    if guidance.checkpointing:
        denoiser.enable_checkpointing()
    name = config.optimize.tiny_encoder
    encoder = TinyEncoder(name, prior) if name and "shape" in config.stages else None
    return Guide(config.method, denoiser, prompts, guidance, rectifiers, config.rectifier, encoder)


def prepare_guides(
    job: JobFolder, config: GenerateConfig, prior: DiffusionPrior, warn: Warn = no_warn
) -> dict[str, Guide]:
    """A guide for each stage that runs, and for close-ups. The guide of the shape is always there; the others share
    its branch, which keeps learning, and its rectifiers.

    Only for stages that run, as encoding their prompts takes time.
    """
    first = prepare_guide(job, config, prior, warn)

    def of(name: StepName) -> Guide:
        stage = config.step(name)
        if stage.method in LORA_METHODS and config.method not in (stage.method, "usd"):
            raise RequestError(
                f"The geometry stage cannot follow {stage.method} in a job that follows {config.method}.",
                f"Set geometry.method to sds, or to {config.method}.",
            )
        is_same = endings(stage.guidance) == endings(config.guidance)
        # Prepared once, as a language model may have to be loaded.
        prompts = first.prompts if is_same else prepare_prompts(config.prompt, stage.guidance, prior)
        return Guide(
            stage.method, first.denoiser, prompts, stage.guidance,
            first.rectifiers if stage.method in USD_METHODS else (), config.rectifier,
        )  # fmt: skip

    guides = {"shape": first}
    if "geometry" in config.stages:
        guides["geometry"] = of("geometry")
    if "texture" in config.stages:
        guides["texture"] = of("texture")
        if config.texture.detail_steps:
            guides["close_ups"] = of("close_ups")
    return guides


def full_prompt(prompt: str, auxiliary_prompt: str) -> str:
    """The prompt with the auxiliary prompt."""
    return ", ".join(part for part in (prompt, auxiliary_prompt) if part)


def endings(guidance: GuidanceConfig) -> list[str]:
    """What is put behind the prompt: the auxiliary prompt, and the words of each view."""
    views = guidance.views.phrases() if guidance.view_prompts else [""]
    return [full_prompt(guidance.auxiliary_prompt, view) for view in views]


def prompt_doubts(config: GenerateConfig, read: Read | None = None) -> str:
    """What the artist should know of how the model reads the prompt of a job, or nothing.

    Can be asked before there is a job; `read` is that of a prior that is loaded already.
    """
    steps = [config.step(name).guidance for name in get_args(StepName)]
    behind = [ending for guidance in (config.guidance, *steps) for ending in endings(guidance)]
    read = read or Words.load(config.prior).shortened
    return doubts(read(config.prompt, list(dict.fromkeys(behind))), config.prior)


def prepare_prompts(prompt: str, guidance: GuidanceConfig, prior: DiffusionPrior) -> Prompts:
    """The prompt in every form that a method needs. Raises JobError if the masked language model is missing.

    If there is no room for all words, the prompt is shortened, never what is put behind it.
    """
    prompt = prior.read(prompt, endings(guidance)).text
    prompt, reduced = full_prompt(prompt, guidance.auxiliary_prompt), None
    if guidance.masked_lm:
        by_direction = PromptDebiaser(guidance.masked_lm).reduced(prompt, guidance.debias_words)
        reduced = {view: by_direction[view if view in by_direction else "side"] for view in VIEWS}
    source = guidance.bridge_source and full_prompt(
        prior.read(prompt, [guidance.bridge_source]).text, guidance.bridge_source
    )
    return Prompts.encode(prior.encode_text, prompt, guidance.views, guidance.view_prompts, reduced, source)


def prepare_rectifiers(
    job: JobFolder, config: GenerateConfig, prior: DiffusionPrior, warn: Warn = no_warn
) -> list[Rectifier]:
    """The rectifiers of the pose and of another attribute, as configured. Raises RequestError if both are off."""
    settings, rectifiers = config.rectifier, []
    build = partial(
        Rectifier, num_intervals=settings.num_intervals, n_ema=settings.n_ema,
        num_timesteps=prior.schedule.num_timesteps, device=prior.device,
    )  # fmt: skip
    if settings.pose:
        classifier, templates, are_sides_known = prepare_classifier(job, config, prior, warn)
        is_camera = config.pose_mode == "camera"
        azimuths = yaw = None
        if are_placed(templates):
            azimuths = class_azimuths(templates, classifier.labels, prior.device)
        if azimuths is not None and not is_camera and settings.yaw == "inferred" and not settings.target:
            yaw = YawPosterior(azimuths, settings.yaw_memory, are_sides_known)
        rectifiers.append(build(classifier, config.pose_mode, azimuths, target=settings.target, yaw=yaw))
    if settings.attribute:
        attribute = AttributeClassifier(settings.attribute_classifier, settings.attribute).to(prior.device)
        rectifiers.append(
            build(attribute, "marginal", None, target=settings.attribute_target, name="attribute")
        )
    if not rectifiers:
        raise RequestError(
            "Neither the pose nor an attribute is rectified.",
            "Leave rectifier.pose on, name the classes of rectifier.attribute, or use the method vsd.",
        )
    return rectifiers


def prepare_classifier(
    job: JobFolder, config: GenerateConfig, prior: DiffusionPrior, warn: Warn = no_warn
) -> tuple[PoseClassifier, list[PoseTemplate], bool]:
    """The pose classifier, its templates, and whether it is known which side is which.

    If the job has no templates, the prior draws them first. Templates from other sources are compared with pictures that
    the prior draws (`pose.anchoring`).
    """
    extractor = FeatureExtractor(config.extractor, config.extractor_px).to(prior.device)
    given = job.read_request().templates
    loaded = load_templates(job, given, prior.image_px, warn)
    build = partial(_classifier_of, extractor=extractor, config=config, prior=prior)
    are_foreign = any(template.source != "prior" for template in given)
    if given and not (config.rectifier.anchor and are_foreign and are_placed(loaded)):
        return build(loaded), loaded, True
    job.templates.mkdir(exist_ok=True)
    folder = job.templates / "drawn" if given else job.templates
    drawing = config.rectifier.drawing
    own = draw_templates(folder, prior, extractor, config.prompt, config.seed, drawing)
    drawn = Drawn(
        load_templates(JobFolder(folder), own, prior.image_px), [template.image for template in own]
    )
    doubt_of_sides = side_doubt(folder)
    if not given:
        if doubt_of_sides and config.pose_mode == "camera":
            warn(doubt_of_sides)
        return build(drawn.templates), drawn.templates, not doubt_of_sides
    read = lambda each: read_drawn(build([*loaded, *each.templates]), loaded, each)  # noqa: E731
    reading = read(drawn)
    if drawing.right and reading is not None:
        drawn, reading = anchoring.with_known_sides(drawn, reading, read)
    if reading is None:
        return build(loaded), loaded, True
    if doubt := anchoring.doubts(reading):
        warn(" ".join(doubt))
        if doubt_of_sides and config.pose_mode == "camera":
            warn(doubt_of_sides)
    loaded = anchored(loaded, drawn, reading)
    return build(loaded), loaded, reading.is_trusted or not doubt_of_sides


def _classifier_of(
    templates: list[PoseTemplate], extractor: FeatureExtractor, config: GenerateConfig, prior: DiffusionPrior
) -> PoseClassifier:
    images = torch.stack([template.image for template in templates]).to(prior.device)
    generator = torch.Generator(device=prior.device).manual_seed(config.seed)
    attention = attention_to_prompt(prior, images, config.prompt, PATCHES, generator)
    return PoseClassifier(
        extractor, templates, config.rectifier.classifier, config.seed, attention, cache_folder("features")
    )


def _fix_marginals(
    rectifiers: Sequence[Rectifier], config: GenerateConfig, prior: DiffusionPrior, prompts: Prompts
) -> None:
    """Fix the marginals by the prior's own pictures of the prompt, noised and estimated at each interval's timestep."""
    generator = torch.Generator(device=prior.device).manual_seed(config.seed)
    count = config.rectifier.marginal_samples
    text = prompts.plain.expand(count, -1, -1)
    with torch.no_grad():
        prompt = full_prompt(config.prompt, config.guidance.auxiliary_prompt)
        samples = prior.sample(
            [prompt] * count, generator, config.guidance.guidance_scale, config.rectifier.drawing.num_steps
        )
        few_at_once = prior.decoded_at_once
        latents = torch.cat([prior.encode(few) for few in samples.split(few_at_once)])

        def estimates(t: Tensor) -> Tensor:
            noised = add_noise(latents, t.expand(count), None, 0, 1, prior.schedule, generator)
            parts = zip(
                *(rows.split(few_at_once) for rows in (noised.latents_t, noised.t, text)), strict=True
            )
            return torch.cat([estimate(*part) for part in parts])

        def estimate(latents_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
            return prior.decode(prior.schedule.x0_hat(latents_t, prior.eps(latents_t, t, text), t))

        for rectifier in rectifiers:
            rectifier.fix_marginal(estimates, generator)
