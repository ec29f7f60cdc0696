"""The rectifying ratio in both forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recdreamer.pose.control import NUM_YAWS, YawPosterior
from recdreamer.pose.rectifier import (
    Rectifier,
    camera_log_ratio,
    marginal_log_ratio,
    target_distribution,
)
from recdreamer.shared.protocol import RequestError

AZIMUTHS = torch.tensor([0.0, 90.0, 180.0, 270.0])


def test_ratio_is_the_discrete_form_of_theorem_2() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    marginal = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    target = torch.tensor([0.2, 0.3, 0.5])
    expected = (target / marginal * probs).sum(-1).log()
    assert torch.allclose(marginal_log_ratio(probs.log(), marginal, target), expected)


def test_one_class_gives_no_gradient() -> None:
    logits = torch.zeros(3, 1, requires_grad=True)
    ratio = marginal_log_ratio(logits.log_softmax(-1), torch.ones(3, 1), torch.ones(1))
    (grad,) = torch.autograd.grad(ratio.sum(), logits)
    assert ratio.abs().max() == 0 and grad.abs().max() == 0


def test_a_marginal_that_is_the_target_gives_no_gradient() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([0.1, 0.2, 0.3, 0.4])
    (grad,) = torch.autograd.grad(
        marginal_log_ratio(logits.log_softmax(-1), target.expand(3, 4), target).sum(), logits
    )
    assert grad.abs().max() < 1e-6


def test_a_rare_class_is_asked_for() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    ratio = marginal_log_ratio(logits.log_softmax(-1), torch.tensor([[0.9, 0.1]]), torch.tensor([0.5, 0.5]))
    (grad,) = torch.autograd.grad(ratio.sum(), logits)
    assert grad[0, 1] > 0 > grad[0, 0]


def test_each_view_has_its_own_ratio() -> None:
    """The released code averages over the batch before the logarithm."""
    probs = torch.tensor([[0.7, 0.3], [0.1, 0.9]])
    marginal, target = torch.tensor([[0.8, 0.2]]).expand(2, 2), torch.tensor([0.5, 0.5])
    both = marginal_log_ratio(probs.log(), marginal, target)
    alone = marginal_log_ratio(probs[:1].log(), marginal[:1], target)
    assert torch.equal(both[:1], alone)


def test_camera_ratio_of_one_wanted_class_is_its_log_probability() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1]])
    ratio = camera_log_ratio(probs.log(), torch.tensor([[0.0, 1.0, 0.0]]))
    assert abs(ratio.item() - math.log(0.2)) < 1e-5


def test_the_target_follows_the_labels_and_adds_up_to_one() -> None:
    labels = ("front", "back", "left")
    assert target_distribution({}, labels).tolist() == pytest.approx([1 / 3] * 3)
    assert target_distribution({"left": 3.0, "front": 1.0}, labels).tolist() == [0.25, 0.0, 0.75]


@pytest.mark.parametrize("target", [{"top": 1.0}, {"front": -1.0, "back": 2.0}, {"front": 0.0}])
def test_a_target_that_fits_no_class_is_one_sentence(target: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="does not fit the pose classes front, back"):
        target_distribution(target, ("front", "back"))


def test_a_single_class_as_target_is_pose_control() -> None:
    """C.5: the gradient of log f/p̄ · p(c) is that of log p(c), whatever the marginal."""
    logits = torch.tensor([[0.3, -1.0, 0.2]], requires_grad=True)
    target = target_distribution({"b": 1.0}, ("a", "b", "c"))
    ratio = marginal_log_ratio(logits.log_softmax(-1), torch.tensor([[0.7, 0.1, 0.2]]), target)
    (grad,) = torch.autograd.grad(ratio.sum(), logits)
    (wanted,) = torch.autograd.grad(logits.log_softmax(-1)[0, 1], logits)
    assert torch.allclose(grad, wanted, atol=1e-7)


# The rectifier itself: what it is given, and what it keeps


class Told:
    """A classifier that answers what it was told to, and remembers what it was asked with."""

    def __init__(
        self, *rows: tuple[float, ...], labels: tuple[str, ...] = ("front", "right", "back", "left")
    ):
        self.log_probs, self.labels = torch.tensor(rows).log(), labels
        self.generators: list[torch.Generator | None] = []

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.generators.append(generator)
        return self.log_probs[:1].expand(len(images), -1) if len(self.log_probs) == 1 else self.log_probs


PICTURES = torch.zeros(4, 3, 8, 8)
ROW = (0.4, 0.3, 0.2, 0.1)


@pytest.mark.parametrize("turn_deg", [0.0, 30.0, -30.0])
def test_each_camera_asks_for_the_side_that_lies_before_it(turn_deg: float) -> None:
    """Front at azimuth 0, right at 90 (+X), back at 180 and left at 270, as `CLASS_AZIMUTHS_DEG` has them."""
    rectifier = Rectifier(Told(ROW), "camera", AZIMUTHS, 10, 100)
    t = torch.full((4,), 300)
    ratio, log_probs = rectifier.log_ratio(PICTURES, t, AZIMUTHS + turn_deg, torch.Generator())
    assert torch.allclose(ratio.exp(), torch.tensor(ROW), atol=1e-5)
    assert torch.allclose(log_probs.exp(), torch.tensor([ROW] * 4))


def test_the_marginal_form_weighs_by_the_target_and_by_the_marginal_of_the_views_interval() -> None:
    target = {"front": 1.0, "back": 3.0}
    rectifier = Rectifier(Told(ROW), "marginal", AZIMUTHS, 4, 1, num_timesteps=100, target=target)
    assert rectifier.marginal.probs.shape == (4, 4)
    t = torch.tensor([10, 30, 60, 99])
    rectifier.observe(Told(ROW).log_probs, t[1:2], AZIMUTHS[:1])
    # One sample of n_ema = 1 counts nine tenths, in its own interval only.
    seen = 0.9 * torch.tensor(ROW) + 0.1 * 0.25
    uniform = torch.full((4,), 0.25)
    assert torch.allclose(rectifier.marginal.probs, torch.stack((uniform, seen, uniform, uniform)))
    ratio, _ = rectifier.log_ratio(PICTURES, t, AZIMUTHS, torch.Generator())
    shares = torch.tensor([0.25, 0.0, 0.75, 0.0]) * torch.tensor(ROW)
    wanted = torch.stack([(shares / marginal).sum() for marginal in (uniform, seen, uniform, uniform)])
    assert torch.allclose(ratio.exp(), wanted, atol=1e-5)


def test_the_classifier_gets_the_random_numbers_of_the_step() -> None:
    """It perturbs the pictures with them; without any it would read the pictures as they are."""
    told, drawn = Told(ROW), torch.Generator()
    Rectifier(told, "marginal", None, 10, 100).log_ratio(PICTURES, torch.full((4,), 5), None, drawn)
    assert told.generators == [drawn]


def test_a_fixed_marginal_is_that_of_each_interval_and_stays() -> None:
    asked: list[int] = []
    rectifier = Rectifier(Told(ROW), "marginal", AZIMUTHS, 4, 1, num_timesteps=100)

    def estimates(t: Tensor) -> Tensor:
        asked.append(int(t))
        return PICTURES[:2]

    rectifier.fix_marginal(estimates, torch.Generator())
    assert asked == [12, 37, 62, 87], "the middles of the intervals"
    fixed = torch.tensor([ROW] * 4)
    assert torch.allclose(rectifier.marginal.probs, fixed)
    rectifier.observe(torch.tensor([(0.1, 0.1, 0.1, 0.7)]).log(), torch.tensor([50]), AZIMUTHS[:1])
    assert torch.allclose(rectifier.marginal.probs, fixed)


def test_two_rectifiers_keep_their_marginals_apart_in_one_checkpoint() -> None:
    def both() -> list[Rectifier]:
        attribute = Told((0.9, 0.1), labels=("hat", "bare"))
        pose = Rectifier(Told(ROW), "marginal", AZIMUTHS, 4, 10, yaw=YawPosterior(AZIMUTHS, 10))
        return [pose, Rectifier(attribute, "marginal", None, 4, 10, name="attribute")]

    before = both()
    for rectifier in before:
        rectifier.observe(rectifier.classifier(PICTURES[:1]), torch.tensor([300]), AZIMUTHS[1:2])
    saved = {n: tensor.clone() for rectifier in before for n, tensor in rectifier.tensors().items()}
    assert len(saved) == 3
    after = both()
    for rectifier, old in zip(after, before, strict=True):
        rectifier.load(saved)
        assert torch.equal(rectifier.marginal.probs, old.marginal.probs)
        assert not torch.equal(rectifier.marginal.probs, both()[after.index(rectifier)].marginal.probs)
    assert torch.equal(after[0].yaw.log_evidence, before[0].yaw.log_evidence)
    assert after[0].yaw.log_evidence.abs().max() > 0


@pytest.mark.parametrize("memory", [4, 100])
def test_the_memory_of_the_yaw_says_how_fast_evidence_fades(memory: int) -> None:
    """Two views that are like the marginal add nothing; what was known before keeps 0.1^(2 / memory) of its weight."""
    yaw, uniform = YawPosterior(AZIMUTHS, memory), torch.full((2, 4), 0.25)
    known = torch.randn(NUM_YAWS, generator=torch.Generator().manual_seed(0))
    yaw.log_evidence.copy_(known)
    yaw.update(torch.tensor([0.0, 90.0]), uniform.log(), uniform)
    assert torch.allclose(yaw.log_evidence, known * 0.1 ** (2 / memory), atol=1e-5)
