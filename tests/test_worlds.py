"""The embedded worlds: what their names mean, in jobs and in sentences."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recdreamer.catalog.locate import located
from recdreamer.device import choose_dtype
from recdreamer.evaluation import animals
from recdreamer.evaluation.figurines import COLORS, KINDS
from recdreamer.presets import ANIMAL_CAMERAS, resolve
from recdreamer.prior.loading import BUILTIN_FOLDER
from recdreamer.prior.words import ReadPrompt, doubts
from recdreamer.report import JobError
from recdreamer.shared.protocol import JobRequest
from recdreamer.shared.worlds import ANIMALS, DEFAULT_WORLD, EMBEDDED, WORLDS, world_of


def test_builtin_means_the_default_world() -> None:
    assert world_of("builtin") == DEFAULT_WORLD
    assert located("builtin", "prior", BUILTIN_FOLDER) == located(DEFAULT_WORLD.name, "prior", BUILTIN_FOLDER)
    assert DEFAULT_WORLD.models(BUILTIN_FOLDER).is_dir()
    assert WORLDS["figurines"].models(BUILTIN_FOLDER) == BUILTIN_FOLDER == EMBEDDED / "prior"
    request = JobRequest("a red bear", prior="builtin")
    named = replace(request, prior=DEFAULT_WORLD.name)
    assert replace(resolve(named), prior="builtin") == resolve(request)


def test_the_worlds_know_what_they_are_trained_on() -> None:
    assert set(WORLDS["figurines"].looks) == set(KINDS)
    assert all(list(colors) == list(COLORS) for colors in WORLDS["figurines"].looks.values())
    assert set(ANIMALS) < set(animals.KINDS) and {c for coats in ANIMALS.values() for c in coats} <= set(
        animals.COATS
    )
    assert len(WORLDS["animals"].prompts) == len(set(WORLDS["animals"].prompts)) >= 80
    assert sum(animals.POSE_SHARES.values()) == pytest.approx(1)


def test_a_world_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError) as error:
        located("animals", "prior", tmp_path / "prior")
    assert error.value.message == "The image model of the animals is not part of this installation."
    assert "figurines" in error.value.hint


def test_a_world_stands_beside_the_default_one(tmp_path: Path) -> None:
    shutil.copytree(BUILTIN_FOLDER, tmp_path / "animals" / "prior")
    assert located("animals", "prior", tmp_path / "prior").path == tmp_path / "animals" / "prior"


def test_animals_are_made_from_their_own_cameras_with_their_own_extractor() -> None:
    config, figurines = (
        resolve(JobRequest("a gray elephant", prior=name)) for name in ("animals", "figurines")
    )
    assert (config.extractor, figurines.extractor) == ("animals", "builtin")
    assert config.cameras == ANIMAL_CAMERAS
    low, high = config.cameras.elevation_deg
    assert (low, high) == (0, 25)
    assert config.rectifier.attribute_classifier != "builtin", "the embedded one knows figurines alone"


def test_embedded_priors_are_small_enough_for_full_precision() -> None:
    cuda = torch.device("cuda")
    assert [choose_dtype(name, cuda) for name in ("builtin", "animals", "a/b")] == [
        torch.float32, torch.float32, torch.bfloat16,
    ]  # fmt: skip


def test_each_world_says_what_it_knows() -> None:
    read = ReadPrompt("a cute lion", unknown=("cute",))
    assert "elephants, horses" in doubts(read, "animals") and "robots" in doubts(read, "figurines")
    assert "It knows" not in doubts(read, "a/b")
