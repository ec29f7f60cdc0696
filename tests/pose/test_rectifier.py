"""The rectifying ratio in both forms."""

from __future__ import annotations

import math

import pytest
import torch

from recdreamer.pose.rectifier import (
    camera_log_ratio,
    marginal_log_ratio,
    target_distribution,
)
from recdreamer.protocol import RequestError

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
