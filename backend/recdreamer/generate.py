"""A generation from request to result: the stages in order, each resumed from its newest checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from recdreamer.cache import cache_folder
from recdreamer.checkpoint import CheckpointStore
from recdreamer.config import GenerateConfig, as_json
from recdreamer.distillation.debiasing import PromptDebiaser
from recdreamer.distillation.methods import LORA_METHODS, Guide, add_noise
from recdreamer.mesh import finish_mesh
from recdreamer.optimize import optimize, optimize_step, orbit, report_poses
from recdreamer.pose.attributes import AttributeClassifier
from recdreamer.pose.classifier import PoseClassifier
from recdreamer.pose.draw import draw_templates
from recdreamer.pose.features import PATCHES, FeatureExtractor
from recdreamer.pose.rectifier import Rectifier
from recdreamer.pose.templates import PoseTemplate, load_templates
from recdreamer.prior.attention import attention_to_prompt
from recdreamer.prior.denoiser import Denoiser
from recdreamer.prior.diffusion import DiffusionPrior, TinyDecoder
from recdreamer.prior.lora import LoraBranch, LoraTrainer
from recdreamer.prior.prompts import VIEWS, Prompts
from recdreamer.protocol import BUILTIN_PRIOR, CLASS_AZIMUTHS_DEG, JobFolder, RequestError, write_atomically
from recdreamer.report import JobError, Report
from recdreamer.scene import Particles

STAGES = {"prepare": (0.0, 0.03), "shape": (0.03, 0.93), "mesh": (0.93, 1.0)}
"""Stages in order, with their share of a job's time."""


def generate(job: JobFolder, config: GenerateConfig, report: Report) -> None:
    """Run a job to its result, or up to where `report` stops it.

    Writes config.json, previews/, checkpoints/ and result/. Raises JobError for expected trouble, Cancelled
    and Paused after a checkpoint.
    """
    device = choose_device(config.device)
    write_atomically(job.root / "config.json", json.dumps(as_json(config), indent=2, ensure_ascii=False))
    _begin("prepare", report)
    torch.manual_seed(config.seed)
    prior = DiffusionPrior.load(config.prior, device, choose_dtype(config.prior, device))
    guide = prepare_guide(job, config, prior)
    prior.free_text_encoder()

    _begin("shape", report)
    particles, seconds = shape_stage(job, config, prior, guide, device, report)

    _begin("mesh", report)
    started, summaries = time.monotonic(), []
    progress = iter(range(1, 1_000_000))
    for index, scene in enumerate(particles.scenes):
        scene.field.set_progress(config.optimize.num_steps)
        summaries.append(
            finish_mesh(
                scene.field.density,
                lambda xyz, field=scene.field: field(xyz)[1],
                config.mesh,
                config.height_m,
                job.result / f"particle-{index}" if index else job.result,
                seed=config.seed,
                device=device,
                tick=lambda: report.progress(min(next(progress), 99), 100),
                warn=report.warning,
            )
        )
    result = {
        "prompt": config.prompt,
        "method": config.method,
        "seed": config.seed,
        "seconds": {"shape": seconds, "mesh": time.monotonic() - started},
        "steps": config.optimize.num_steps,
        "device": str(device),
        "meshes": summaries,
    }
    write_atomically(
        job.result / "report.json", json.dumps(result, indent=2, ensure_ascii=False, default=str)
    )
    report.progress(100, 100)


def _begin(stage: str, report: Report) -> None:
    report.stage(stage, list(STAGES).index(stage), len(STAGES), STAGES[stage])


def shape_stage(
    job: JobFolder,
    config: GenerateConfig,
    prior: DiffusionPrior,
    guide: Guide,
    device: torch.device,
    report: Report,
) -> tuple[Particles, float]:
    """Stage 1: shape and colour by score distillation. Returns the particles and the seconds of all runs."""
    particles, branch, rectifiers = Particles(config, device), guide.denoiser.branch, guide.rectifiers
    guidance, num_steps = config.guidance, config.optimize.num_steps
    lora = branch and LoraTrainer(branch, guidance.lora_learning_rate, guidance.lora_warmup_steps)

    def after_step(step: int) -> None:
        if step % config.optimize.preview_every == 0 or step == num_steps:
            report.preview(write_preview(particles, job.previews, step))
            if rectifiers:
                report_poses(report, rectifiers[0].classifier.labels, rectifiers[0].marginal, guide)
        report.progress(step, num_steps)

    def check(step: int) -> None:
        bad = particles.first_bad_step
        if bad <= step:
            raise JobError(
                "non_finite",
                f"The loss was not a finite number at step {bad:.0f}; the last good checkpoint was kept.",
                "Run the job again with a lower guidance scale or learning rate, or another seed.",
            )

    seconds = optimize(
        "shape",
        CheckpointStore(job.checkpoints),
        config,
        device,
        [part for part in (particles, lora, *rectifiers) if part is not None],
        lambda step: optimize_step(step, config, prior, particles.at(step), guide, lora),
        after_step,
        check,
    )
    return particles, seconds


def prepare_guide(job: JobFolder, config: GenerateConfig, prior: DiffusionPrior) -> Guide:
    """The job's method with all it asks: the branch, the prompt in its forms, the rectifiers."""
    guidance, branch, rectifiers = config.guidance, None, []
    prompts = prepare_prompts(config, prior)
    if config.method == "usd":
        rectifiers = prepare_rectifiers(job, config, prior)
        if config.rectifier.marginal == "sampled":
            _fix_marginals(rectifiers, config, prior, prompts)
    if config.method in LORA_METHODS:
        branch = LoraBranch(prior, guidance.lora_rank, guidance.lora_targets, config.seed)
    if guidance.checkpointing:
        prior.unet.enable_gradient_checkpointing()
    if guidance.compile:
        prior.unet.compile()
    decoder = TinyDecoder(config.rectifier.tiny_decoder, prior) if config.rectifier.tiny_decoder else None
    return Guide(
        config.method, Denoiser(prior, branch, decoder), prompts, guidance, rectifiers, config.rectifier
    )


def full_prompt(config: GenerateConfig) -> str:
    """The prompt with the auxiliary prompt."""
    return ", ".join(part for part in (config.prompt, config.guidance.auxiliary_prompt) if part)


def prepare_prompts(config: GenerateConfig, prior: DiffusionPrior) -> Prompts:
    """The prompt in every form that a method asks for. Raises JobError when the masked language model is missing."""
    guidance, prompt, reduced = config.guidance, full_prompt(config), None
    if guidance.masked_lm:
        by_direction = PromptDebiaser(guidance.masked_lm).reduced(prompt, guidance.debias_words)
        reduced = {view: by_direction[view if view in by_direction else "side"] for view in VIEWS}
    source = f"{prompt}, {guidance.bridge_source}" if guidance.bridge_source else ""
    return Prompts.encode(prior.encode_text, prompt, guidance.views, guidance.view_prompts, reduced, source)


def prepare_rectifiers(job: JobFolder, config: GenerateConfig, prior: DiffusionPrior) -> list[Rectifier]:
    """That of the pose, and that of another attribute, as far as they are wanted. Raises RequestError for neither."""
    settings, rectifiers = config.rectifier, []
    build = partial(
        Rectifier, num_intervals=settings.num_intervals, n_ema=settings.n_ema,
        num_timesteps=prior.schedule.num_timesteps, device=prior.device,
    )  # fmt: skip
    if settings.pose:
        classifier, templates = prepare_classifier(job, config, prior)
        is_camera = config.pose_mode == "camera"
        azimuths = class_azimuths(templates, classifier.labels, prior.device) if is_camera else None
        rectifiers.append(build(classifier, config.pose_mode, azimuths, target=settings.target))
    if settings.attribute:
        attribute = AttributeClassifier(settings.attribute_classifier, settings.attribute).to(prior.device)
        rectifiers.append(
            build(attribute, "marginal", None, target=settings.attribute_target, name="attribute")
        )
    if not rectifiers:
        raise RequestError(
            "Neither the pose nor an attribute is to be rectified.",
            "Leave rectifier.pose on, name the classes of rectifier.attribute, or take the method vsd.",
        )
    return rectifiers


def prepare_classifier(
    job: JobFolder, config: GenerateConfig, prior: DiffusionPrior
) -> tuple[PoseClassifier, list[PoseTemplate]]:
    """The classifier of the job's templates, and these; where there are none, the prior draws them first."""
    extractor = FeatureExtractor(config.extractor).to(prior.device)
    templates = job.read_request().templates
    if not templates:
        templates = draw_templates(job.templates, prior, extractor, config.prompt, config.seed)
        templates = tuple(replace(template, image=f"templates/{template.image}") for template in templates)
    loaded = load_templates(job, templates, prior.image_px)
    images = torch.stack([template.image for template in loaded]).to(prior.device)
    generator = torch.Generator(device=prior.device).manual_seed(config.seed)
    attention = attention_to_prompt(prior, images, config.prompt, PATCHES, generator)
    classifier = PoseClassifier(
        extractor, loaded, config.rectifier.classifier, config.seed, attention, cache_folder("features")
    )
    return classifier, loaded


def _fix_marginals(
    rectifiers: Sequence[Rectifier], config: GenerateConfig, prior: DiffusionPrior, prompts: Prompts
) -> None:
    """Classify the prior's own pictures of the prompt, noised and estimated at each interval's timestep."""
    generator = torch.Generator(device=prior.device).manual_seed(config.seed)
    count = config.rectifier.marginal_samples
    text = prompts.plain.expand(count, -1, -1)
    with torch.no_grad():
        latents = prior.encode(
            prior.sample([full_prompt(config)] * count, generator, config.guidance.guidance_scale)
        )

        def estimates(t: Tensor) -> Tensor:
            noised = add_noise(latents, t.expand(count), None, 0, 1, prior.schedule, generator)
            eps = prior.eps(noised.latents_t, noised.t, text)
            return prior.decode(prior.schedule.x0_hat(noised.latents_t, eps, noised.t))

        for rectifier in rectifiers:
            rectifier.fix_marginal(estimates, generator)


def class_azimuths(templates: list[PoseTemplate], labels: tuple[str, ...], device: torch.device) -> Tensor:
    """The azimuth of each class in degrees: that of its templates, averaged on the circle, else its name's."""
    azimuths = []
    for label in labels:
        known = [t.azimuth_deg for t in templates if t.label == label and t.azimuth_deg is not None]
        angles = torch.deg2rad(torch.tensor(known or [CLASS_AZIMUTHS_DEG[label]]))
        azimuths.append(torch.rad2deg(torch.atan2(angles.sin().mean(), angles.cos().mean())) % 360)
    return torch.stack(azimuths).to(device)


def write_preview(particles: Particles, folder: Path, step: int, num_views: int = 4) -> Path:
    """Front, right, back and left side by side, a row for each particle."""
    rows = []
    for scene in particles.scenes:
        pictures = scene.picture(orbit(num_views, scene.config, scene.device), 96)
        rows.append(pictures.permute(2, 0, 3, 1).flatten(1, 2))
    strip = (torch.cat(rows) * 255).round().byte().cpu().numpy()
    path = folder / f"step-{step:06d}.png"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(strip).save(temporary, format="PNG")
    temporary.replace(path)
    return path


def choose_dtype(prior: str, device: torch.device) -> torch.dtype:
    """Half precision where it is native; the embedded prior is too small to gain from it."""
    return torch.bfloat16 if device.type == "cuda" and prior != BUILTIN_PRIOR else torch.float32


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU when there is one. Raises JobError when the named device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise JobError(
            "device",
            f"The device {name!r} cannot be used ({str(error).splitlines()[0]}).",
            "Choose 'auto' or 'cpu'.",
        ) from error
    return torch.device(name)
