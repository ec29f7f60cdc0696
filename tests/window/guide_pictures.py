"""Crops what guide.py has taken into the pictures of docs/guide.md: `guide_pictures.py OUT FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

MARGIN_PX, SIDEBAR_PX, BELOW_PX = 6, 400, 200
"""Below the last panel; more than a sidebar is wide; more than there is below a sidebar."""
PANEL, EDGE = 61, 74
"""Brightness of a panel and of its edge."""
COLORS, GAP_PX, WHITE, MAX_PX = 256, 12, (255, 255, 255), 900
SIDE_BY_SIDE = {"starts": ("start-object", "running", "done"), "shelf": ("check", "suggested")}
"""Pictures of the README, beside the folder, and of what they are made."""


def cropped(picture: Image.Image, rectangle: list[int]) -> Image.Image:
    """The part of a screen in a rectangle; of a sidebar, what is above the lower edge of its last panel.

    A fifth number is the height of a picture of the last panels; if it is negative, all is shown.
    """
    part = picture.convert("RGB").crop(rectangle[:4])
    last_px = rectangle[4] if rectangle[4:] else 0
    if part.width > SIDEBAR_PX or last_px < 0:
        return part
    pixels = np.asarray(part).astype(int)
    reaches_end = rectangle[3] > picture.height - BELOW_PX and not last_px
    if reaches_end and abs(pixels[-5, 20:30] - PANEL).max() < 2:
        return part  # The tab is longer than the screen.
    line = pixels[:, 20 : part.width - 50]
    is_edge = (np.ptp(line, axis=(1, 2)) == 0) & (abs(line[:, 0, 0] - EDGE) < 4)
    bottom = int(np.flatnonzero(is_edge)[-1]) + MARGIN_PX if is_edge.any() else part.height
    bottom = min(part.height, bottom)
    return part.crop((0, max(0, bottom - last_px) if last_px else 0, part.width, bottom))


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """Pictures in a row, no taller than a page has room for."""
    height = min(max(picture.height for picture in pictures), MAX_PX)
    whole = Image.new("RGB", (sum(picture.width + GAP_PX for picture in pictures) - GAP_PX, height), WHITE)
    left = 0
    for picture in pictures:
        whole.paste(picture.crop((0, 0, picture.width, min(picture.height, height))), (left, 0))
        left += picture.width + GAP_PX
    return whole


def save(picture: Image.Image, path: Path) -> None:
    few = picture.quantize(COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(path.name, picture.size)


def main() -> None:
    out, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    rectangles = json.loads((out / "guide.json").read_text())
    pictures = {name: cropped(Image.open(out / f"{name}.png"), place) for name, place in rectangles.items()}
    page = (folder.parents[1] / "guide.md").read_text("utf-8")
    for name, picture in pictures.items():
        if f"images/guide/{name}.png" in page:
            save(picture, folder / f"{name}.png")
    for name, parts in SIDE_BY_SIDE.items():
        if set(parts) <= pictures.keys():  # Not all are taken where jobs of an earlier run are given.
            save(side_by_side([pictures[part] for part in parts]), folder.parent / f"{name}.png")


if __name__ == "__main__":
    main()
