"""Crops what guide.py has taken into the pictures of docs/guide.md: `guide_pictures.py OUT FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

MARGIN_PX = 8
COLORS = 256


def cropped(picture: Image.Image, rectangle: list[int]) -> Image.Image:
    """The part of a screen in a rectangle, without the empty rows below what is drawn in it."""
    part = picture.convert("RGB").crop(rectangle)
    pixels = np.asarray(part).astype(int)
    column = pixels[:, 4 : part.width // 2]  # Without the tabs at the right of a sidebar.
    varied = np.flatnonzero(np.ptp(column, axis=1).max(1) > 12)
    bottom = min(part.height, (int(varied[-1]) if len(varied) else 0) + MARGIN_PX)
    return part.crop((0, 0, part.width, bottom))


def main() -> None:
    out, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for name, rectangle in json.loads((out / "guide.json").read_text()).items():
        picture = cropped(Image.open(out / f"{name}.png"), rectangle)
        picture.quantize(COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            folder / f"{name}.png", optimize=True
        )
        print(name, picture.size)


if __name__ == "__main__":
    main()
