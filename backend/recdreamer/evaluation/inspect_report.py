"""The inspection of a mesh as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from recdreamer.evaluation.html_page import page, picture, table
from recdreamer.images import write_sheet
from recdreamer.shared.protocol import write_atomically

ROWS = (
    ("fronts", "Sides that are recognized as the front", "1", "-1: every side"),
    ("azimuth_agreement", "Views that show the side they should, at the best turn", "1", "0.25: one side all around"),
    ("pose_entropy", "Evenness of the sides (entropy)", "1", "0: one side all around"),
    ("yaw_deg", "Turn that puts the front at -Y, degrees", "", "counter-clockwise from above"),
    ("opposite_cosine", "Likeness of front and back, by the extractor", "low", "near 1: the same face on both"),
    ("opposite_clip_cosine", "Likeness of front and back, by CLIP", "low", "MV-SDI takes more than 0.85 for Janus"),
    ("neighbor_cosine", "Likeness of neighboring views", "high", "says nothing about a second face"),
    ("clip_score", "Distance from the prompt (1 - cos)", "low", ""),
    ("clip_entropy", "Evenness of CLIP's front, side and back", "1", ""),
)  # fmt: skip


def write_inspection(
    out: Path,
    found: dict[str, Any],
    azimuth_deg: Sequence[float],
    pictures: Float[Tensor, "views 3 height width"],
) -> None:
    """Write report.html, which needs no other file, and views.png."""
    write_sheet(out / "views.png", pictures.cpu(), len(pictures) // 2)
    is_bad = found.get("fronts", 1) != 1
    parts = [
        f'<p class="verdict{" bad" if is_bad else ""}">{escape(found["verdict"])}</p>',
        picture(
            out / "views.png",
            f"All {len(pictures)} views from azimuth {azimuth_deg[0]:g}° on, counter-clockwise",
        ),
    ]
    if "views" in found:
        half = len(azimuth_deg) // 2
        for row in (slice(half), slice(half, None)):  # As the picture above.
            parts.append(table([f"{at:g}°" for at in azimuth_deg[row]], [found["views"][row]]))
        shares = found["shares"]
        parts += ["<h2>Sides</h2>", table(list(shares), [[f"{share:.2f}" for share in shares.values()]])]
    measured = [(title, f"{found[key]:.3g}", ideal, note) for key, title, ideal, note in ROWS if key in found]
    parts += ["<h2>Measured</h2>", table(("what", "value", "ideal", ""), measured)]
    parts += [
        "<h2>How</h2>",
        table(("", ""), [
            ("file", found["file"]), ("prompt", found["prompt"] or "none"), ("triangles", f"{found['faces']:,}"),
            ("colors", "of the file" if found["has_colors"] else "none were read; its shape in clay"),
            ("who says which side is seen", found["oracle"]), ("CLIP", found.get("clip", "not asked")),
        ]),
        picture(out / "sheet.png", "Every second view, below it the shape in clay"),
    ]  # fmt: skip
    write_atomically(out / "report.html", page(f"Inspection of {found['file']}", parts))
