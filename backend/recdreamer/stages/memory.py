"""The way through a step that fits into a GPU's memory: decided before a job, and once more if memory runs out.

All ways have the same result. The slower ones take less: the prior sees fewer of a step's views at once, and activations
are computed again instead of being kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from recdreamer.config import GenerateConfig
from recdreamer.distillation.methods import LORA_METHODS, USD_METHODS
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.rendering.sample_capacity import START_SAMPLES
from recdreamer.report import Warn, no_warn
from recdreamer.shared.protocol import Method
from recdreamer.shared.worlds import world_of

GIB = 2**30
USABLE = 0.93
"""Share of the free memory that a job may plan with; the rest is lost between blocks."""
FIELD_GIB = 2.0
"""Of the field, its optimizer and the samples of a view at 256 pixels, beside the prior."""
SAMPLE_BYTES = 580
"""Of a sample of the field, with its gradient, in half precision (2.7 GiB for buffers of 5.0 million)."""
MIN_SAMPLES = 24
"""For each ray where not even the last way leaves room for more: half of the default."""
VIEW_GIB: dict[str, tuple[float, float]] = {"usd": (5.3, 2.0), "branch": (1.9, 1.0), "plain": (0.5, 0.4)}
"""Of a view that the prior sees: with activations kept, and computed again. Measured with Stable Diffusion 2.1 at 512
pixels in half precision, for USD, the other methods with a branch, and those without one."""


@dataclass(frozen=True)
class Way:
    """How a step is gone through."""

    views_at_once: int
    checkpointing: bool

    def gib(self, method: Method, scale: float) -> float:
        """What it takes beside the prior's weights; `scale` is that of the activations relative to the table's.

        >>> round(Way(1, False).gib("usd", 1.0), 1), round(Way(4, True).gib("usd", 1.0), 1)
        (7.3, 10.0)
        """
        kind = "usd" if method in USD_METHODS else "branch" if method in LORA_METHODS else "plain"
        return FIELD_GIB + self.views_at_once * scale * VIEW_GIB[kind][self.checkpointing]

    def words(self, num_views: int) -> str:
        """The way in words.

        >>> Way(1, True).words(4)
        'the prior sees 1 of 4 views at a time, and activations are computed again instead of being kept'
        """
        parts = []
        if self.views_at_once < num_views:
            parts.append(f"the prior sees {self.views_at_once} of {num_views} views at a time")
        if self.checkpointing:
            parts.append("activations are computed again instead of being kept")
        return ", and ".join(parts)


def ways(config: GenerateConfig) -> Iterator[Way]:
    """From the fastest to the one that takes the least memory, beginning with that of the settings."""
    at_once, has_checkpoints = _views_at_once(config), config.guidance.checkpointing
    while True:
        yield Way(at_once, has_checkpoints)
        if at_once == 1:
            break
        at_once = -(-at_once // 2)
    if not has_checkpoints:
        yield Way(1, True)


def along(config: GenerateConfig, way: Way) -> GenerateConfig:
    """The configuration that goes this way."""
    guidance = replace(config.guidance, views_at_once=way.views_at_once, checkpointing=way.checkpointing)
    return replace(config, guidance=guidance)


def fitted(config: GenerateConfig, prior: DiffusionPrior, warn: Warn = no_warn) -> GenerateConfig:
    """The configuration with the fastest way that fits into the GPU's free memory; `warn` is told if it is another.

    `prior` is loaded already. On a CPU, and for embedded priors, which are small, nothing changes.
    """
    if prior.device.type != "cuda" or world_of(config.prior) is not None:
        return config
    # The text encoder goes before the first step.
    free = free_gib(prior.device) + prior.text_encoder_bytes / GIB
    given, scale, views = config, _scale(prior), most_views(config)
    first = way = None
    for way in ways(config):
        first = first or way
        if way.gib(config.method, scale) <= USABLE * free:
            break
    else:
        assert way is not None
        config, missing = with_fewer_samples(config, way.gib(config.method, scale) - USABLE * free)
        if missing > 0:
            needed = free + missing / USABLE
            warn(
                f"The GPU has {free:.1f} GiB free, and the job needs about {needed:.1f}: it may run out of memory."
            )
    assert way is not None
    if way == first and config is given:
        return config
    compact()
    result = "the same" if config is given else "a little coarser"
    warn(f"The GPU has {free:.1f} GiB free, so {way.words(views)}; the result is {result}, and takes longer.")
    return along(config, way)


def with_fewer_samples(config: GenerateConfig, missing_gib: float) -> tuple[GenerateConfig, float]:
    """The configuration with so many samples of a ray less as make up for what is missing, and what still is.

    The last resort, as it is the only one that changes the result: samples lie farther apart.
    """
    gib_per_sample = SAMPLE_BYTES * config.optimize.render_px**2 / GIB  # Of one view, as in the table.
    now = config.render.samples_per_ray or START_SAMPLES
    fewer = min(now, max(MIN_SAMPLES, int(now - missing_gib / gib_per_sample)))
    config = replace(config, render=replace(config.render, samples_per_ray=fewer))
    return config, missing_gib - (now - fewer) * gib_per_sample


def stepped_down(config: GenerateConfig) -> GenerateConfig | None:
    """The configuration with the way after its own; None if there is none that takes less.

    From one view at once to activations that are computed again:

    >>> from recdreamer.presets import resolve
    >>> from recdreamer.shared.protocol import JobRequest
    >>> config = stepped_down(resolve(JobRequest("a bear", prior="some model")))
    >>> config.guidance.checkpointing, stepped_down(config)
    (True, None)
    """
    others = list(ways(config))[1:]
    return along(config, others[0]) if others else None


def most_views(config: GenerateConfig) -> int:
    """The most views that a step of any stage has."""
    return max(
        config.step(name).num_views for name in ("shape", "geometry", "texture") if name in config.stages
    )


def free_gib(device: torch.device) -> float:
    """Memory of a GPU that a job can have: what others have left, up to the limit of this process if it has one."""
    free, total = torch.cuda.mem_get_info(device)
    held, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    # Not in every version of torch.
    share_of = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
    limit = share_of(device) * total
    return min(free + held - used, limit - used) / GIB


def compact() -> None:
    """Let torch join freed blocks, which it does not by default: samples differ in number from step to step."""
    # By a private name, as the variable of the environment is read before a job is known; not on Windows.
    change = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    change = change or torch.cuda.memory._set_allocator_settings
    if sys.platform.startswith("linux"):
        change("expandable_segments:True")


def _views_at_once(config: GenerateConfig) -> int:
    views = most_views(config)
    return min(config.guidance.views_at_once or views, views)


def _scale(prior: DiffusionPrior) -> float:
    return (prior.image_px / 512) ** 2 * prior.unet.dtype.itemsize / 2
