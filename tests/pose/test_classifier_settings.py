"""The settings of the pose classifier: each is handed on, and does what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier, score_logits
from recdreamer.pose.features import PATCHES, FeatureExtractor, Features
from recdreamer.pose.foreground import horizontal_map
from recdreamer.pose.templates import PoseTemplate


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractor:
    """Small and random; pictures of 32 pixels."""
    folder = tmp_path_factory.mktemp("extractor")
    torch.manual_seed(1)
    config = Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=4
    )
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "size": {"height": 32, "width": 32}})
    )
    return FeatureExtractor(str(folder))


def classifier_of(extractor: FeatureExtractor, cache: Path | None = None, **settings) -> PoseClassifier:
    generator = torch.Generator().manual_seed(0)
    templates = [
        PoseTemplate(label, torch.rand(3, 32, 32, generator=generator), None, None)
        for label in ("front", "right", "back")
    ]
    config = ClassifierConfig(**{"template_copies": 0} | settings)
    return PoseClassifier(extractor, templates, config, cache=cache)


def queries() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def seen_by(extractor: FeatureExtractor, call) -> list[Tensor]:
    """The batches that the extractor sees during a call."""
    seen: list[Tensor] = []
    hook = extractor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        call()
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("copies", [1, 3])
def test_query_copies_are_what_the_extractor_sees_of_each_query(
    extractor: FeatureExtractor, copies: int
) -> None:
    classifier = classifier_of(extractor, query_copies=copies)
    (batch,) = seen_by(extractor, lambda: classifier(queries(), torch.Generator().manual_seed(0)))
    assert len(batch) == 2 * copies
    (plain,) = seen_by(extractor, lambda: classifier(queries()))
    assert torch.equal(plain, queries()), "without random numbers, as it is"


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_query_noise_is_the_noise_on_the_copies(extractor: FeatureExtractor, noise: float) -> None:
    def batch(of: float) -> Tensor:
        classifier = classifier_of(extractor, query_copies=20, query_noise=of)
        return seen_by(extractor, lambda: classifier(queries(), torch.Generator().manual_seed(0)))[0]

    added = (batch(noise) - batch(0.0)).flatten(1).std(dim=1)
    # The deviation of each copy is uniform in [0, noise].
    assert added.mean().item() == pytest.approx(noise / 2, rel=0.3) and added.max() <= 1.1 * noise


@pytest.mark.parametrize("copies", [0, 2])
def test_template_copies_are_what_the_extractor_sees_of_each_template(
    extractor: FeatureExtractor, copies: int
) -> None:
    """Each template, twice as many copies of it (unmoved and moved), and all of them once more, plain and blurred."""
    batches = seen_by(extractor, lambda: classifier_of(extractor, template_copies=copies))
    assert [len(batch) for batch in batches] == [1, copies, copies] * 3 + [6] if copies else [1] * 3 + [6]


@pytest.mark.parametrize(
    ("normalization", "wanted"),
    [("released", [1.2, 0.8]), ("paper", [1.2, 0.8]), ("centered", [2.0, 0.0])],
)
def test_temperature_divides_the_logits(normalization: str, wanted: list[float]) -> None:
    """0.6 and 0.4 by a temperature of ½; centred: less 0.4, in margins of 0.2."""
    config = ClassifierConfig(normalization=normalization, temperature=0.5)
    logits = score_logits(torch.tensor([[0.6, 0.4]]), config, torch.tensor([0.4, 0.4]), torch.tensor(0.2))
    assert logits[0].tolist() == pytest.approx(wanted)


def test_a_temperature_flattens_what_the_classifier_says(extractor: FeatureExtractor) -> None:
    """Differences of log-probabilities are as many times larger as the temperature is lower."""
    sharp, flat = (classifier_of(extractor, temperature=t)(queries()) for t in (0.02, 0.2))
    gaps = [log_probs[:, 0] - log_probs[:, 1] for log_probs in (sharp, flat)]
    assert gaps[1].abs().max() > 1e-3 and torch.allclose(gaps[0], 10 * gaps[1], rtol=1e-3)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 5.0])
def test_patch_temperature_is_that_of_the_match(extractor: FeatureExtractor, temperature: float) -> None:
    """A template of two patches, one at distance 0.6 of every query patch and one at 1.2, at the two ends."""
    classifier = classifier_of(extractor, patch_temperature=temperature)
    axes = torch.eye(3)
    cosines = [1 - distance**2 / 2 for distance in (0.6, 1.2)]
    patches = torch.stack([c * axes[0] + (1 - c**2) ** 0.5 * axes[1] for c in cosines])
    classifier.template_patches = patches[None]
    classifier.template_mask, classifier.template_places = torch.ones(1, 2), torch.tensor([[0.0, 1.0]])
    mask = torch.ones(1, PATCHES**2)
    features = Features(axes[:1], axes[0].expand(1, PATCHES**2, 3).contiguous())
    found = classifier.displacement(features, mask)
    near, far = torch.tensor([-0.6, -1.2]).div(temperature).softmax(0)
    places = horizontal_map(mask)
    wanted = near * places.abs() + far * (places - 1).abs()
    assert torch.allclose(found[:, 0], wanted, atol=1e-4)


def test_the_side_of_the_extractors_input_is_a_setting(tmp_path: Path) -> None:
    """560 pixels are 40 x 40 patches of DINOv2, brought to the same map of 16 x 16."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 4,
    }
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "size": {"height": 32, "width": 32}}'
    )
    trained, larger = FeatureExtractor(str(tmp_path)), FeatureExtractor(str(tmp_path), 66)
    assert (trained.prepare.size_px, larger.prepare.size_px) == (32, 64), "whole patches"
    picture = torch.rand(1, 3, 64, 64)
    shapes = {extractor(picture).patches.shape for extractor in (trained, larger)}
    assert shapes == {(1, 256, 16)}
    assert not torch.allclose(trained(picture).cls, larger(picture).cls, atol=1e-3)
    assert trained.fingerprint != larger.fingerprint
