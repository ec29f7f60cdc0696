"""Self-contained HTML pages: tables, pictures and line plots without any other file."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8885; padding: .3rem .7rem; text-align: left; vertical-align: top; }
th { border-bottom-width: 2px; }
.scroll { overflow-x: auto; }
.note { color: #777; max-width: 60rem; }
img.sheet { width: 100%; max-width: 64rem; image-rendering: pixelated; display: block; }
figure { margin: .4rem 0 1rem; } figcaption { font-size: .9rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.verdict { border-left: .3rem solid #48c; padding: .2rem 1rem; }
.bad { border-color: #d64; }
svg text { fill: currentColor; font: 11px system-ui, sans-serif; }
"""
COLORS = ("#d64545", "#3f9b5f", "#3b6fd4", "#c08a1e", "#8a4fc0", "#2a9d9d")


def page(title: str, parts: Sequence[str]) -> str:
    """A whole document; `parts` are HTML."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """>>> table(["a"], [["<b>"]])
    '<div class="scroll"><table><tr><th>a</th></tr><tr><td>&lt;b&gt;</td></tr></table></div>'
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def picture(path: Path, caption: str) -> str:
    """A PNG as part of the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img class="sheet" alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def lines(title: str, x: Sequence[float | int], series: dict[str, Sequence[float]], top: float = 1.0) -> str:
    """A small plot of lines over a common x, from 0 to `top`, as SVG."""
    width, height, left, below = 330, 190, 34, 46
    last = max([*x, 1e-9])
    apart = max(72, 6 * max(map(len, series), default=0) + 24)

    def place(a: float | int, b: float | int) -> str:
        return f"{left + (width - left - 8) * a / last:.1f},{8 + (height - below - 8) * (1 - b / top):.1f}"

    grid = "".join(
        f'<path d="M{place(0, share * top)} L{place(last, share * top)}" stroke="#8885"/>'
        f'<text x="2" y="{float(place(0, share * top).split(",")[1]) + 4:.1f}">{share * top:g}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    drawn = ""
    for number, (name, values) in enumerate(series.items()):
        color, at = COLORS[number % len(COLORS)], left + apart * number
        path = " L".join(place(a, b) for a, b in zip(x, values, strict=True))
        drawn += f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>'
        drawn += f'<rect x="{at}" y="{height - 15}" width="10" height="10" fill="{color}"/>'
        drawn += f'<text x="{at + 14}" y="{height - 6}">{escape(name)}</text>'
    at_first = float(place(x[0], 0).split(",")[0])
    ends = "".join(
        f'<text x="{at:.0f}" y="{height - 28}">{value:g}</text>'
        for at, value in ((at_first, x[0]), (width - 34, last))
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">{grid}{drawn}{ends}</svg></figure>'
    )


def whiskers(title: str, estimates: dict[str, tuple[float, float, float]]) -> str:
    """A small plot of (mean, low, high) by name, below each other, as SVG; from 0 to 1 or to the greatest number. An
    interval that is not known (NaN) is left out."""
    width, left, row = 330, 150, 22
    height = row * len(estimates) + 30
    known = [value for estimate in estimates.values() for value in estimate if math.isfinite(value)]
    top = max([1.0, *known])

    def x(value: float) -> float:
        return left + (width - left - 14) * max(value, 0.0) / top

    drawn = "".join(
        f'<path d="M{x(share * top):.1f} 4V{height - 22}" stroke="#8885"/>'
        f'<text x="{x(share * top) - 8:.1f}" y="{height - 6}">{share * top:g}</text>'
        for share in (0, 0.5, 1)
    )
    for number, (name, (mean, low, high)) in enumerate(estimates.items()):
        y, color = row * number + 16, COLORS[number % len(COLORS)]
        label = name if len(name) <= 26 else f"…{name[-25:]}"
        drawn += f'<text x="2" y="{y + 4}">{escape(label)}</text>'
        if math.isfinite(low) and math.isfinite(high):
            drawn += f'<path d="M{x(low):.1f} {y}H{x(high):.1f}" stroke="{color}" stroke-width="2"/>'
        drawn += f'<circle cx="{x(mean):.1f}" cy="{y}" r="4" fill="{color}"/>'
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">{drawn}</svg></figure>'
    )


def scatter(title: str, x: Sequence[float], y: Sequence[float], colors: Sequence[int]) -> str:
    """A small plot of points as SVG; x is in [0, 1], y over its own range. `colors` are indices into COLORS."""
    width, height, left, below = 330, 200, 44, 24
    low, high = min(y), max(y)
    span = max(high - low, 1e-9)

    def place(a: float, b: float) -> tuple[float, float]:
        return left + (width - left - 10) * a, 10 + (height - below - 20) * (1 - (b - low) / span)

    dots = ""
    for a, b, color in zip(x, y, colors, strict=True):
        across, down = place(a, b)
        dots += f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{COLORS[color]}" fill-opacity=".55"/>'
    base = height - below - 10
    frame = f'<path d="M{left} 10V{base}H{width - 10}" fill="none" stroke="#8888"/>'
    ends = (
        f'<text x="2" y="18">{high:.3g}</text><text x="2" y="{base}">{low:.3g}</text>'
        f'<text x="{left}" y="{height - 8}">0</text><text x="{width - 22}" y="{height - 8}">1</text>'
        f'<text x="{left + 80}" y="{height - 8}">true agreement</text>'
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">{frame}{dots}{ends}</svg></figure>'
    )
