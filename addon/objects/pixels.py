"""Pixels of images, and their color space."""

from __future__ import annotations

import bpy
import numpy as np


def read_pixels(image: bpy.types.Image) -> np.ndarray:
    """Values `height width channels` as Blender stores them, bottom row first."""
    width, height = image.size
    pixels = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    return pixels.reshape(height, width, image.channels)


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, clipped to [0, 1]."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
