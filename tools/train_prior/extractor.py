"""The feature extractor: a tiny DINOv2 trained without any labels, by two kinds of self-distillation.

The class token learns by swapped assignment to prototypes (SwAV). The patches learn by finding the same point of the
same picture under another augmentation, and by agreeing on prototypes of parts. Half of the pictures are first
replaced by the prior's own one-step estimate of them from noise, or averaged with their mirror image. This keeps the
features meaningful on the pictures that a rectifier sees. Some are matched with a line drawing of themselves, so that
sketches are read like pictures. Others are random toys matched with a block-out of themselves, so that an artist's
rough model is read like the finished thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from augment import as_sketch, degrade, jitter_hue, random_affine, warp
from common import FitConfig, fit

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PATCHES = 16


def new_extractor(width: int, num_layers: int, image_px: int = 64) -> Dinov2WithRegistersModel:
    return Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=width, num_hidden_layers=num_layers, num_attention_heads=width // 16, mlp_ratio=4,
            image_size=image_px, patch_size=image_px // PATCHES, num_register_tokens=4, layerscale_value=0.1,
        )
    )  # fmt: skip


class Student(nn.Module):
    """The extractor and the prototypes, which only its training needs."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, width: int, num_layers: int, num_image_prototypes: int = 192, num_parts: int = 64,
        image_px: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.extractor = new_extractor(width, num_layers, image_px)
        self.image_prototypes = nn.Parameter(torch.randn(num_image_prototypes, width))
        self.part_prototypes = nn.Parameter(torch.randn(num_parts, width))
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unit class features (batch, width) and unit patch features (batch, width, 16, 16)."""
        tokens = self.extractor((images - self.mean) / self.std).last_hidden_state
        patches = tokens[:, 1 + self.extractor.config.num_register_tokens :]
        patches = F.normalize(patches, dim=-1).transpose(1, 2).unflatten(2, (PATCHES, PATCHES))
        return F.normalize(tokens[:, 0], dim=-1), patches


@torch.no_grad()
def balanced_assignment(scores: Tensor, sharpness: float = 20.0, rounds: int = 3) -> Tensor:
    """Soft assignment of rows to prototypes that uses every prototype equally (Sinkhorn-Knopp)."""
    plan = (sharpness * (scores - scores.amax())).exp()
    for _ in range(rounds):
        plan = plan / plan.sum(0, keepdim=True).clamp_min(1e-8)
        plan = plan / plan.sum(1, keepdim=True).clamp_min(1e-8)
    return plan


def swapped_loss(first: Tensor, second: Tensor, prototypes: Tensor, temperature: float = 0.1) -> Tensor:
    """Each view predicts the assignment of the other (SwAV)."""
    unit = F.normalize(prototypes, dim=-1)
    scores = first @ unit.T, second @ unit.T
    targets = [balanced_assignment(score) for score in scores]
    guesses = [F.log_softmax(score / temperature, dim=-1) for score in scores]
    return -0.5 * ((targets[1] * guesses[0]).sum(-1).mean() + (targets[0] * guesses[1]).sum(-1).mean())


def contrast_loss(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """Each unit row of one view finds its own among all rows of the other (InfoNCE).

    So it tells apart what differs in the pose alone, where prototypes settle for the animal.

    >>> rows = torch.eye(4)
    >>> round(contrast_loss(rows, rows).item(), 4), round(contrast_loss(rows, rows.roll(1, 0)).item(), 2)
    (0.0001, 10.0)
    """
    logits = first @ second.T / temperature
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))


def foreground_weight(images: Tensor) -> Tensor:
    """How much each patch differs from the picture's border: (batch, 16 * 16), in [0, 1]."""
    border = torch.cat((images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]), dim=-1)
    distance = (images - border.median(-1).values[..., None, None]).abs().amax(1, keepdim=True)
    return F.avg_pool2d((distance > 0.12).float(), images.shape[-1] // PATCHES).flatten(1)


def patch_loss(
    first: Tensor, second: Tensor, sampled: Tensor, weight: Tensor, temperature: float = 0.1
) -> Tensor:
    """Each patch of the first view finds its own place in the second among all places of that picture.

    `sampled` holds the features of the second view at the places of the first view's patches. Only patches of the same
    picture compete, so the loss never has to separate a part from the same part of another figure.
    """
    anchors, targets = (
        first.flatten(2).transpose(1, 2),
        F.normalize(sampled.flatten(2).transpose(1, 2), dim=-1),
    )
    logits = anchors @ targets.transpose(1, 2) / temperature
    labels = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return (loss * weight.flatten()).sum() / weight.sum().clamp_min(1)


class Estimator:
    """Replaces pictures with the prior's estimate of them from noise: Tweedie's estimate, decoded.

    Pictures of another size than the prior's are resampled there and back.
    """

    def __init__(self, vae: AutoencoderKL, unet: nn.Module, text: Tensor, alphas_cumprod: Tensor) -> None:
        self.vae, self.unet, self.text, self.alphas_cumprod = vae, unet, text, alphas_cumprod

    @torch.no_grad()
    def __call__(self, images: Tensor, captions: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        given, scale = images.shape[-2:], self.vae.config.scaling_factor
        images = _resampled(images, (self.vae.config.sample_size,) * 2)
        clean = scale * self.vae.encode(2 * images - 1).latent_dist.mean
        eps = torch.randn(clean.shape, generator=generator, device=clean.device)
        alpha_t = self.alphas_cumprod[t].sqrt()[:, None, None, None]
        sigma_t = (1 - self.alphas_cumprod[t]).sqrt()[:, None, None, None]
        latents_t = alpha_t * clean + sigma_t * eps
        velocity = self.unet(latents_t, t, self.text[captions]).sample
        decoded = self.vae.decode((alpha_t * latents_t - sigma_t * velocity) / scale).sample
        return _resampled((decoded / 2 + 0.5).clamp(0, 1), given)


def _resampled(images: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def train_extractor(
    photos: Tensor, captions: Tensor, estimate: Estimator, width: int, num_layers: int,
    num_steps: int, batch: int, rate: float, folder: Path, seed: int, name: str, part_weight: float = 0.5,
    max_timestep: int = 700, sketch_share: float = 0.3, pairs: tuple[Tensor, Tensor] | None = None,
    pair_share: float = 0.4, start: Path | None = None, time_limit_s: float | None = None,
) -> Student:  # fmt: skip
    """Train on uint8 pictures; `captions` index the texts that the estimator conditions on.

    `pairs` are pictures that match place by place but differ in colours and lights; they make up `pair_share` of a
    batch. `start` is the folder of an extractor to continue from.
    """
    device = photos.device
    torch.manual_seed(seed)
    student = Student(width, num_layers).to(device)
    if start is not None:
        student.extractor = student.extractor.from_pretrained(start).to(device)

    def loss_of(generator: torch.Generator) -> Tensor:
        views = draw_views(
            photos, captions, estimate, batch, generator, max_timestep, sketch_share, pairs, pair_share
        )
        return student_loss(student, *views, part_weight)

    config = FitConfig(num_steps, rate, warmup_steps=300, weight_decay=0.01, time_limit_s=time_limit_s)
    return fit(name, student, loss_of, config, folder, seed)


def draw_views(
    photos: Tensor, captions: Tensor, estimate: Estimator, batch: int,
    generator: torch.Generator, max_timestep: int = 700, sketch_share: float = 0.3,
    pairs: tuple[Tensor, Tensor] | None = None, pair_share: float = 0.4,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Two views of each picture of a random batch; see `train_extractor`.

    Also where the first view's patches lie in the second, how much they count, and which of them are compared as parts.
    """
    num_pairs, device = 0 if pairs is None else round(pair_share * batch), photos.device

    def view(images: Tensor, theta: Tensor, generator: torch.Generator) -> Tensor:
        return degrade(jitter_hue(warp(images, theta), generator), generator)

    num_photos = batch - num_pairs
    rows = torch.randint(len(photos), (num_photos,), generator=generator, device=device)
    images = photos[rows].float() / 255
    # An eighth are symmetric blobs: a kind of their own, so that they do not resemble any side view.
    eighth, half = num_photos // 8, num_photos // 2
    images = torch.cat((0.5 * (images[:eighth] + images[:eighth].flip(-1)), images[eighth:]))
    t = torch.randint(20, max_timestep, (num_photos - half,), generator=generator, device=device)
    estimated = estimate(images[half:], captions[rows[half:]], t, generator)
    other = torch.cat((images[:half], estimated))
    if pairs is not None:
        rows = torch.randint(len(pairs[0]), (num_pairs,), generator=generator, device=device)
        images, other = (
            torch.cat((known, paired[rows].float() / 255))
            for known, paired in zip((images, other), pairs, strict=True)
        )
    is_sketch = torch.rand(batch, generator=generator, device=device) < sketch_share
    other = torch.where(is_sketch[:, None, None, None], as_sketch(other, generator), other)

    theta_1, theta_2 = (random_affine(batch, generator) for _ in range(2))
    # Where the centres of the first view's patches lie in the second view.
    places = F.affine_grid(theta_1, [batch, 1, PATCHES, PATCHES], align_corners=False)
    scale, shift = theta_2[:, :, :2].diagonal(dim1=1, dim2=2), theta_2[:, :, 2]
    in_second = (places - shift[:, None, None]) / scale[:, None, None]
    seen = ((places.abs() < 1).all(-1) & (in_second.abs() < 1).all(-1)).flatten(1)
    weight = foreground_weight(warp(images, theta_1)) * seen
    keep = weight.flatten().multinomial(8 * batch, replacement=True, generator=generator)
    return view(images, theta_1, generator), view(other, theta_2, generator), in_second, weight, keep


def student_loss(
    student: Student, first: Tensor, second: Tensor, in_second: Tensor, weight: Tensor, keep: Tensor,
    part_weight: float = 0.5, contrast: float = 0.0,
) -> Tensor:  # fmt: skip
    """Of what `draw_views` draws; `contrast` is the weight of `contrast_loss`."""
    cls_1, patches_1 = student(first)
    cls_2, patches_2 = student(second)
    sampled = F.grid_sample(patches_2, in_second, align_corners=False)
    parts = [
        f.flatten(2).transpose(1, 2).flatten(0, 1)[keep] for f in (patches_1, F.normalize(sampled, dim=1))
    ]
    return (
        swapped_loss(cls_1, cls_2, student.image_prototypes)
        + patch_loss(patches_1, patches_2, sampled, weight)
        + part_weight * swapped_loss(parts[0], parts[1], student.part_prototypes)
        + (contrast * contrast_loss(cls_1, cls_2) if contrast else 0.0)
    )
