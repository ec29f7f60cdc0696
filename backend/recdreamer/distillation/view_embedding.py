"""Text embeddings to which the part of the view words is added that the prompt lacks (ConsDreamer, Zhou et al. 2025)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import angle_difference
from recdreamer.prior.prompts import VIEWS, Prompts


def projection(
    vectors: Float[Tensor, "*batch tokens width"], onto: Float[Tensor, "*batch tokens width"]
) -> Float[Tensor, "*batch tokens width"]:
    """The part of each token's vector along another, zero where that is zero.

    >>> projection(Tensor([[3.0, 4.0]]), Tensor([[2.0, 0.0]])).tolist()
    [[3.0, 0.0]]
    """
    square = (onto * onto).sum(-1, keepdim=True)
    return (vectors * onto).sum(-1, keepdim=True) / square.clamp_min(1e-12) * onto


def disentangled(
    prompts: Prompts, azimuth_deg: Float[Tensor, "batch"], strength: float
) -> Float[Tensor, "batch tokens width"]:
    """V + w |r|/90 δ_side for cameras at azimuth r in front, token by token.

    V is the embedding of the prompt, V_v that with the words of view v, and δ_v = V_v - Proj_V V_v what the words add.
    Behind, from 90 to 180 degrees, the side's weight falls to 0 and the back's rises to w; the published description has
    the front half only. It also takes the part along each δ_v out of the prompt, with δ of its key words. Here the key
    words are the whole prompt, which is at right angles to δ, so there is none. Needs prompts encoded with views.
    """
    plain = prompts.plain
    seen = {view: prompts.views[VIEWS.index(view)][None] for view in ("right", "back", "left")}
    delta = {view: embedding - projection(embedding, plain) for view, embedding in seen.items()}
    angle = angle_difference(azimuth_deg, 0.0)[:, None, None]
    behind = (angle.abs() / 90 - 1).clamp_min(0)
    beside = (angle.abs() / 90).clamp_max(1) - behind
    side = (angle >= 0) * delta["right"] + (angle < 0) * delta["left"]
    return plain + strength * (beside * side + behind * delta["back"])
