"""Classifiers of any attribute, on tiny models of the real classes, in the folders that the real ones come in."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    ViTConfig,
    ViTForImageClassification,
)

from recdreamer.evaluation.figurines import photograph
from recdreamer.pose.attribute_classifier import AttributeClassifier
from recdreamer.prior.diffusion import BUILTIN_FOLDER
from recdreamer.report import JobError
from recdreamer.shared.protocol import RequestError

WORDS = {"hat": "a red bear wearing a hat", "bare": "a red bear without a hat"}


def write_preprocessor(folder: Path, **size: int) -> None:
    prepare = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], **size}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepare))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(BUILTIN_FOLDER / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    model = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_preprocessor(folder, crop_size={"height": 32, "width": 32})
    return folder


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                       image_size=32, patch_size=8, id2label={0: "cat", 1: "hat", 2: "mat"})  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    write_preprocessor(folder, size={"height": 32, "width": 32})
    return folder


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_clip_answers_as_transformers_does(clip_folder: Path, images: torch.Tensor) -> None:
    found = AttributeClassifier(str(clip_folder), WORDS)(images)
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    tokens = tokenizer(list(WORDS.values()), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**tokens, pixel_values=(images - mean) / std).logits_per_image.log_softmax(-1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_trained_classifier_is_asked_for_the_named_classes_only(
    vit_folder: Path, images: torch.Tensor
) -> None:
    classifier = AttributeClassifier(str(vit_folder), {"on the head": "hat", "on the floor": "mat"})
    assert classifier.labels == ("on the head", "on the floor")
    model = ViTForImageClassification.from_pretrained(vit_folder)
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    with torch.no_grad():
        expected = model(pixel_values=(images - mean) / std).logits[:, [1, 2]].log_softmax(-1)
    assert torch.allclose(classifier(images), expected, atol=1e-5)


@pytest.mark.parametrize("folder", ["clip_folder", "vit_folder"])
def test_the_gradient_is_that_of_the_picture(
    folder: str, images: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    classes = WORDS if folder == "clip_folder" else {"a": "cat", "b": "hat"}
    classifier = AttributeClassifier(str(request.getfixturevalue(folder)), classes).double()
    images, towards = images.double().requires_grad_(), torch.randn(3, 3, 32, 32, dtype=torch.double)
    (grad,) = torch.autograd.grad(classifier(images)[:, 0].sum(), images)
    with torch.no_grad():
        ahead, behind = (classifier(images + step * towards)[:, 0].sum() for step in (1e-5, -1e-5))
    assert torch.allclose((grad * towards).sum(), (ahead - behind) / 2e-5, rtol=1e-5)
    assert all(not parameter.requires_grad for parameter in classifier.parameters())


def test_other_sizes_are_resampled_and_a_generator_perturbs(clip_folder: Path) -> None:
    classifier = AttributeClassifier(str(clip_folder), WORDS)
    images = torch.rand(2, 3, 64, 48)
    assert torch.allclose(classifier(images).exp().sum(1), torch.ones(2))
    seeded = [classifier(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])


def test_the_embedded_clip_tells_hats() -> None:
    photos = photograph(64, torch.Generator().manual_seed(4), hat_share=0.5)
    found = AttributeClassifier("builtin", {"bare": WORDS["bare"], "hat": WORDS["hat"]})(photos.images)
    assert (found.argmax(-1) == photos.hat).float().mean() > 0.9


def test_what_cannot_be_a_classifier_is_said_in_a_sentence(tmp_path: Path, vit_folder: Path) -> None:
    with pytest.raises(JobError, match="is not a classifier"):
        AttributeClassifier(str(tmp_path), WORDS)
    with pytest.raises(RequestError, match="1 class"):
        AttributeClassifier("builtin", {"hat": "a hat"})
    with pytest.raises(RequestError, match="no class 'wig'"):
        AttributeClassifier(str(vit_folder), {"a": "wig", "b": "cat"})
