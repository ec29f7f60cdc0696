"""Reads an object from all sides by the job's own classifier: which way it faces, and which sides are lost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import CameraConfig, orbit
from recdreamer.models.model import Pictured
from recdreamer.pose.control import SIGNS, wanted_classes
from recdreamer.pose.rectifier import Rectifier

NUM_VIEWS = 36
MAX_PX = 256
"""About the input size of the extractor."""
LEAST_AGREEMENT = 0.5
"""Minimal agreement of the views on the front. A perfect object reaches 0.90 with four classes, one with the same
face on all sides 0."""


def yaw_of_views(
    azimuth_deg: Float[Tensor, "views"],
    probs: Float[Tensor, "views classes"],
    class_azimuth_deg: Float[Tensor, "classes"],
) -> tuple[float, float]:
    """The yaw of an object in degrees, and the agreement of its views, in [0, 1].

    A view from azimuth a that shows the class of azimuth b says that the yaw is b - a, and that turning the object by
    that angle, counter-clockwise from above, puts its front at azimuth 0. The direction of the views' mean vector is
    the yaw, its length the agreement.
    """
    turns = torch.deg2rad(class_azimuth_deg[None] - azimuth_deg[:, None])
    x, y = (probs * turns.cos()).sum(1).mean(), (probs * turns.sin()).sum(1).mean()
    return math.degrees(math.atan2(float(y), float(x))), math.hypot(float(x), float(y))


def lost_sides(
    azimuth_deg: Float[Tensor, "views"],
    probs: Float[Tensor, "views classes"],
    class_azimuth_deg: Float[Tensor, "classes"],
) -> float:
    """Share of the classes that are not seen where pose control asks for them (paper, C.5): there, they are less probable
    than by chance.

    Fronts from the front and from behind, of two classes: the back is lost.

    >>> sides_deg = torch.tensor([0.0, 180.0])
    >>> lost_sides(sides_deg, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), sides_deg)
    0.5
    """
    wanted = wanted_classes(azimuth_deg, class_azimuth_deg)
    seen = (wanted * probs).sum(0) / wanted.sum(0).clamp_min(1e-6)
    return float((seen < 1 / len(class_azimuth_deg)).float().mean())


def yaw_of(pictured: Pictured, rectifiers: Sequence[Rectifier], ranges: CameraConfig, size_px: int) -> float:
    """The yaw of an object in degrees, by the job's own classifier.

    0 if no class has an azimuth, or if the views do not agree on a front.
    """
    for rectifier in rectifiers:
        if rectifier.class_azimuth_deg is not None:
            azimuths, probs, classes = read_around(pictured, rectifier, ranges, size_px)
            # Where the sides may be exchanged, the views agree on the front in one of the two orders.
            signs = SIGNS[:1] if rectifier.yaw is None else rectifier.yaw.signs
            found = [yaw_of_views(azimuths, probs, sign * classes) for sign in signs]
            yaw_deg, agreement = max(found, key=lambda each: each[1])
            return yaw_deg if agreement >= LEAST_AGREEMENT else 0.0
    return 0.0


@torch.no_grad()
def read_around(
    pictured: Pictured, rectifier: Rectifier, ranges: CameraConfig, size_px: int
) -> tuple[Float[Tensor, "views"], Float[Tensor, "views classes"], Float[Tensor, "classes"]]:
    """Azimuths of views all around, what the classifier reads in them, and the azimuths of its classes."""
    assert rectifier.class_azimuth_deg is not None
    classes, azimuths, probs = rectifier.class_azimuth_deg, [], []
    # One view at a time: all at once would need gigabytes with Stable Diffusion.
    for view in range(NUM_VIEWS):
        cameras = orbit(1, ranges, classes.device, view * 360 / NUM_VIEWS)
        azimuths.append(cameras.azimuth_deg)
        probs.append(rectifier.classifier(pictured.picture(cameras, min(size_px, MAX_PX))).exp())
    return torch.cat(azimuths), torch.cat(probs), classes
