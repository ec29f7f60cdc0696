"""Detect early that the first stage has lost its object or its sides, and choose settings for one retry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from recdreamer.cameras import orbit
from recdreamer.config import GenerateConfig
from recdreamer.models.radiance import Scene
from recdreamer.rendering import render

Collapse = Literal["empty", "fog", "full", "sides"]
"""What is left: nothing, a fog, a full box, or an object whose sides are not those that pose control asks for."""
COLLAPSES: tuple[Collapse, ...] = ("empty", "fog", "full", "sides")

LOOK_PX, NUM_VIEWS, MIN_STEPS = 48, 4, 20
MIN_STEPS_FOR_SIDES = 100
OTHER_SEED = 1_000_003
"""Added to the seed of a job whose sides are lost: the same numbers would lose them again."""
SEEN = 0.1
"""Opacity from which a pixel counts as showing something."""
# With the embedded prior, seen / solid / cells go from 0.32 / 0.13 / 0.26 (the start blob) to 0.42 / 0.32 / 0.33 (step
# 50 of 500, a bear), and its peak from 0.94 to 1.00; its figures fill 0.2 to 0.3 of a picture.
FOG_SEEN, FOG_FIRM = 0.2, 0.05
"""Something is seen in more than the first share of the pixels, and fewer than the second share of these are solid."""
FULL_SOLID, FULL_CELLS = 0.85, 0.9
"""Share of the pixels that are solid; share of the cube's cells that are occupied."""
EMPTY_PEAK, EMPTY_SOLID = 0.5, 0.001
"""No pixel is as opaque as the first, or fewer than the second share of the pixels are solid."""


@dataclass(frozen=True)
class Look:
    """Measures of a scene, from a few clean pictures around it and from its occupancy grid."""

    peak: float
    """Opacity of the most opaque pixel."""
    seen: float
    """Share of the pixels that are more opaque than SEEN."""
    solid: float
    """Share of the pixels that are more than half opaque."""
    cells: float
    """Share of the cube's cells that are occupied."""


def look_at(scene: Scene) -> Look:
    """Measure a scene by pictures of the evaluation orbit. Draws no random numbers."""
    cameras = orbit(NUM_VIEWS, scene.config.cameras, scene.device)
    background = torch.ones(NUM_VIEWS, 3, device=scene.device)
    with torch.no_grad():
        opacity = render(
            scene.field, scene.occupancy, cameras, LOOK_PX, LOOK_PX, background, scene.config.render
        ).opacity
    seen, solid = ((opacity > bound).float().mean().item() for bound in (SEEN, 0.5))
    return Look(opacity.max().item(), seen, solid, scene.occupancy.share)


def find_collapse(look: Look) -> Collapse | None:
    """The kind of collapse, if any, a tenth of the way through the stage."""
    if look.seen > FOG_SEEN and look.solid < FOG_FIRM * look.seen:
        return "fog"
    # Checked before "full": in an empty field all cells stay occupied, so that matter can return.
    if look.peak < EMPTY_PEAK or look.solid < EMPTY_SOLID:
        return "empty"
    if look.solid > FULL_SOLID or look.cells > FULL_CELLS:
        return "full"
    return None


def horizon(num_steps: int) -> int:
    """The step of the check: a tenth of the way, when an object is visible. Shorter runs are not checked."""
    return max(num_steps // 10, MIN_STEPS)


def horizon_of_sides(num_steps: int) -> int | None:
    """The step at which the sides are read: half of the way. Shorter runs are not checked."""
    step = num_steps // 2
    return step if step >= MIN_STEPS_FOR_SIDES else None


def cured(config: GenerateConfig, collapse: Collapse) -> GenerateConfig:
    """The settings for one retry.

    Empty: twice the density of the initial blob, a radius one third larger, a tenth of the sparsity. Fog and full: five
    times the sparsity and ten times the entropy, which thus take effect earlier. Sides: another seed.
    """
    if collapse == "sides":
        return replace(config, seed=config.seed + OTHER_SEED)
    weights, field = config.regularizers, config.field
    if collapse == "empty":
        field = replace(field, blob_density=2 * field.blob_density, blob_radius=4 / 3 * field.blob_radius)
        return replace(config, field=field, regularizers=replace(weights, sparsity=0.1 * weights.sparsity))
    weights = replace(weights, sparsity=5 * weights.sparsity, entropy=10 * weights.entropy)
    return replace(config, regularizers=weights)


DESCRIPTIONS: dict[Collapse, str] = {
    "empty": "Nothing is left of the object",
    "fog": "The object has become a fog",
    "full": "The object fills the whole scene",
    "sides": "The object does not show the sides that its cameras ask for",
}
REMEDIES: dict[Collapse, str] = {
    "empty": "a larger and denser start, and less pressure to be sparse",
    "fog": "more pressure to be sparse and firm",
    "full": "more pressure to be sparse and firm",
    "sides": "other random numbers",
}
OF_OBJECT = {**REMEDIES, "empty": "less pressure to be sparse"}
"""The same for a job that starts from an object, which cannot be made larger or denser."""
ADVICE = "else try another seed, more steps or a prompt that names one solid object"
ADVICE_FOR_OBJECT = (
    "else lower the strength, so that the result stays nearer to the object, thicken its thin parts, or try a prompt "
    "that names what it shows"
)
