"""Numbers and times as text for the panel. No bpy here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..backend.recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, JobState

MAX_S = 1e7
"""Longer times are not worth their digits."""
HALF_WAY_S = 20.0
"""After this time a bar without a number of steps is half full: about a cold start of the built-in model."""
STAGE_TITLES = {
    "starting": "Starting the backend",
    "prepare": "Loading the image model",
    "waiting": "Waiting for the device",
}
OPPOSITE_SIDE = {"left": "right", "right": "left"}
"""New label of a mirrored picture; other labels do not change."""


def one_line(text: str, limit: int = 80) -> str:
    """A text of the artist, or of a file, for a label or a name: on one line, cut where it is too long.

    >>> one_line("a red bear\\nwith a hat")
    'a red bear with a hat'
    """
    text = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * limit])
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"


def duration(seconds: float) -> str:
    """A time span in its two largest units: 45 s, 3 min 20 s, 2 h 5 min."""
    minutes, rest_s = divmod(round(min(max(0.0, seconds), MAX_S)), 60)
    hours, rest_min = divmod(minutes, 60)
    if hours:
        return f"{hours} h {rest_min} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"


def age(seconds: float) -> str:
    """A time in the past, in its largest unit."""
    if seconds >= 86400:
        return f"{seconds // 86400:.0f} d ago"
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h ago"
    return f"{seconds // 60:.0f} min ago" if seconds >= 60 else "just now"


def stage_title(stage: str) -> str:
    """
    >>> stage_title("prepare"), stage_title("shape")
    ('Loading the image model', 'Shape')
    """
    return STAGE_TITLES.get(stage, one_line(stage.replace("_", " ").capitalize(), 30) or "Starting")


def progress(state: JobState, since_s: float | None = None) -> tuple[float, str]:
    """Fraction and text of the progress bar of a stage; without a number of steps, it moves by the seconds since the
    stage has begun, ever slower.

    >>> progress(JobState(stage="prepare"), 20.0)
    (0.5, 'Loading the image model  20 s')
    """
    name = stage_title(state.stage)
    if state.total > 0:
        return min(1.0, max(0.0, state.step / state.total)), f"{name}  {state.step} / {state.total}"
    if since_s is None:
        return 0.0, name
    return since_s / (since_s + HALF_WAY_S), f"{name}  {duration(since_s)}"


def whole_progress(state: JobState, stages: Sequence[str]) -> tuple[float, str]:
    """The same of the whole job, which runs these stages between its preparation and the mesh.

    >>> whole_progress(JobState(stage="shape", step=50, total=100, eta_s=90), ("shape", "texture"))
    (0.375, 'Stage 2 of 4  ·  1 min 30 s left')
    """
    names = ["prepare", *stages, "mesh"]
    index = names.index(state.stage) if state.stage in names else 0
    share = min(1.0, max(0.0, state.step / state.total)) if state.total > 0 else 0.0
    left = "" if state.eta_s is None else f"  ·  {duration(state.eta_s)} left"
    return (index + share) / len(names), f"Stage {index + 1} of {len(names)}" + left


def status_line(state: JobState, since_s: float | None = None) -> str:
    """How far a running job is, in one line.

    >>> status_line(JobState(stage="shape", step=5, total=100, eta_s=90))
    'Shape  5 / 100  ·  1 min 30 s left'
    """
    return progress(state, since_s)[1] + ("" if state.eta_s is None else f"  ·  {duration(state.eta_s)} left")


def end_line(condition: str, message: str) -> str:
    """How a job has ended, in one line.

    >>> end_line("done", ""), end_line("failed", "The disk is full.")
    ('ready to import', 'failed  ·  The disk is full.')
    """
    words = {"cancelled": "stopped", "done": "ready to import"}.get(condition, condition)
    return words if condition == "done" or not message else f"{words}  ·  {message}"


def pose_bars(distribution: dict[str, float]) -> list[tuple[str, float]]:
    """Shares of the poses, always in the same order: the cardinal ones around the object, then the others by name.

    >>> pose_bars({"left": 0.1, "top": 0.2, "back": 0.3, "front": 0.4})
    [('front', 0.4), ('back', 0.3), ('left', 0.1), ('top', 0.2)]
    """
    places = {label: place for place, label in enumerate(CLASS_AZIMUTHS_DEG)}
    order = sorted(distribution, key=lambda label: (places.get(label, len(places)), label))
    return [(label, min(1.0, max(0.0, distribution[label]))) for label in order]


def speed(state: JobState) -> str:
    """Iterations per second; empty if they are unknown."""
    return f"{state.it_per_s:.2f} it/s" if 0 < state.it_per_s < MAX_S else ""


def gigabytes(count: int) -> str:
    """
    >>> gigabytes(2_679_704_316), gigabytes(9_793_843)
    ('2.7 GB', '10 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{max(count / 1e6, 1):.0f} MB"


def cost(found: tuple[float, int, int, int] | None) -> str:
    """What a job takes: seconds, bytes of the disk, bytes of the GPU's memory, and those of the whole GPU.

    >>> cost((247.0, 38_200_000, 0, 0)), cost((247.0, 38_200_000, 6_100_000_000, 8_000_000_000))
    ('≈ 4 min 10 s · 38 MB', '≈ 4 min 10 s · 6.1 of 8 GB GPU · 38 MB')
    >>> cost(None)
    'The first job measures its time.'
    """
    if found is None:
        return "The first job measures its time."
    seconds, size, gpu, gpu_total = found
    rounded = seconds if seconds < 10 else round(seconds, -1)
    parts = [f"≈ {duration(rounded)}", gigabytes(size)]
    if gpu and gpu_total:
        parts.insert(1, f"{gpu / 1e9:.1f} of {gpu_total / 1e9:.0f} GB GPU")
    return " · ".join(parts)


def download(done: int, total: int, eta_s: float | None) -> str:
    """
    >>> download(1_200_000_000, 2_680_000_000, 130.0)
    '1.2 of 2.7 GB  ·  2 min 10 s left'
    """
    if total >= 1e8:
        text = f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"
    else:
        text = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
    return text if eta_s is None else f"{text}  ·  {duration(eta_s)} left"


def fraction(line: str) -> float | None:
    """Progress from a line such as "picture 3 of 16" or "3/16"; None if the line has no such numbers."""
    found = re.search(r"(\d+) ?(?:/|of) ?(\d+)", line)
    done, total = map(int, found.groups()) if found else (0, 0)
    return min(1.0, done / total) if total else None


def with_share(label: str, share: float | None) -> str:
    """A class and the confidence of its recognition."""
    return label if share is None else f"{label}  {100 * share:.0f} %"


def nearest_label(azimuth_deg: float) -> str:
    """The pose class with the nearest camera."""
    return min(
        CLASS_AZIMUTHS_DEG, key=lambda label: angle_between_deg(azimuth_deg, CLASS_AZIMUTHS_DEG[label])
    )


def angle_between_deg(a_deg: float, b_deg: float) -> float:
    """The smaller angle between two directions, in [0, 180].

    >>> angle_between_deg(350, 20)
    30
    """
    return abs((a_deg - b_deg + 180) % 360 - 180)


def turntable_label(azimuth_deg: float) -> str:
    """The class of a cardinal view, else the azimuth itself, so that every view has a class."""
    for label, cardinal_deg in CLASS_AZIMUTHS_DEG.items():
        if angle_between_deg(azimuth_deg, cardinal_deg) < 1e-3:
            return label
    return f"{azimuth_deg % 360:.0f}°"


def label_of_file(stem: str) -> str:
    """The pose class named in a file name, or an empty string."""
    words = "".join(character if character.isalpha() else " " for character in stem.lower()).split()
    return next((label for label in CLASS_AZIMUTHS_DEG if label in words), "")


MAX_TEXT = 2000
"""Of a message, which a file may have made longer than any panel."""


def wrap(text: str, width_px: float, measure: Callable[[str], float]) -> list[str]:
    """Lines that are at most so wide, because Blender's labels do not wrap; words that are wider are broken.

    >>> wrap("Jobs run in /a/very/long/folder", 12, len)
    ['Jobs run in', '/a/very/long', '/folder']
    """
    lines, line = [], ""
    for word in text[:MAX_TEXT].split():
        longer = f"{line} {word}".strip()
        if measure(longer) <= width_px:
            line = longer
            continue
        lines += [line] if line else []
        while measure(word) > width_px and len(word) > 1:
            head = _head(word, width_px, measure)
            lines.append(head)
            word = word[len(head) :]
        line = word
    return [*lines, line] if line else lines


def shortened(text: str, width_px: float, measure: Callable[[str], float]) -> str:
    """
    >>> shortened("a red bear with a hat", 12, len)
    'a red bear…'
    """
    if measure(text) <= width_px:
        return text
    return _head(text, width_px - measure("…"), measure).rstrip() + "…"


def _head(text: str, width_px: float, measure: Callable[[str], float]) -> str:
    """The longest beginning of a text that is not wider than this, but at least a letter."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(text[:middle]) <= width_px else (low, middle - 1)
    return text[:low]
