"""The training-free classifier on true renders of the embedded world, and on features with a known answer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.figurines import COLORS, KINDS, POSES, Figurines, render_figurines
from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
from recdreamer.pose.features import PATCHES, FeatureExtractor
from recdreamer.pose.foreground import ForegroundRule, center_hint, foreground_hint, horizontal_map
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


def test_half_precision_gives_the_same_answers(classifier: PoseClassifier) -> None:
    extractor = FeatureExtractor()
    extractor.model.to(torch.bfloat16)
    half = PoseClassifier(extractor, templates_of("bird", "blue"), ClassifierConfig())
    images = renders("bird", "blue", [22.5 * i + 5 for i in range(16)])
    with torch.no_grad():
        answers, in_half = classifier(images).exp(), half(images.to(torch.bfloat16)).exp()
    assert in_half.dtype == torch.float32 and torch.isfinite(in_half).all()
    assert (answers - in_half).abs().mean() < 0.03


def test_a_weight_says_which_template_of_a_class_counts(extractor: FeatureExtractor) -> None:
    """A class of a right and a wrong picture is read by the one that weighs more."""
    images = renders("bird", "blue", [0.0, 180.0])

    def read(right: float, wrong: float) -> list[int]:
        front, back = renders("bird", "blue", [0.0, 180.0], 4.0)
        templates = [
            PoseTemplate("front", front, None, None, right),
            PoseTemplate("front", back, None, None, wrong),
            PoseTemplate("back", back, None, None, right),
            PoseTemplate("back", front, None, None, wrong),
        ]
        config = ClassifierConfig(template_copies=0, normalization="paper")
        return PoseClassifier(extractor, templates, config)(images).argmax(-1).tolist()

    assert read(3.0, 1.0) == [0, 1] and read(1.0, 3.0) == [1, 0]


def dinov2_folder(folder: Path, with_registers: bool) -> Path:
    """A tiny model in the form in which DINOv2 comes, with or without registers, 14 pixels a patch."""
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 98,
    }
    torch.manual_seed(0)
    if with_registers:
        Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**settings, num_register_tokens=4)
        ).save_pretrained(folder)
    else:
        Dinov2Model(Dinov2Config(**settings)).save_pretrained(folder)
    prepare = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "crop_size": {"height": 98, "width": 98}}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepare))
    return folder


@pytest.mark.parametrize("with_registers", [True, False])
def test_dinov2_with_and_without_registers(tmp_path: Path, with_registers: bool) -> None:
    extractor = FeatureExtractor(str(dinov2_folder(tmp_path / "Bär", with_registers)))
    features = extractor(renders("bird", "blue", [0.0, 90.0]))
    assert features.cls.shape == (2, 32) and features.patches.shape == (2, PATCHES**2, 32)
    with torch.no_grad():
        tokens = extractor.model(extractor.prepare(renders("bird", "blue", [0.0]))).last_hidden_state[0]
    assert len(tokens) == 1 + 4 * with_registers + 49
    # The first place of the map is the first patch, not a register.
    first = torch.nn.functional.normalize(tokens[1 + 4 * with_registers], dim=0)
    assert torch.dot(features.patches[0, 0], first) > 0.999


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


def test_alpha_tells_the_object_then_attention_then_the_middle() -> None:
    alpha, picture = torch.zeros(1, 64, 64), torch.zeros(3, 64, 64)
    alpha[:, :32] = 1
    attention = torch.arange(3.0 * PATCHES**2).view(3, -1)
    cut_out, plain = PoseTemplate("a", picture, alpha, None), PoseTemplate("b", picture, None, None)
    with_attention = foreground_hint([cut_out, plain, plain], attention, "cpu")
    assert with_attention[0].unflatten(0, (PATCHES, PATCHES))[:, 0].tolist() == [1.0] * 8 + [0.0] * 8
    assert torch.allclose(with_attention[1], torch.linspace(0, 1, PATCHES**2))
    assert torch.equal(foreground_hint([plain], None, "cpu")[0], center_hint("cpu"))


def test_attention_signs_the_mask_where_the_middle_would_not(extractor: FeatureExtractor) -> None:
    """A figure so near that its ground shows only in the corners and between its parts."""
    torch.manual_seed(0)
    patches = torch.zeros(1, PATCHES, PATCHES, 2)
    patches[..., 0] = 1.0
    patches[:, 4:12, 4:12] = torch.tensor([0.0, 1.0])  # ground in the middle, as through a ring
    patches = (patches + 0.02 * torch.randn(patches.shape)).flatten(1, 2)
    ring = torch.ones(PATCHES, PATCHES)
    ring[4:12, 4:12] = 0
    picture = PoseTemplate("ring", torch.zeros(3, 64, 64), None, None)
    by_attention = ForegroundRule.fit(patches, foreground_hint([picture], ring.view(1, -1), "cpu"))
    by_middle = ForegroundRule.fit(patches, foreground_hint([picture], None, "cpu"))
    assert torch.equal(by_attention.mask(patches)[0], ring.flatten())
    assert torch.equal(by_middle.mask(patches)[0], 1 - ring.flatten())


def test_pictures_without_any_structure_make_no_trouble(extractor: FeatureExtractor) -> None:
    same = torch.ones(2, PATCHES**2, 4)
    rule = ForegroundRule.fit(same, center_hint("cpu").expand(2, -1))
    assert math.isfinite(rule.threshold) and rule.mask(same).sum() > 0
    flat = [PoseTemplate(label, torch.full((3, 64, 64), 0.5), None, None) for label in ("front", "back")]
    answers = PoseClassifier(extractor, flat, ClassifierConfig(template_copies=0))(torch.rand(2, 3, 64, 64))
    assert torch.isfinite(answers).all()


def test_a_picture_without_object_is_all_object() -> None:
    rule = ForegroundRule(torch.tensor([1.0, 0.0]), 0.5)
    assert rule.mask(torch.zeros(1, PATCHES**2, 2)).min() == 1
