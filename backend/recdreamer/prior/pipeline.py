"""Loads the parts of a Stable Diffusion model that catalog/check_model.py has accepted; nothing is downloaded.

This is the one place that knows the formats: a folder of diffusers, with weights in full or in half precision, and a
single file in the layout of the original repositories. What comes out is the same for all: see `Parts`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from recdreamer.catalog.description import Model
from recdreamer.catalog.single_file import CONFIGURATIONS, TRAINED_PX
from recdreamer.prior.schedule import NoiseSchedule, Prediction
from recdreamer.shared.prompt_words import letters_of_bytes

PAD_TOKENS = {"sd1": "<|endoftext|>", "sd2": "!"}
"""What fills a prompt up to its full length, by family: as each was trained."""


@dataclass(frozen=True)
class Parts:
    """Everything that DiffusionPrior takes from a model: text conditioning, noise schedule, latents, the U-Net."""

    # Loose types, because diffusers' own annotations are wrong.
    unet: Any
    vae: Any
    tokenizer: Any
    text_encoder: torch.nn.Module
    schedule: NoiseSchedule
    image_px: int


def load_parts(model: Model, dtype: torch.dtype) -> Parts:
    """The parts of a checked model, on the CPU. Raises whatever the libraries raise."""
    return _load_file(model, dtype) if model.path.is_file() else _load_folder(model, dtype)


def tokenizer_of(model: Model) -> CLIPTokenizer:
    """The tokenizer of a checked model alone, for whoever only counts words."""
    if model.configuration is not None:
        return clip_tokenizer(PAD_TOKENS[model.configuration.name])
    return CLIPTokenizer.from_pretrained(model.path / "tokenizer", local_files_only=True)


def _load_folder(model: Model, dtype: torch.dtype) -> Parts:
    def part(kind: Any, name: str) -> Any:
        return kind.from_pretrained(
            model.path / name,
            variant=model.variants[name] or None,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
        )

    settings = json.loads(
        (model.path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8-sig")
    )
    assert model.prediction != ""
    return Parts(
        part(UNet2DConditionModel, "unet"),
        part(AutoencoderKL, "vae"),
        tokenizer_of(model),
        part(CLIPTextModel, "text_encoder"),
        noise_schedule(settings, model.prediction),
        model.image_px,
    )


def noise_schedule(settings: dict[str, Any], prediction: Prediction) -> NoiseSchedule:
    """The noise schedule of a scheduler_config.json: which sampler it names does not matter."""
    known = (
        "beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps", "rescale_betas_zero_snr",
    )  # fmt: skip
    scheduler: Any = DDIMScheduler(
        **{name: settings[name] for name in known if settings.get(name) is not None}
    )
    return NoiseSchedule(scheduler.alphas_cumprod, prediction)


def _load_file(model: Model, dtype: torch.dtype) -> Parts:
    assert model.configuration is not None
    folder = model.configuration
    checkpoint: Any = load_file(model.path)
    options: Any = {"config": str(folder), "torch_dtype": dtype, "local_files_only": True}
    # The conversion takes tensors out of the dictionary that it is given.
    kinds: tuple[Any, Any] = UNet2DConditionModel, AutoencoderKL
    unet, vae = (
        kind.from_single_file(dict(checkpoint), subfolder=part, **options)
        for kind, part in zip(kinds, ("unet", "vae"), strict=True)
    )
    text_encoder = create_diffusers_clip_model_from_ldm(
        CLIPTextModel, checkpoint=dict(checkpoint), subfolder="text_encoder", **options
    )
    del checkpoint
    for part in (unet, vae, text_encoder):
        if missing := [name for name, tensor in part.named_parameters() if tensor.is_meta]:
            raise ValueError(f"it lacks the tensor of {missing[0]}")
    tokenizer = tokenizer_of(model)
    settings = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    if model.has_zero_terminal_snr:
        settings["rescale_betas_zero_snr"] = True
    prediction = model.prediction
    if prediction == "":
        prediction = _prediction_of(unet, text_encoder, tokenizer, noise_schedule(settings, "epsilon"))
    image_px = model.image_px or TRAINED_PX[prediction]
    return Parts(unet, vae, tokenizer, text_encoder, noise_schedule(settings, prediction), image_px)


@torch.no_grad()
def _prediction_of(
    unet: Any, text_encoder: torch.nn.Module, tokenizer: Any, schedule: NoiseSchedule
) -> Prediction:
    tokens = tokenizer(
        "", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    text = text_encoder(tokens)[0]
    generator = torch.Generator().manual_seed(0)
    # Small, because it may be computed on a CPU.
    latents_t = torch.randn(1, unet.config.in_channels, 16, 16, generator=generator)
    return told_prediction(
        lambda latents_t, t: unet(latents_t.to(unet.dtype), t, text.to(unet.dtype)).sample.float(),
        latents_t,
        schedule.num_timesteps,
    )


def told_prediction(
    unet: Callable[[Float[Tensor, "batch c h w"], Int[Tensor, "batch"]], Float[Tensor, "batch c h w"]],
    latents_t: Float[Tensor, "batch c h w"],
    num_timesteps: int,
) -> Prediction:
    """What a U-Net predicts, told by its output for pure noise at the last timestep.

    There x_t is nearly the noise itself, so an estimate of the noise is nearly x_t. v = alpha_t · eps - sigma_t · x_0 is
    nearly -x_0 instead, which an estimate from noise alone leaves almost uncorrelated with x_t.

    >>> x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> told_prediction(lambda x, t: 0.99 * x, x, 1000), told_prediction(lambda x, t: 0.07 * x - 0.5, x, 1000)
    ('epsilon', 'v_prediction')
    """
    output = unet(latents_t, torch.full((len(latents_t),), num_timesteps - 1))
    # The slope of the output over x_t: near 1 or near alpha_t.
    slope = (output * latents_t).mean() / latents_t.square().mean()
    return "epsilon" if slope > 0.5 else "v_prediction"


def clip_tokenizer(pad_token: str) -> CLIPTokenizer:
    """The tokenizer of CLIP, with 49,408 tokens, built from its list of merges.

    >>> tokenizer = clip_tokenizer("!")
    >>> len(tokenizer), tokenizer("a red bear").input_ids
    (49408, [49406, 320, 736, 4298, 49407])
    """
    lines = gzip.decompress((CONFIGURATIONS / "clip_merges.txt.gz").read_bytes()).decode("utf-8").splitlines()
    merges: Any = [tuple(line.split()) for line in lines[1:]]
    letters = letters_of_bytes().values()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        {token: index for index, token in enumerate(tokens)}, merges, pad_token=pad_token, model_max_length=77
    )
