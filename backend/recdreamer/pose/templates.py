"""Pose templates: pictures that define front, back, left and right for one object."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from recdreamer.report import Warn, no_warn
from recdreamer.shared.protocol import (
    CLASS_AZIMUTHS_DEG,
    MIN_COVERAGE,
    MIN_SIDE_PX,
    JobFolder,
    RequestError,
    Template,
)
from recdreamer.shared.safe_files import confined, printable, read_bounded, reason_of

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 64_000_000
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
"""Modes whose colours are multiplied by alpha already, and those in which they are not."""
BACKGROUND = 0.8
"""Grey background behind a template with alpha."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Whatever a file is called, it is read as one of these: Pillow knows others that run programs, such as PostScript."""
MAX_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class PoseTemplate:
    """One picture of one pose class, ready for the classifier."""

    label: str
    image: Float[Tensor, "3 size size"]
    """[0, 1], square; transparent parts are grey."""
    mask: Float[Tensor, "1 size size"] | None
    """Alpha, if the picture has one."""
    azimuth_deg: float | None
    weight: float = 1.0
    """Weight relative to the other templates of its class."""


def load_templates(
    job: JobFolder, templates: tuple[Template, ...], size_px: int, warn: Warn = no_warn
) -> list[PoseTemplate]:
    """The templates of a request. Raises RequestError with the name of a picture that cannot be used.

    `warn` gets what of a picture is not used.
    """
    return [_load(confined(job.root, template.image), template, size_px, warn) for template in templates]


def templates_in(folder: Path) -> tuple[Template, ...]:
    """Templates of a folder of pictures named after their class: front.png, back-2.jpg, left_sketch.png …

    A single side is mirrored to give the other one. Names with "sketch" mark sketches. Hidden files and folders are
    ignored. Raises RequestError if the folder has no pictures.
    """
    pictures = sorted(p for p in folder.iterdir() if _is_picture(p)) if folder.is_dir() else []
    if not pictures:
        raise RequestError(
            f"No pictures in {folder}.",
            "Put one picture per pose there, named front.png, back.png, left.png …",
        )
    found = []
    for picture in pictures:
        label = _label(picture.stem.lower())
        source = "sketch" if "sketch" in picture.stem.lower() else "file"
        found.append(Template(label, picture.name, source, CLASS_AZIMUTHS_DEG.get(label)))
    return with_mirrored_sides(tuple(found))


def _is_picture(path: Path) -> bool:
    # macOS leaves "._front.png" beside "front.png" on other file systems.
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _label(stem: str) -> str:
    """The class in a file name: its first word that is not "sketch"; "front2" counts as "front"."""
    words = [word for word in re.split(r"[-_ .(]+", stem.replace("sketch", "")) if word]
    label = words[0] if words else stem
    without_number = label.rstrip("0123456789")
    return without_number if without_number in CLASS_AZIMUTHS_DEG else label


def with_mirrored_sides(templates: tuple[Template, ...]) -> tuple[Template, ...]:
    """Add a missing side by mirroring the other one (paper: left and right are usually one image)."""
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


def are_placed(templates: Sequence[PoseTemplate]) -> bool:
    """Whether every class has a known azimuth, by a template's camera or by the name of the class."""
    placed = {template.label for template in templates if template.azimuth_deg is not None}
    return all(template.label in placed | set(CLASS_AZIMUTHS_DEG) for template in templates)


def class_azimuths(
    templates: Sequence[PoseTemplate], labels: Sequence[str], device: torch.device | str = "cpu"
) -> Float[Tensor, "classes"]:
    """Azimuth of each class in degrees: the circular mean of its templates' azimuths, else that of its name.

    >>> templates = [PoseTemplate("right", torch.zeros(3, 1, 1), None, azimuth) for azimuth in (80.0, 100.0)]
    >>> class_azimuths(templates, ("right", "back")).round().tolist()
    [90.0, 180.0]
    """
    azimuths = []
    for label in labels:
        known = [t.azimuth_deg for t in templates if t.label == label and t.azimuth_deg is not None]
        angles = torch.deg2rad(torch.tensor(known or [CLASS_AZIMUTHS_DEG[label]]))
        azimuths.append(torch.rad2deg(torch.atan2(angles.sin().mean(), angles.cos().mean())) % 360)
    return torch.stack(azimuths).to(device)


def _load(path: Path, template: Template, size_px: int, warn: Warn) -> PoseTemplate:
    try:
        picture = _read(path, warn)
    except Exception as error:  # Of a dozen decoders: any damage is one thing.
        reason = error.message.rstrip(".") if isinstance(error, RequestError) else reason_of(error)
        raise RequestError(
            f"The template '{printable(path.name)}' cannot be read ({reason}).",
            "Replace it with a PNG or JPEG picture, or remove it.",
            "template",
        ) from error
    alpha = np.asarray(picture.getchannel("A"))
    has_alpha = bool((alpha < 0.99 * 255).any())
    if has_alpha and (alpha > 0.5 * 255).mean() < MIN_COVERAGE:
        raise RequestError(
            f"The template '{printable(path.name)}' is transparent (almost) everywhere.",
            "Capture it again with the object in view, or remove it.",
            "template",
        )
    # Shrunk before it is padded to a square in floating point, where 20,000 × 20 pixels would take 5 GB.
    picture.thumbnail((4 * size_px, 4 * size_px), Image.Resampling.BOX)
    rgba = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    if template.mirrored:
        rgba = rgba.flip(-1)
    rgb = rgba[:3] * rgba[3:] + BACKGROUND * (1 - rgba[3:]) if has_alpha else rgba[:3]
    rgb, mask = _square(rgb, size_px), _square(rgba[3:], size_px)
    return PoseTemplate(
        template.label, rgb, mask if has_alpha else None, template.azimuth_deg, template.weight
    )


def _read(path: Path, warn: Warn) -> Image.Image:
    """The upright picture in 8-bit sRGB with alpha; the first frame of an animation, the first page of a document.

    Raises an exception with the reason.
    """
    if not path.exists():
        raise ValueError("there is no such file")
    if not path.is_file():
        raise ValueError("it is a folder")
    data = read_bounded(path, MAX_FILE_BYTES)
    if not data:
        raise ValueError("the file is empty")
    # Pillow warns of too many pixels and raises at twice the number; here both are refused.
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            file = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise ValueError("it is not a picture, or it is damaged") from error
        with file:
            size = f"{file.width} × {file.height} pixels"
            if file.width * file.height > MAX_PIXELS:
                raise ValueError(f"{size} is too large")
            if min(file.size) < MIN_SIDE_PX:
                raise ValueError(f"{size} is too small")
            if (frames := getattr(file, "n_frames", 1)) > 1 and file.format != "MPO":
                warn(
                    f"The template '{printable(path.name)}' has {frames:,} frames or pages; the first is used."
                )
            return _as_rgba(ImageOps.exif_transpose(file))


def _as_rgba(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion clips: everything above 255 of 65535 turns white.
        picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError("it has 32 bits per channel; only 8 and 16 are supported")
    elif picture.mode in PREMULTIPLIED:
        picture = picture.convert(PREMULTIPLIED[picture.mode])
    elif picture.mode == "LAB":
        screen, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        picture = ImageCms.profileToProfile(picture, lab, screen, outputMode="RGB") or picture
    elif picture.mode == "CMYK" and (profile := picture.info.get("icc_profile")):
        try:
            ink = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            screen = ImageCms.createProfile("sRGB")
            picture = ImageCms.profileToProfile(picture, ink, screen, outputMode="RGB") or picture
        except (ImageCms.PyCMSError, OSError):
            pass  # A damaged profile makes the colours inexact, but the picture is usable.
    return picture.convert("RGBA")


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
