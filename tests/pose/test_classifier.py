"""The training-free classifier on true renders of the embedded world, and on features with a known answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.figurines import COLORS, KINDS, POSES, Figurines, render_figurines
from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
from recdreamer.pose.features import PATCHES, FeatureExtractor
from recdreamer.pose.foreground import ForegroundRule, center_hint, horizontal_map
from recdreamer.pose.templates import PoseTemplate


def renders(kind: str, color: str, azimuth_deg: list[float], elevation_deg: float = 10.0) -> Tensor:
    count = len(azimuth_deg)
    figures = Figurines.of(
        torch.full((count,), KINDS.index(kind)), torch.full((count,), list(COLORS).index(color))
    )
    cameras = orbit_cameras(torch.tensor(azimuth_deg), torch.full((count,), elevation_deg), 4.0, 30.0)
    return render_figurines(figures, cameras, 64, torch.full((count, 3), 0.8))


def templates_of(kind: str, color: str, order: tuple[str, ...] = POSES) -> list[PoseTemplate]:
    azimuths = {pose: 90.0 * i for i, pose in enumerate(POSES)}
    return [
        PoseTemplate(pose, renders(kind, color, [azimuths[pose]], elevation)[0], None, azimuths[pose])
        for pose in order
        for elevation in (4.0, 16.0)
    ]


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor()


@pytest.fixture(scope="module")
def classifier(extractor: FeatureExtractor) -> PoseClassifier:
    return PoseClassifier(extractor, templates_of("bird", "blue"), ClassifierConfig())


def test_templates_belong_to_their_own_class(classifier: PoseClassifier) -> None:
    images = renders("bird", "blue", [0.0, 90.0, 180.0, 270.0])
    assert classifier(images).argmax(-1).tolist() == [0, 1, 2, 3]


def test_mirroring_swaps_the_sides_and_keeps_front_and_back(classifier: PoseClassifier) -> None:
    images = renders("bird", "blue", [5.0, 80.0, 175.0, 280.0])
    probs, mirrored = classifier(images).exp(), classifier(images.flip(-1)).exp()
    assert probs.argmax(-1).tolist() == [0, 1, 2, 3]
    assert mirrored.argmax(-1).tolist() == [0, 3, 2, 1]


def test_each_picture_is_judged_on_its_own(classifier: PoseClassifier) -> None:
    images = renders("bird", "blue", [20.0 * i for i in range(16)])
    assert torch.allclose(classifier(images)[3:4], classifier(images[3:4]), atol=1e-4)


def test_the_order_of_the_classes_does_not_matter(
    extractor: FeatureExtractor, classifier: PoseClassifier
) -> None:
    order = ("left", "front", "back", "right")
    config = ClassifierConfig(template_copies=0)
    plain = PoseClassifier(extractor, templates_of("bird", "blue"), config)
    shuffled = PoseClassifier(extractor, templates_of("bird", "blue", order), config)
    images = renders("bird", "blue", [33.0, 222.0])
    columns = [shuffled.labels.index(label) for label in plain.labels]
    assert torch.allclose(plain(images), shuffled(images)[:, columns], atol=1e-3)


def test_gradient_points_where_the_probability_grows(classifier: PoseClassifier) -> None:
    image = renders("bird", "blue", [45.0]).requires_grad_()
    log_prob = classifier(image)[0, 0]
    (grad,) = torch.autograd.grad(log_prob, image)
    assert torch.isfinite(grad).all()
    with torch.no_grad():
        step = 0.02 * grad / grad.norm()
        assert classifier(image + step)[0, 0] > log_prob > classifier(image - step)[0, 0]


def test_no_gradient_reaches_the_extractor(classifier: PoseClassifier) -> None:
    assert not any(parameter.requires_grad for parameter in classifier.extractor.parameters())


def test_a_blank_picture_is_answered_without_trouble(classifier: PoseClassifier) -> None:
    assert torch.isfinite(classifier(torch.full((1, 3, 64, 64), 0.8))).all()


def test_two_classes_are_enough(extractor: FeatureExtractor) -> None:
    pair = PoseClassifier(extractor, templates_of("robot", "red", ("front", "back")), ClassifierConfig())
    assert pair(renders("robot", "red", [0.0, 180.0])).argmax(-1).tolist() == [0, 1]


@pytest.mark.parametrize("normalization", ["centered", "paper", "released"])
@pytest.mark.parametrize("branches", ["full", "texture", "orientation"])
def test_all_variants_give_probabilities(extractor: FeatureExtractor, normalization, branches) -> None:
    config = ClassifierConfig(normalization=normalization, branches=branches, template_copies=1)
    probs = PoseClassifier(extractor, templates_of("bear", "red"), config)(
        renders("bear", "red", [10.0])
    ).exp()
    assert torch.allclose(probs.sum(-1), torch.ones(1), atol=1e-5)


def test_horizontal_map_runs_across_the_object() -> None:
    mask = torch.zeros(1, PATCHES, PATCHES)
    mask[0, 4:9, 2:7] = 1
    row = horizontal_map(mask.flatten(1)).unflatten(1, (PATCHES, PATCHES))[0, 5]
    assert torch.allclose(row[2:7], torch.tensor([-0.5, -0.25, 0.0, 0.25, 0.5]))


def test_foreground_rule_finds_the_object_and_its_sign() -> None:
    patches = torch.zeros(2, PATCHES, PATCHES, 3)
    patches[..., 0] = 1.0
    patches[:, 5:11, 6:10] = torch.tensor([0.0, 1.0, 0.0])
    patches += 0.05 * torch.randn(patches.shape, generator=torch.Generator().manual_seed(0))
    flat = patches.flatten(1, 2)
    hint = center_hint("cpu").expand(2, -1)
    expected = torch.zeros(PATCHES, PATCHES)
    expected[5:11, 6:10] = 1
    rule = ForegroundRule.fit(flat, hint)
    assert torch.equal(rule.mask(flat)[0], expected.flatten())
    assert torch.equal(ForegroundRule.fit(flat, -hint).mask(flat)[0], 1 - expected.flatten())


def test_a_picture_without_object_is_all_object() -> None:
    rule = ForegroundRule(torch.tensor([1.0, 0.0]), 0.5)
    assert rule.mask(torch.zeros(1, PATCHES**2, 2)).min() == 1
