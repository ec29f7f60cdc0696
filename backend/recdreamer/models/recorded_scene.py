"""θ of the first stage as two recordings: one up to its pictures, one from their gradient on.

Between them lies the guidance, which is a recording of its own (`recorded_step`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.graphs import Recorder, Recording
from recdreamer.models.radiance import Scene
from recdreamer.parallel.view_shares import share_of
from recdreamer.rendering import Rendering


class RecordedScene:
    """A scene whose steps are replayed. They are recorded anew whenever the buffers of its samples change their size.

    The first step with buffers of some size runs as it is written, and so do all where nothing can be recorded.
    """

    def __init__(self, scene: Scene, recorder: Recorder, warn: Callable[[RuntimeError], None]) -> None:
        """`warn` is told once why nothing can be recorded."""
        self.scene, self.device, self.warn = scene, scene.device, warn
        self.recorder: Recorder | None = recorder
        self.size: int | None = -1
        """Of the buffers in the latest step; None for buffers without a limit."""
        self.view: Recording | None = None
        self.move: Recording | None = None
        self.rendering: Rendering | None = None
        """In the memory of `view`."""

    def render(self, cameras: Cameras, step: int, generator: torch.Generator) -> Rendering:
        capacity = self.scene.capacity
        self.scene.begin(step, generator)
        size = None if capacity is None else capacity.of(share_of(generator))
        if size != self.size:
            self.size, self.view, self.move, self.rendering = size, None, None, None
        elif self.view is None and self.recorder is not None:
            self._record(cameras, generator)
        if self.view is None:
            rendering = self.scene.view(cameras, generator)
        else:
            self.cameras.fill(cameras)
            self.view.replay()
            assert self.rendering is not None
            rendering = self.rendering
        if capacity is not None:
            capacity.send()
        return rendering

    def descend(
        self,
        rendering: Rendering,
        latents: Float[Tensor, "views c h w"],
        grad: Float[Tensor, "views c h w"],
        step: int,
        generator: torch.Generator,
    ) -> None:
        """`latents` are the pixels of `rendering`, whose gradient is known."""
        self.scene.begin_descent(step)
        if self.move is None:
            self.scene.move(rendering, latents, grad, generator)
        else:
            self.grad.copy_(grad)
            self.move.replay()

    def _record(self, cameras: Cameras, generator: torch.Generator) -> None:
        """Both together, so that neither is left alone if the other fails."""
        assert self.recorder is not None
        self.cameras, px = cameras.copied(), self.scene.config.optimize.render_px
        self.grad = torch.zeros(len(cameras), 3, px, px, device=self.device)

        def view() -> Tensor:
            self.rendering = self.scene.view(self.cameras, generator)
            return self.rendering.rgb.detach()

        def move() -> Tensor:
            assert self.rendering is not None
            self.scene.move(self.rendering, self.rendering.rgb, self.grad, generator)
            return self.scene.descent.first_bad_step

        try:
            self.view = self.recorder(view, [generator])
            self.move = self.recorder(move, [generator], self.view)
        except torch.OutOfMemoryError:
            raise  # The job can go on with less.
        except RuntimeError as error:
            self.warn(error)
            self.recorder = self.view = self.move = self.rendering = None
