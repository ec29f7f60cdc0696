"""Why some models cannot be used: one sentence for each kind, by the names that they have in their files.

Score distillation needs the model's own estimate of the noise, E[eps | x_t], under ordinary guidance, from one text
encoder of the CLIP family. That leaves Stable Diffusion 1.x and 2.x and their fine-tunes.
"""

from __future__ import annotations

import re

from recdreamer.shared.protocol import RequestError

REMEDY = "Choose Stable Diffusion 1.x or 2.x, or a fine-tune of either."
SDXL = "is a Stable Diffusion XL model, which has a second text encoder and sizes that are not supported yet"
SD3 = "is a Stable Diffusion 3 model: a flow model with a transformer, which is not supported yet"
FLUX = "is a FLUX model: a flow model with a transformer, which is not supported yet"
FLOW = "is a flow model, which is not supported yet"
LCM = (
    "is a latent consistency model: distilled to a few steps, it no longer estimates the noise that "
    "score distillation needs"
)
DISTILLED = (
    "is by its name a distilled model of few steps ({}), which no longer estimates the noise that "
    "score distillation needs"
)
INPAINTING = "is an inpainting model: its U-Net takes 9 channels, with a mask and a masked picture"
EDITING = "is an image-editing model: its U-Net takes 8 channels, with a second picture"
DEPTH = "is a depth-to-image model: its U-Net takes 5 channels, with a depth map"
UPSCALER = "is an upscaler: its U-Net takes 7 channels, with a small picture"
UNCLIP = "is an unCLIP model: its U-Net takes an image embedding besides the text"
VIDEO = "is a video model"
FOREIGN = "is not a Stable Diffusion 1.x or 2.x model"

PIPELINES: tuple[tuple[str, str], ...] = (
    (r"^StableDiffusionXL|^StableDiffusion.*XL|^Kolors", SDXL),
    (r"^StableDiffusion3", SD3),
    (r"^Flux|^Chroma", FLUX),
    (r"^LatentConsistency", LCM),
    (r"Inpaint", INPAINTING),
    (r"Pix2Pix", EDITING),
    (r"Depth2Img", DEPTH),
    (r"Upscale", UPSCALER),
    (r"UnCLIP", UNCLIP),
    (r"^(Sana|Lumina|AuraFlow|QwenImage|ZImage|Wan|LTX|HiDream|Cosmos|Mochi|HunyuanVideo|Flow)", FLOW),
    (r"Video|^AnimateDiff|Motion", VIDEO),
)
"""Pipeline classes that are refused, by a pattern of their names."""
USABLE_PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionPAGPipeline",
    "StableDiffusionPipelineSafe",
)
SCHEDULERS = (
    "DDIMScheduler", "DDIMInverseScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler",
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler",
    "UniPCMultistepScheduler", "SASolverScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler",
)  # fmt: skip
"""Samplers of ordinary diffusion models: all of them keep the same noise schedule."""

_FEW_STEPS = re.compile(
    r"(?<![a-z0-9])(lcm|turbo|lightning|hyper[ ]?sd(?:15|21|xl)?|instaflow|perflow|flash[ ]?(?:sd|diffusion)|"
    r"dmd2?|tcd|pcm|sdxs|swiftbrush|schnell|(?:1|2|4|8)[ ]?steps?)(?![a-z0-9])"
)


def few_steps_in(name: str) -> str:
    """The word in a model's name that says that it is distilled to a few steps; empty if there is none.

    Nothing else in the files of such a model tells.

    >>> [few_steps_in(name) for name in ("sd-turbo", "DreamShaper8_LCM", "turbocharged", "sdxs-512", "toon 4-steps")]
    ['turbo', 'lcm', '', 'sdxs', '4 steps']
    """
    found = _FEW_STEPS.search(re.sub(r"[-_./\\ ]+", " ", name).lower())
    return found[1] if found else ""


def refuse_distilled(name: str, *hints: str) -> None:
    """Raise RequestError if the name, or what the files call themselves, is that of a distilled model."""
    for text in (name, *hints):
        if word := few_steps_in(text):
            raise RequestError(
                f"{name} {DISTILLED.format(word)}.", f"{REMEDY} If it is none, rename it without that word."
            )


def refusal(name: str, why: str, remedy: str = REMEDY) -> RequestError:
    """The error for a model of a kind that cannot be used."""
    return RequestError(f"{name} {why}.", remedy)


def refuse_pipeline(name: str, pipeline: str) -> None:
    """Raise RequestError unless this class of pipeline is one of Stable Diffusion 1.x or 2.x."""
    if pipeline in USABLE_PIPELINES:
        return
    for pattern, why in PIPELINES:
        if re.search(pattern, pipeline):
            raise refusal(name, why)
    raise refusal(name, f"{FOREIGN} ({pipeline or 'it does not say which'})")


def refuse_channels(name: str, in_channels: int, out_channels: int, latent_channels: int) -> None:
    """Raise RequestError if the U-Net takes or gives more than the latents.

    >>> refuse_channels("base", 4, 4, 4)
    >>> refuse_channels("photo-inpainting", 9, 4, 4)
    Traceback (most recent call last):
        ...
    recdreamer.shared.safe_files.RequestError: photo-inpainting is an inpainting model: its U-Net takes 9 \
channels, with a mask and a masked picture. Choose Stable Diffusion 1.x or 2.x, or a fine-tune of either.
    """
    if in_channels == out_channels == latent_channels:
        return
    known = {9: INPAINTING, 8: EDITING, 5: DEPTH, 7: UPSCALER}
    if latent_channels == 4 and out_channels == 4 and in_channels in known:
        raise refusal(name, known[in_channels])
    raise refusal(
        name,
        f"has a U-Net that takes {in_channels} channels and gives {out_channels}, but latents of {latent_channels}",
    )
