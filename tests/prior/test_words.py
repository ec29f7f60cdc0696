"""Which words of a prompt are read: none is lost without a word, and views are never cut."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import pytest
import torch

from recdreamer.config import StepName
from recdreamer.presets import resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.pipeline import clip_tokenizer
from recdreamer.prior.prompts import VIEWS
from recdreamer.prior.words import Words, doubts
from recdreamer.report import JobError
from recdreamer.shared import prompt_words
from recdreamer.shared.protocol import JobFolder, JobRequest, Method
from recdreamer.shared.worlds import DEFAULT_WORLD, described
from recdreamer.stages.guidance import endings, prepare_guide, prepare_prompts, prompt_doubts

VIEW_WORDS = ("from front view", "facing left", "from back view")


@pytest.fixture(scope="module")
def words() -> Words:
    return Words.load("builtin")


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return DiffusionPrior.load("builtin", "cpu", torch.float32)


@pytest.mark.parametrize(
    ("prompt", "read", "left_out"),
    [
        ("a red bear", "a red bear", ()),
        ("A  Red BEAR!!", "A  Red BEAR!!", ()),
        ("a cute bear", "a cute bear", ()),
        ("a photorealistic red bear", "a red bear", ("photorealistic",)),
        ("a red bear, highly detailed, photorealistic", "a red bear, highly", ("detailed", "photorealistic")),
        ("a red bear wearing a party hat, facing left, facing right, side view, back view",
         "a red bear wearing a party hat, facing", ("left", "facing", "right", "side", "view", "back", "view")),
        ("x" * 500, "x" * 7, ("x" * 500,)),
        ("", "", ()),
    ],
)  # fmt: skip
def test_unknown_words_give_way_to_known_ones_and_then_the_last(
    prompt: str, read: str, left_out: tuple[str, ...], words: Words
) -> None:
    found = words.shortened(prompt, VIEW_WORDS)
    assert (found.text, found.left_out) == (read, left_out)
    for ending in VIEW_WORDS:
        assert len(words.tokenizer(f"{found.text}, {ending}").input_ids) <= words.tokenizer.model_max_length


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a red bear", ""),
        ("the teal rabbit, wearing a party hat", "“the”"),
        ("a cute bear", "The built-in model does not know “cute”. It knows bears, birds"),
        ("🐻", "knows none of the words"),
        ("красный медведь", "knows none of the words"),
        ("赤い熊", "knows none of the words"),
        ("a red 熊", "does not know “熊”"),
        ("a photorealistic red bear", "longer than the 14 tokens that the built-in model reads: “photo"),
        ("a bear " + "big " * 20, "reads: “big” is left out"),
        ("a bear " + " ".join(f"word{letter}" for letter in "abcdefghij"), "and 2 more"),
        ("a red bear \x1b[31m\u202e", "\\x1b"),
    ],
)  # fmt: skip
def test_words_that_are_cut_or_unknown_are_reported(prompt: str, says: str, words: Words) -> None:
    found = doubts(words.shortened(prompt), "builtin")
    if says in ("", "“the”"):
        assert found == "", "articles and known words are nothing to speak of"
    else:
        assert says in found and found.isprintable() and len(found) < 700


def test_prompts_that_differ_in_their_nouns_have_different_embeddings(prior: DiffusionPrior) -> None:
    """The noun fell off the end, so that two jobs gave the same bear."""
    for adjective in ("photorealistic", "highly detailed", "beautiful little"):
        bear, bird = prior.encode_text([f"a {adjective} red bear", f"a {adjective} blue bird"])
        assert (bear - bird).abs().max() > 1, adjective
    assert prior.has_meaning("a photorealistic red bear").tolist() == prior.has_meaning("a red bear").tolist()


@pytest.mark.parametrize("prompt", ["a very beautiful red bear", "a photorealistic red bear", "x" * 60])
def test_every_view_of_a_long_prompt_is_a_prompt_of_its_own(prompt: str, prior: DiffusionPrior) -> None:
    guidance = resolve(JobRequest(prompt, method="perp_neg")).guidance
    assert len(set(endings(guidance))) >= 4
    found = prepare_prompts(prompt, guidance, prior)
    front, right, back, left, _ = found.views
    for one, other in ((front, back), (right, left), (front, right)):
        assert (one - other).abs().max() > 0.1
    assert len(found.views) == len(VIEWS)


def test_an_auxiliary_prompt_is_not_cut(prior: DiffusionPrior) -> None:
    request = JobRequest(
        "a photorealistic red bear", overrides={"guidance.auxiliary_prompt": "from back view"}
    )
    guidance = resolve(request).guidance
    found = prepare_prompts(request.prompt, guidance, prior).plain
    assert torch.equal(found, prior.encode_text(["a red bear, from back view"]))


def test_the_same_is_said_before_a_job_and_when_it_begins(prior: DiffusionPrior, tmp_path: Path) -> None:
    config = resolve(JobRequest("a photorealistic red bear", method="sds"))
    lines: list[str] = []
    prepare_guide(JobFolder(tmp_path), config, prior, lines.append)
    assert lines == [prompt_doubts(config)] and "“photorealistic” is left out" in lines[0]
    prepare_guide(JobFolder(tmp_path), resolve(JobRequest("a red bear", method="sds")), prior, lines.append)
    assert len(lines) == 1


# Where a model is


def test_a_prior_in_quotes_or_at_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recdreamer.prior.loading import BUILTIN_FOLDER

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my model").symlink_to(BUILTIN_FOLDER)
    for name in (f'"{tmp_path}/my model"', "'~/my model'", " ~/my model "):
        assert Words.load(name).shortened("a cute bear").unknown == ("cute",)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my.safetensors", "my.safetensors is not a .safetensors file"),
        (" ", "has no name"),
        ("my.ckpt", "a pickle (.ckpt), which can run any program"),
        ("MY.PT", "a pickle (.pt), which can run any program"),
        ("pickled", "has only pickles (pytorch_model.bin)"),
        ("gone", "There is no image model"),
        ("~/nowhere/at all", "There is no image model ~/nowhere/at all."),
        ("no/such-model", "is not on this machine"),
    ],
)
def test_the_reason_why_a_prior_is_refused_is_the_real_one(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("my.safetensors", "my.ckpt", "MY.PT", "pickled/pytorch_model.bin"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"cos\nsystem\n")
    source = name if "/" in name or not name.strip() else str(tmp_path / name)
    with pytest.raises(JobError) as caught:
        DiffusionPrior.load(source, "cpu", torch.float32)
    assert reason in caught.value.message and "\n" not in caught.value.message and caught.value.hint


@pytest.mark.parametrize("is_builtin", [True, False], ids=["builtin", "clip"])
def test_the_panel_reads_prompts_as_the_tokenizers_do(is_builtin: bool, words: Words) -> None:
    """The add-on has no tokenizer; its reader agrees with those of the jobs in every script and sign."""
    true = words if is_builtin else Words(clip_tokenizer("!"))
    reader, chance = prompt_words.reader(is_builtin), random.Random(0)
    signs = "abcdefghijklmnopqrstuvwxyz  ,.'-!?1234½²Ⅷé赤🐻\u0301\u200d_ßДع\t\n’"
    some = (
        "a",
        "the",
        "red",
        "bear",
        "photorealistic",
        "wooden",
        "chair",
        "don't",
        "it's",
        "highly-detailed",
        "4k",
    )
    cut = 0
    for number in range(400):
        prompt = "".join(chance.choices(signs, k=chance.randrange(60)))
        if number % 2:
            prompt = " ".join(chance.choices(some, k=chance.randrange(100)))
        found = reader.shortened(prompt, ["from side view, from back view"])
        assert found == true.shortened(prompt, ["from side view, from back view"]), prompt
        cut += bool(found.left_out)
    assert 20 < cut < 400


@pytest.mark.parametrize("prior", ["builtin", "other"])
@pytest.mark.parametrize("method", get_args(Method))
def test_the_panel_knows_what_the_presets_put_behind_a_prompt(prior: str, method: Method) -> None:
    config = resolve(JobRequest("a bear", method=method, prior=prior))
    guidances = [config.guidance, *(config.step(name).guidance for name in get_args(StepName))]
    behind = [ending for guidance in guidances for ending in endings(guidance)]
    assert prompt_words.usual_endings(method, prior == "builtin") == tuple(dict.fromkeys(behind))


def test_the_words_that_are_offered_are_known(words: Words) -> None:
    for thing, looks in DEFAULT_WORLD.looks.items():
        for look in looks:
            assert doubts(words.shortened(described(thing, look)), "builtin") == ""
            assert thing in DEFAULT_WORLD.knows and look in DEFAULT_WORLD.knows
