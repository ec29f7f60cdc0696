"""Embeddings of all forms of the prompt that a step needs, encoded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cameras import angle_difference

VIEWS = ("front", "right", "back", "left", "overhead")
Encode = Callable[[list[str]], Float[Tensor, "prompts tokens width"]]


@dataclass(frozen=True)
class ViewConfig:
    """Words for a camera's viewpoint, and the angles at which they change."""

    front: str = "front view"
    right: str = "side view"
    back: str = "back view"
    left: str = "side view"
    overhead: str = "overhead view"
    front_width_deg: float = 60.0
    """Width of the front and of the back sector; the rest is a side (ProlificDreamer: 60)."""
    overhead_elevation_deg: float = 60.0

    def phrases(self) -> list[str]:
        """Phrases in the order of VIEWS."""
        return [getattr(self, name) for name in VIEWS]

    def of(
        self, azimuth_deg: Float[Tensor, "batch"], elevation_deg: Float[Tensor, "batch"]
    ) -> Int[Tensor, "batch"]:
        """Index into VIEWS of each camera's viewpoint.

        >>> azimuth_deg, elevation_deg = torch.tensor([330.0, 31.0, 180.0, 270.0, 0.0]), torch.tensor([0.0, 0, 0, 0, 61])
        >>> [VIEWS[view] for view in ViewConfig().of(azimuth_deg, elevation_deg)]
        ['front', 'right', 'back', 'left', 'overhead']
        """
        from_front = angle_difference(azimuth_deg, 0.0)
        view = torch.where(from_front > 0, VIEWS.index("right"), VIEWS.index("left"))
        half = self.front_width_deg / 2
        view = view.masked_fill(from_front.abs() <= half, VIEWS.index("front"))
        view = view.masked_fill(from_front.abs() >= 180 - half, VIEWS.index("back"))
        return view.masked_fill(elevation_deg > self.overhead_elevation_deg, VIEWS.index("overhead"))


@dataclass(frozen=True)
class Prompts:
    """Embeddings of the prompt, alone and with each view's words, and of the negative prompts."""

    plain: Float[Tensor, "1 tokens width"]
    empty: Float[Tensor, "1 tokens width"]
    views: Float[Tensor, "views tokens width"]
    """In the order of VIEWS; all equal the plain prompt if views are not put into words."""
    sources: Float[Tensor, "views tokens width"]
    """Descriptions of the renders in the second stage of SDS-Bridge, in the order of VIEWS, with the same words."""
    view_config: ViewConfig

    @staticmethod
    def encode(
        encode: Encode,
        prompt: str,
        view_config: ViewConfig,
        with_views: bool,
        reduced: dict[str, str] | None = None,
        source: str = "",
    ) -> Prompts:
        """Encode all prompts in one call. `reduced` has a shorter prompt for some views (Debiased-SDS)."""
        texts, sources = [(reduced or {}).get(view, prompt) for view in VIEWS], [source] * len(VIEWS)
        if with_views:
            texts, sources = (
                [", ".join(filter(None, both)) for both in zip(column, view_config.phrases(), strict=True)]
                for column in (texts, sources)
            )
        rows = encode([prompt, "", *texts, *sources])
        return Prompts(rows[:1], rows[1:2], rows[2 : 2 + len(VIEWS)], rows[2 + len(VIEWS) :], view_config)

    def seen_from(
        self, azimuth_deg: Float[Tensor, "batch"], elevation_deg: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch tokens width"]:
        """The prompt with the words of each camera's view."""
        return self.views[self.view_config.of(azimuth_deg, elevation_deg)]

    def source_seen_from(
        self, azimuth_deg: Float[Tensor, "batch"], elevation_deg: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch tokens width"]:
        """The description of the renders with the words of each camera's view."""
        return self.sources[self.view_config.of(azimuth_deg, elevation_deg)]
