"""Embedded models in half precision load as before."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from recdreamer.pose.attribute_classifier import BUILTIN_FOLDER as CLIP_FOLDER
from recdreamer.pose.attribute_classifier import AttributeClassifier
from recdreamer.pose.features import BUILTIN_FOLDER as EXTRACTOR_FOLDER
from recdreamer.pose.features import FeatureExtractor
from recdreamer.prior.diffusion import BUILTIN_FOLDER, DiffusionPrior

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "train_prior"))
from halve import halve


@pytest.fixture
def halved(tmp_path: Path) -> Path:
    for folder in (BUILTIN_FOLDER, EXTRACTOR_FOLDER, CLIP_FOLDER):
        shutil.copytree(folder, tmp_path / folder.name)
    before = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert halve(tmp_path) == 5 and halve(tmp_path) == 0
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) < 0.52 * before
    return tmp_path


def test_all_loaders_compute_in_single_precision(halved: Path) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    tokens = [FeatureExtractor(name)(images).cls for name in ("builtin", str(halved / "extractor"))]
    assert tokens[1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(*tokens).min() > 0.9999
    texts = {"hat": "a red bear wearing a hat", "bare": "a red bear without a hat"}
    classifiers = [AttributeClassifier(name, texts) for name in ("builtin", str(halved / "clip"))]
    assert classifiers[1].model.dtype == torch.float32
    shares = [classifier(images) for classifier in classifiers]
    assert torch.allclose(*shares, atol=5e-3)
    priors = [DiffusionPrior.load(name, "cpu", torch.float32) for name in ("builtin", str(halved / "prior"))]
    samples = [
        prior.sample(["a red bear"], torch.Generator().manual_seed(1), num_steps=3) for prior in priors
    ]
    assert priors[1].unet.dtype == torch.float32 and torch.allclose(*samples, atol=0.02)
