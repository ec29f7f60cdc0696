"""The request of a failed job with the change that may help. No bpy here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...backend.recdreamer.shared.json_values import read_json
from ...backend.recdreamer.shared.protocol import JobRequest, RequestError
from ...backend.recdreamer.shared.worlds import world_of

STAGES = {"shape": "optimize", "geometry": "geometry", "texture": "texture"}
"""Stage -> section of its settings."""
MIN_RENDER_PX = 64


def smaller(request: JobRequest, config: Mapping[str, Any], tiny_decoder: str = "") -> JobRequest:
    """The request with less need of memory than it had; `config` is what the job has run with, as config.json.

    First Draft with an embedded model, whose drafts have half the views of a step (Stable Diffusion's only have fewer
    steps); then the tiny decoder if there is one, then half the views, or pictures of half the width. Raises RequestError
    if it is as small as it gets.

    >>> small = smaller(JobRequest("a red bear"), {})
    >>> small.quality, smaller(small, {"optimize": {"num_views": 4}}).overrides
    ('quick', {'optimize.num_views': 2})
    """
    is_embedded = world_of(request.prior) is not None
    if is_embedded and request.quality != "quick":
        return replace(request, quality="quick")
    overrides = dict(request.overrides)
    needs_decoder = request.method == "usd" and not is_embedded
    if needs_decoder and tiny_decoder and not overrides.get("rectifier.tiny_decoder"):
        return replace(request, overrides=overrides | {"rectifier.tiny_decoder": tiny_decoder})
    for name in (STAGES[stage] for stage in request.stages_to_run):
        views, width = (_number(config, name, key) for key in ("num_views", "render_px"))
        if views > 1:
            overrides[f"{name}.num_views"] = views // 2
        elif width >= 2 * MIN_RENDER_PX:
            overrides[f"{name}.render_px"] = width // 2
    if overrides == request.overrides:
        raise RequestError(
            "This job needs as little memory as it can already.",
            "Close other programs, choose another device, or use the built-in model.",
            "device",
        )
    return replace(request, overrides=overrides)


def config_of(job_folder: Path) -> dict[str, Any]:
    """What the job has run with; empty if it never came so far."""
    try:
        config = read_json(job_folder / "config.json")
    except (RequestError, ValueError, OSError):
        return {}
    return config if isinstance(config, dict) else {}


def _number(config: Mapping[str, Any], section: str, name: str) -> int:
    values = config.get(section)
    value = values.get(name) if isinstance(values, dict) else None
    return value if type(value) is int else 0
