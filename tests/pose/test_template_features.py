"""Features of templates: augmented, seeded by the picture, kept by content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.figurines import Figurines, render_figurines
from recdreamer.pose import template_features as module
from recdreamer.pose.features import FeatureExtractor
from recdreamer.pose.perturbation import jittered_color, moved
from recdreamer.pose.template_features import template_features


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor()


@pytest.fixture(scope="module")
def images() -> Tensor:
    row = torch.zeros(3, dtype=torch.long)
    cameras = orbit_cameras(torch.tensor([0.0, 90.0, 180.0]), torch.full((3,), 10.0), 4.0, 30.0)
    return render_figurines(Figurines.of(row, row), cameras, 64, torch.full((3, 3), 0.8))


def test_replacing_one_template_leaves_the_others(extractor: FeatureExtractor, images: Tensor) -> None:
    before = template_features(extractor, images, 4, seed=0)
    after = template_features(extractor, torch.stack((images[0], images[2].flip(-1), images[2])), 4, seed=0)
    assert torch.equal(before.cls[0], after.cls[0]) and torch.equal(before.patches[2], after.patches[2])
    assert not torch.allclose(before.cls[1], after.cls[1], atol=1e-3)


def test_the_seed_matters_a_little(extractor: FeatureExtractor, images: Tensor) -> None:
    one, other = (template_features(extractor, images[:1], 8, seed=seed).cls[0] for seed in (0, 1))
    assert 0.97 < torch.dot(one, other) < 0.9999


def test_what_was_computed_is_taken_from_the_cache(
    extractor: FeatureExtractor, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = template_features(extractor, images, 2, 0, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3

    def fail(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "_average", fail)
    again = template_features(extractor, images, 2, 0, tmp_path)
    assert torch.equal(first.cls, again.cls) and torch.equal(first.patches, again.patches)
    for other in ({"copies": 3}, {"seed": 1}):
        with pytest.raises(AssertionError, match="computed again"):
            template_features(extractor, images, **{"copies": 2, "seed": 0, "cache": tmp_path} | other)


def test_another_model_finds_nothing(
    extractor: FeatureExtractor, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template_features(extractor, images, 0, 0, tmp_path)
    monkeypatch.setattr(extractor, "fingerprint", "another")
    template_features(extractor, images, 0, 0, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


@pytest.mark.parametrize(
    "damaged",
    [
        b"nothing",
        save({"other": torch.zeros(1)}),
        save({"cls": torch.tensor(torch.nan), "patches": torch.ones(1)}),
    ],
)
def test_a_damaged_file_is_made_again(
    damaged: bytes, extractor: FeatureExtractor, images: Tensor, tmp_path: Path
) -> None:
    first = template_features(extractor, images[:1], 1, 0, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(damaged)
    assert torch.equal(template_features(extractor, images[:1], 1, 0, tmp_path).cls, first.cls)
    assert path.stat().st_size > 1000


def test_old_files_go(
    extractor: FeatureExtractor, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    for age, image in enumerate(images[:2]):
        before = set(tmp_path.iterdir())
        template_features(extractor, image[None], 0, 0, tmp_path)
        (made,) = set(tmp_path.iterdir()) - before
        os.utime(made, (age + 1, age + 1))
    template_features(extractor, images[:1], 0, 0, tmp_path)  # Asked for again, so it is the newest now.
    template_features(extractor, images[2:], 0, 0, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and made not in tmp_path.iterdir()


def test_grey_copies_are_grey_and_their_brightness_stays() -> None:
    images = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    grey = jittered_color(images, torch.Generator().manual_seed(1), grey_share=1.1)
    assert (grey.amax(1) - grey.amin(1)).max() < 1e-6
    colored = jittered_color(images, torch.Generator().manual_seed(1), grey_share=-1.0)
    assert torch.allclose(colored.mean(1), images.mean(1), atol=1e-6)
    assert not torch.allclose(colored, images, atol=0.01)


def test_moving_keeps_the_size_and_repeats_the_border() -> None:
    image = torch.full((4, 3, 16, 16), 0.3)
    assert torch.allclose(moved(image, torch.Generator().manual_seed(0)), image)
    spot = torch.zeros(1, 3, 17, 17)
    spot[..., 8, 8] = 1
    still = moved(spot, torch.Generator().manual_seed(0), max_shift=0.0, max_scale=1.0, max_shear=0.0)
    assert torch.allclose(still, spot, atol=1e-5)
