"""The pose that each camera should see: by its azimuth (paper, C.5), or by the object's yaw as inferred from views."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recdreamer.cameras import angle_difference

RAMP_DEG = 10.0
"""Width of the transition between two classes. Within it an object can turn freely: with 30, some objects ended up
turned by about 15 degrees."""
NUM_YAWS = 72
"""Resolution of the yaw: every 5 degrees."""
SIGNS = (1.0, -1.0)
"""Of the azimuth at which a side is seen: the second one where the templates of the sides may be exchanged."""


def wanted_classes(
    azimuth_deg: Float[Tensor, "batch"], class_azimuth_deg: Float[Tensor, "classes"]
) -> Float[Tensor, "batch classes"]:
    """Weight of each class in each view: 1 near the class's azimuth, falling to 0 over RAMP_DEG at its border.

    The border lies halfway to the nearest other class. A view outside of all borders wants the nearest class.

    >>> sides_deg = torch.tensor([0.0, 90.0, 180.0, 270.0])
    >>> wanted_classes(torch.tensor([0.0, 40.0, 45.0]), sides_deg).tolist()
    [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]
    """
    gap = angle_difference(class_azimuth_deg[:, None], class_azimuth_deg[None]).abs()
    gap.fill_diagonal_(360.0)
    border = gap.amin(1) / 2
    distance = angle_difference(azimuth_deg[:, None], class_azimuth_deg[None]).abs()
    wanted = ((border + RAMP_DEG / 2 - distance) / RAMP_DEG).clamp(0, 1)
    nearest = torch.nn.functional.one_hot(distance.argmin(1), len(class_azimuth_deg)).to(wanted.dtype)
    return torch.where(wanted.sum(1, keepdim=True) > 0, wanted, nearest)


class YawPosterior(nn.Module):
    """q(ψ): probability that the object is turned by ψ about the vertical, given the views so far.

    The marginal form asks every camera for the same f(c). One object seen from all sides is more constrained: the
    view from azimuth a of an object turned by ψ should show f(c | a + ψ), and f(c) is only the mean of this over the
    cameras. With f(c) alone the ratio is flat once the running marginal is uniform, but the marginal is also uniform
    if each view is undecided, or if the views are inconsistent with each other: two fronts, or none.

    Theorem 1 holds for any target, including a target per camera whose mean over the cameras is f(c). ψ is a
    hidden variable with a uniform prior. Theorem 1 gives the density of a picture x from azimuth a,
    p(x) Σ_c f(c | a + ψ) / p(c) · p(c | x), hence log q(ψ) = Σ log Σ_c f(c | a + ψ) / p̄_t(c) · p(c | x_t) + const,
    summed over the pictures so far. The target of a camera is the mean of f(c | a + ψ) over q: the paper's f(c) as
    long as nothing is known, and pose control up to a rotation once the object has a front.

    Before any view is read, each camera asks for f(c):

    >>> posterior = YawPosterior(torch.tensor([0.0, 90.0, 180.0, 270.0]), memory=100)
    >>> [round(share, 4) for share in posterior.target(torch.tensor([30.0]))[0].tolist()]
    [0.25, 0.25, 0.25, 0.25]
    """

    log_evidence: Tensor

    def __init__(
        self, class_azimuth_deg: Float[Tensor, "classes"], memory: int, are_sides_known: bool = True
    ) -> None:
        """`memory`: number of latest samples that carry 90 % of the evidence; a forming object may still turn.

        If the sides are not known, whether they are exchanged is a part of ψ.
        """
        super().__init__()
        self.rate = 1 - 0.1 ** (1 / memory)
        self.class_azimuth_deg = class_azimuth_deg
        self.signs = SIGNS if not are_sides_known else SIGNS[:1]
        count = len(self.signs) * NUM_YAWS
        self.register_buffer("log_evidence", torch.zeros(count, device=class_azimuth_deg.device))

    def target(self, azimuth_deg: Float[Tensor, "batch"]) -> Float[Tensor, "batch classes"]:
        """f(c | a): the mean over q of the target of each yaw."""
        return torch.einsum("bkc,k->bc", self._targets(azimuth_deg), self.log_evidence.softmax(0))

    @torch.no_grad()
    def update(
        self,
        azimuth_deg: Float[Tensor, "batch"],
        log_probs: Float[Tensor, "batch classes"],
        marginal: Float[Tensor, "batch classes"],
    ) -> None:
        """Add the evidence of the classified views of a step."""
        log_weights = (self._targets(azimuth_deg) / marginal.clamp_min(1e-6)[:, None]).log()
        log_ratios = torch.logsumexp(log_probs.detach()[:, None] + log_weights, dim=-1)
        self.log_evidence.mul_((1 - self.rate) ** len(azimuth_deg)).add_(log_ratios.sum(0))

    def _targets(self, azimuth_deg: Float[Tensor, "batch"]) -> Float[Tensor, "batch hypotheses classes"]:
        yaw_deg = torch.arange(NUM_YAWS, device=azimuth_deg.device) * (360 / NUM_YAWS)
        seen_from = torch.cat([sign * azimuth_deg[:, None] + yaw_deg for sign in self.signs], dim=1)
        wanted = wanted_classes(seen_from.flatten(), self.class_azimuth_deg)
        return (wanted / wanted.sum(-1, keepdim=True)).unflatten(0, seen_from.shape)
