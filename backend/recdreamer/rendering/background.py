"""Backgrounds behind the object: a learned environment, or random plain colours."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from recdreamer.parallel.view_shares import drawn

NUM_FREQUENCIES = 4
"""Octaves of the direction's encoding; few keep the background blurred."""
HIDDEN_WIDTH = 32


class Background(nn.Module):
    """Learned colour per ray direction: an environment at infinity, blurred on purpose.

    For Stable Diffusion; the embedded prior knows only plain backgrounds.
    """

    frequencies: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("frequencies", 2.0 ** torch.arange(NUM_FREQUENCIES), persistent=False)
        self.hidden = nn.Linear(3 + 6 * NUM_FREQUENCIES, HIDDEN_WIDTH)
        self.head = nn.Linear(HIDDEN_WIDTH, 3)
        for layer in (self.hidden, self.head):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, rays_d: Float[Tensor, "views height width 3"]) -> Float[Tensor, "views 3 height width"]:
        """Colours in [0, 1] for unit directions."""
        phases = (rays_d[..., None, :] * self.frequencies[:, None]).flatten(-2)
        encoded = torch.cat([rays_d, phases.sin(), phases.cos()], dim=-1)
        return torch.sigmoid(self.head(F.relu(self.hidden(encoded)))).permute(0, 3, 1, 2)


def random_backgrounds(
    num_views: int,
    generator: torch.Generator,
    device: torch.device | str,
    brightness: tuple[float, float],
    tint: float,
) -> Float[Tensor, "views 3"]:
    """One plain background per view: a random grey in `brightness` whose channels differ by up to `tint`.

    An object seen against many backgrounds cannot blend into any of them, nor replace the background by fog.
    """
    low, high = brightness
    grey = low + (high - low) * drawn(torch.rand, (num_views, 1), generator)
    shade = tint * (drawn(torch.rand, (num_views, 3), generator) - 0.5)
    return (grey + shade).clamp(0, 1).to(device)
