"""The frozen text-to-image model: prompts to embeddings, pictures to latents and back, noise estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers import AutoencoderTiny
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recdreamer.catalog.locate import located
from recdreamer.prior.fast_layers import speed_up
from recdreamer.prior.grad_scale import GradScale
from recdreamer.prior.loading import BUILTIN_FOLDER as BUILTIN_FOLDER
from recdreamer.prior.loading import loading
from recdreamer.prior.pipeline import load_parts
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.prior.words import ReadPrompt, Words
from recdreamer.report import JobError
from recdreamer.shared.worlds import world_of

AT_ONCE = 8
"""Pictures that go through the denoiser or the extractor together where there are many: of Stable Diffusion's, 8 take
about 1 GiB."""
DECODED_PX = 2 * 512**2
"""Pixels that go through the autoencoder together where there are many pictures: about 0.8 GiB of Stable Diffusion's."""


@dataclass
class DiffusionPrior:
    """The parts of a Stable Diffusion model, ready for distillation."""

    # Loose types, because diffusers' own annotations are wrong.
    unet: Any
    """A UNet2DConditionModel."""
    vae: Any
    """An AutoencoderKL."""
    tokenizer: Any
    text_encoder: torch.nn.Module
    schedule: NoiseSchedule
    image_px: int
    """Side of the square pictures that the model was trained on."""
    padding_has_meaning: bool = False
    """Whether the tokens behind the words stand for the object, as in the priors that ship, whose text encoder learned
    together with the denoiser. CLIP's do not."""

    @staticmethod
    def load(name: str, device: torch.device | str, dtype: torch.dtype) -> DiffusionPrior:
        """Load `builtin`, a folder, a single file, or a model that is installed or cached; nothing is downloaded.

        Raises JobError("prior", ...) if the model is not here, is of a kind that cannot be used, or cannot be loaded.
        """
        model = located(name, "prior", BUILTIN_FOLDER)
        hint = "Download the model again, or choose another."
        with loading("prior", name, "a Stable Diffusion model", hint):
            parts = load_parts(model, dtype)
        for part in (parts.unet, parts.vae, parts.text_encoder):
            freeze(part, device)
        return DiffusionPrior(
            parts.unet,
            parts.vae,
            parts.tokenizer,
            parts.text_encoder,
            parts.schedule.to(device),
            parts.image_px,
            padding_has_meaning=world_of(name) is not None,
        )

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def latent_side(self) -> int:
        """Side of the latents of a picture of the trained size. The U-Net's own number is that of its family."""
        return self.image_px // 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def decoded_at_once(self) -> int:
        """Pictures that go through the autoencoder together where there are many."""
        return min(AT_ONCE, max(1, DECODED_PX // self.image_px**2))

    def read(self, prompt: str, endings: Sequence[str] = ()) -> ReadPrompt:
        """The prompt as far as the text encoder has room for it, in front of each of the endings."""
        return Words(self.tokenizer).shortened(prompt, endings)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Float[Tensor, "prompts tokens width"]:
        """Embeddings as the pipeline computes them: padded to the model's length, without an attention mask.

        Of prompts that are too long, the words that matter least are left out; see `read`.
        """
        tokens = self.tokenizer(
            [self.read(prompt).text for prompt in prompts],
            padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )  # fmt: skip
        return self.text_encoder(tokens.input_ids.to(self.device))[0]

    def has_meaning(self, prompt: str) -> Bool[Tensor, "tokens"]:
        """Which tokens of the padded prompt are its words, from the first one that is not an article.

        The text encoder is causal, so the tokens before that word are the same for every prompt. In the 77 of CLIP there
        are some 65 behind the words, which would outvote them, and what attends to those is often the background.
        (Released code: as many tokens as there are words.)
        """
        words = self.tokenizer(self.read(prompt).text, add_special_tokens=False, verbose=False).input_ids
        length = self.tokenizer.model_max_length
        end = min(1 + len(words), length - 1)
        first = 1
        while first < end and self.tokenizer.decode(words[first - 1]).strip().lower() in ("a", "an", "the"):
            first += 1
        places = torch.arange(length, device=self.device)
        # Nothing but articles has no words; then the end speaks for all.
        return (places >= first) & (self.padding_has_meaning | (places < max(end, first + 1)))

    @property
    def text_encoder_bytes(self) -> int:
        """The memory that `free_text_encoder` gives back."""
        return sum(tensor.nbytes for tensor in self.text_encoder.parameters())

    def free_text_encoder(self) -> None:
        """Release the text encoder's memory once all prompts are encoded."""
        self.text_encoder = torch.nn.Identity()

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch c h w"]:
        """Pictures in [0, 1] to latents, with gradient. Takes the posterior's mean: its noise would only add variance."""
        images = sized(images, self.image_px)
        scale = GradScale(self.vae.dtype)
        posterior = self.vae.encode(scale.enter(2 * images - 1).to(self.vae.dtype)).latent_dist
        return scale.leave(posterior.mean.float()) * self.vae.config.scaling_factor

    def decode(self, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
        """Latents to pictures of about [0, 1], with gradient; not clamped, which would cut off gradients."""
        scale = GradScale(self.vae.dtype)
        latents = scale.enter(latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return scale.leave(self.vae.decode(latents).sample.float()) / 2 + 0.5

    def eps(
        self, latents_t: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"],
        text: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch c h w"]:  # fmt: skip
        """The pretrained model's estimate of the noise in `latents_t`."""
        return self.schedule.eps_of(self.output(latents_t, t, text), latents_t, t)

    def output(
        self, latents_t: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"],
        text: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch c h w"]:  # fmt: skip
        """The raw output of the pretrained model, eps or v."""
        scale, dtype = GradScale(self.unet.dtype), self.unet.dtype
        return scale.leave(self.unet(scale.enter(latents_t).to(dtype), t, text.to(dtype)).sample.float())

    @torch.no_grad()
    def sample(
        self,
        prompts: list[str],
        generator: torch.Generator,
        guidance_scale: float = 3.0,
        num_steps: int = 25,
        at_once: int = AT_ONCE,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Pictures in [0, 1] drawn from the prior by DDIM (eta 0), one for each prompt.

        Any number fits into memory, as `at_once` of them are drawn together, all from the noise drawn first.
        """
        shape = (len(prompts), self.unet.config.in_channels, *[self.latent_side] * 2)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(self.device)
        parts = (
            self._denoised(few, prompts[index * at_once :][:at_once], guidance_scale, num_steps)
            for index, few in enumerate(noise.split(at_once))
        )
        return torch.cat(list(parts))

    def _denoised(
        self, latents: Float[Tensor, "batch c h w"], prompts: list[str], guidance_scale: float, num_steps: int
    ) -> Float[Tensor, "batch 3 height width"]:
        text, empty = self.encode_text(prompts), self.encode_text([""]).expand(len(prompts), -1, -1)
        steps = torch.linspace(self.schedule.last, 0, num_steps + 1).round().long().tolist()
        for now, then in pairwise(steps):
            t = torch.full((len(prompts),), now, device=self.device)
            cond, uncond = self.eps(latents, t, text), self.eps(latents, t, empty)
            eps = guided(cond, uncond, guidance_scale)
            latents = self.schedule.add_noise(
                self.schedule.x0_hat(latents, eps, t), eps, torch.full_like(t, then)
            )
        return torch.cat([self.decode(few).clamp(0, 1) for few in latents.split(self.decoded_at_once)])


def sized(
    images: Float[Tensor, "batch 3 height width"], size_px: int
) -> Float[Tensor, "batch 3 size_px size_px"]:
    """Pictures in the size that a model was trained on."""
    if images.shape[-2:] == (size_px, size_px):
        return images
    return torch.nn.functional.interpolate(images, (size_px, size_px), mode="bilinear", align_corners=False)


class TinyAutoencoder:
    """A distilled autoencoder, half of which stands in for that of a prior."""

    def __init__(self, name: str, prior: DiffusionPrior, setting: str) -> None:
        """`name` is a folder of an AutoencoderTiny, or one that is installed or cached, such as "taesd".

        Raises JobError if it is not here, cannot be loaded or does not fit the prior. `setting` has its name.
        """
        folder = located(name, "decoder").path
        hint = f"Choose another, or leave {setting} empty."
        with loading("decoder", name, "an AutoencoderTiny", hint):
            self.model: Any = AutoencoderTiny.from_pretrained(
                folder, dtype=prior.unet.dtype, local_files_only=True, use_safetensors=True
            )
        theirs, ours = self.model.config.latent_channels, prior.unet.config.in_channels
        if theirs != ours:
            raise JobError(
                "decoder",
                f"{name!r} decodes {theirs} latent channels, but the model has {ours}.",
                "Choose a tiny decoder made for this model.",
            )
        self.image_px = prior.image_px
        freeze(self.model, prior.device)


class TinyEncoder(TinyAutoencoder):
    """Encodes renders in the place of the autoencoder's own encoder."""

    def __init__(self, name: str, prior: DiffusionPrior) -> None:
        super().__init__(name, prior, "optimize.tiny_encoder")

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch c h w"]:
        """Like DiffusionPrior.encode; gives latents in the denoiser's scale."""
        scale = GradScale(self.model.dtype)
        pictures = scale.enter(2 * sized(images, self.image_px) - 1).to(self.model.dtype)
        return scale.leave(self.model.encode(pictures).latents.float())


class TinyDecoder(TinyAutoencoder):
    """Decodes pictures that only a classifier sees in the place of the autoencoder's own decoder."""

    def __init__(self, name: str, prior: DiffusionPrior) -> None:
        super().__init__(name, prior, "rectifier.tiny_decoder")

    def decode(self, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
        """Like DiffusionPrior.decode; takes latents in the denoiser's scale."""
        scale = GradScale(self.model.dtype)
        return (
            scale.leave(self.model.decode(scale.enter(latents).to(self.model.dtype)).sample.float()) / 2 + 0.5
        )


def freeze(part: torch.nn.Module, device: torch.device | str) -> None:
    """Prepare for inference: no gradients to the weights, and on a GPU fused layers.

    Half precision comes with the layout that suits convolutions; in float32 torch's own norms would leave it again.
    """
    part.requires_grad_(False).eval().to(device)
    if torch.device(device).type == "cuda":
        speed_up(part)
        if next(part.parameters()).dtype in (torch.bfloat16, torch.float16):
            part.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def guided(
    eps_cond: Float[Tensor, "batch c h w"], eps_uncond: Float[Tensor, "batch c h w"], scale: float
) -> Float[Tensor, "batch c h w"]:
    """Classifier-free guidance in diffusers' convention: eps_uncond + scale · (eps_cond - eps_uncond).

    Scale 1 is the conditional estimate; a scale s in threestudio's SDS corresponds to s + 1 here.

    >>> cond, uncond = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 1.0)
    >>> [guided(cond, uncond, scale).item() for scale in (0.0, 1.0, 7.5)]
    [1.0, 3.0, 16.0]
    """
    return eps_uncond + scale * (eps_cond - eps_uncond)
