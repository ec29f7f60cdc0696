"""Pose templates: pictures that say what front, back, left and right mean for one object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from recdreamer.protocol import CLASS_AZIMUTHS_DEG, JobFolder, RequestError, Template

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 64_000_000
GROUND = 0.8
"""Grey behind a template with alpha."""


@dataclass(frozen=True)
class PoseTemplate:
    """One picture of one pose class, ready for the classifier."""

    label: str
    image: Float[Tensor, "3 size size"]
    """[0, 1], square; what was transparent is grey."""
    mask: Float[Tensor, "1 size size"] | None
    """Alpha, when the picture has one."""
    azimuth_deg: float | None


def load_templates(job: JobFolder, templates: tuple[Template, ...], size_px: int) -> list[PoseTemplate]:
    """The templates of a request. Raises RequestError naming the picture that cannot be used."""
    return [_load(job.root / template.image, template, size_px) for template in templates]


def templates_in(folder: Path) -> tuple[Template, ...]:
    """Templates of a folder of pictures named after their class: front.png, back-2.jpg, left.png …

    A single side is mirrored to give the other one. Raises RequestError when the folder holds no picture.
    """
    pictures = (
        sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    )
    if not pictures:
        raise RequestError(
            f"No pictures in {folder}.",
            "Put one picture per pose there, named front.png, back.png, left.png …",
        )
    found = []
    for picture in pictures:
        label = picture.stem.split("-")[0].split("_")[0].lower()
        found.append(Template(label, picture.name, "file", CLASS_AZIMUTHS_DEG.get(label)))
    return with_mirrored_sides(tuple(found))


def with_mirrored_sides(templates: tuple[Template, ...]) -> tuple[Template, ...]:
    """Add the missing side by mirroring the one that is there (paper: left and right are usually one image)."""
    labels = {template.label for template in templates}
    for have, need in (("left", "right"), ("right", "left")):
        if have in labels and need not in labels:
            templates += tuple(
                replace(
                    template, label=need, azimuth_deg=CLASS_AZIMUTHS_DEG[need], mirrored=not template.mirrored
                )
                for template in templates
                if template.label == have
            )
    return templates


def _load(path: Path, template: Template, size_px: int) -> PoseTemplate:
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise ValueError(f"{file.width} × {file.height} pixels are too many")
            picture = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RequestError(
            f"The template {path.name!r} cannot be read ({error}).",
            "Replace it by a PNG or JPEG picture, or remove it.",
        ) from error
    rgba = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    if template.mirrored:
        rgba = rgba.flip(-1)
    has_alpha = bool((rgba[3] < 0.99).any())
    if has_alpha and not bool((rgba[3] > 0.5).any()):
        raise RequestError(
            f"The template {path.name!r} is fully transparent.",
            "Capture it again with the object in view, or remove it.",
        )
    rgb = rgba[:3] * rgba[3:] + GROUND * (1 - rgba[3:]) if has_alpha else rgba[:3]
    rgb, alpha = _square(rgb, size_px), _square(rgba[3:], size_px)
    return PoseTemplate(template.label, rgb, alpha if has_alpha else None, template.azimuth_deg)


def _square(image: Float[Tensor, "c height width"], size_px: int) -> Float[Tensor, "c size size"]:
    """Fit into a square by repeating the border, then resample."""
    height, width = image.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    padding = (left, side - width - left, top, side - height - top)
    image = torch.nn.functional.pad(image[None], padding, mode="replicate")
    return torch.nn.functional.interpolate(
        image, (size_px, size_px), mode="bilinear", antialias=True, align_corners=False
    )[0]
