"""Pixels of images, and their color space: by what the color management says of it, whatever its name is there."""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Color


def read_pixels(image: bpy.types.Image) -> np.ndarray:
    """Values `height width channels` as Blender stores them, bottom row first."""
    width, height = image.size
    pixels = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    return pixels.reshape(height, width, image.channels)


def read_srgb(image: bpy.types.Image) -> np.ndarray:
    """Pixels in sRGB, `height width channels` in [0, 1], bottom row first.

    Blender keeps images of 8 bits like their files, and others scene-linear and premultiplied by alpha.
    """
    pixels = read_pixels(image)
    if image.is_float and not image.colorspace_settings.is_data and image.channels >= 3:
        alpha = pixels[..., 3:] if image.channels == 4 else np.ones_like(pixels[..., :1])
        pixels[..., :3] = scene_linear_to_srgb(pixels[..., :3] / np.maximum(alpha, 1e-6))
    return np.clip(pixels, 0, 1)


def scene_linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """sRGB (IEC 61966-2-1) of scene-linear values `... 3`, clipped to [0, 1]."""
    linear = (linear @ _rec709_of_scene_linear().T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _rec709_of_scene_linear() -> np.ndarray:
    """`3 3`: scene-linear has the primaries that the configuration of the color management gives it, e.g. ACEScg."""
    columns = [tuple(Color(axis).from_scene_linear_to_rec709_linear()) for axis in np.eye(3).tolist()]
    matrix = np.array(columns).T
    return np.eye(3) if np.allclose(matrix, np.eye(3), atol=1e-3) else matrix
