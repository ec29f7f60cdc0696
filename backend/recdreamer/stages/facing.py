"""Find which way a finished object faces, so that its front can be turned to -Y, as Blender expects."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import CameraConfig, orbit
from recdreamer.models.model import Pictured
from recdreamer.pose.control import SIGNS
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


@torch.no_grad()
def yaw_of(pictured: Pictured, rectifiers: Sequence[Rectifier], ranges: CameraConfig, size_px: int) -> float:
    """The yaw of an object in degrees, by the job's own classifier.

    0 if no class has an azimuth, or if the views do not agree on a front.
    """
    for rectifier in rectifiers:
        if rectifier.class_azimuth_deg is not None:
            classes, azimuths, probs = rectifier.class_azimuth_deg, [], []
            # One view at a time: all at once would need gigabytes with Stable Diffusion.
            for view in range(NUM_VIEWS):
                cameras = orbit(1, ranges, classes.device, view * 360 / NUM_VIEWS)
                azimuths.append(cameras.azimuth_deg)
                probs.append(rectifier.classifier(pictured.picture(cameras, min(size_px, MAX_PX))).exp())
            # Where the sides may be exchanged, the views agree on the front in one of the two orders.
            signs = SIGNS[:1] if rectifier.yaw is None else rectifier.yaw.signs
            found = [yaw_of_views(torch.cat(azimuths), torch.cat(probs), sign * classes) for sign in signs]
            yaw_deg, agreement = max(found, key=lambda each: each[1])
            return yaw_deg if agreement >= LEAST_AGREEMENT else 0.0
    return 0.0
