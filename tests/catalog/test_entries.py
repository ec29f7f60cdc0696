"""The catalog is complete, and what it says can be checked where a check is possible."""

from __future__ import annotations

import gzip
import hashlib
import re

import pytest

from recdreamer.catalog.entries import entries, entry_of
from recdreamer.catalog.headers import PICKLES
from recdreamer.catalog.single_file import CONFIGURATIONS
from recdreamer.config import GenerateConfig
from recdreamer.presets import stable_diffusion
from recdreamer.shared.protocol import JobRequest


@pytest.mark.parametrize("name", entries())
def test_an_entry_is_complete(name: str) -> None:
    entry = entries()[name]
    assert entry.id == name and entry.title and entry.about.endswith(".") and entry.sources
    for file in entry.files:
        assert file.size > 0 and ".." not in file.path and not file.path.endswith(PICKLES)
        assert re.fullmatch(r"|[0-9a-f]{64}", file.sha256)
        assert not entry.verified or file.sha256 or file.size < 10**6
    for source in entry.sources:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repo)
        assert source.revision == "main" or re.fullmatch(r"[0-9a-f]{40}", source.revision)
    assert all(entry_of(repo) is entry for repo in entry.repositories)
    assert set(entry.needs) <= set(entries())


@pytest.mark.parametrize("name", entries())
def test_its_license_comes_with_its_text(name: str) -> None:
    license = entries()[name].license
    assert license.url.startswith("https://") and len(license.text) > 1000
    assert license.must_accept == ("Use Restrictions" in license.text)


def test_image_models_come_with_what_usd_needs() -> None:
    for entry in entries().values():
        if entry.kind == "prior":
            assert {entries()[name].kind for name in entry.needs} == {"extractor", "decoder"}


def test_what_the_presets_name_is_in_the_catalog() -> None:
    config: GenerateConfig = stable_diffusion(JobRequest("a red bear", prior="stable-diffusion"))
    for name, kind in (
        (config.extractor, "extractor"),
        (config.rectifier.attribute_classifier, "classifier"),
    ):
        entry = entry_of(name)
        assert entry is not None and entry.kind == kind


def test_the_list_of_merges_is_the_one_that_the_models_come_with() -> None:
    content = gzip.decompress((CONFIGURATIONS / "clip_merges.txt.gz").read_bytes())
    listed = {
        (file.size, file.sha256)
        for entry in entries().values()
        for file in entry.files
        if file.path == "tokenizer/merges.txt"
    }
    assert listed == {(len(content), hashlib.sha256(content).hexdigest())}


def test_the_recommended_model_is_one_of_the_catalog() -> None:
    entry = entry_of("stable-diffusion")
    assert entry is not None and entry.kind == "prior" and {"dinov2-small", "taesd"} <= set(entry.needs)
