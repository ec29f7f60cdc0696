"""Prompt debiasing: the rule on a table, and a real masked language model of a few weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from recdreamer.distillation.debiasing import DIRECTIONS, PromptDebiaser
from recdreamer.report import JobError

TABLE = {
    # p(side, front, back, overhead | prompt), by the words that are left
    "a smiling red bear": (0.2, 0.5, 0.2, 0.1),
    "smiling red bear": (0.2, 0.5, 0.2, 0.1),
    "a red bear": (0.3, 0.25, 0.3, 0.15),
    "a smiling bear": (0.2, 0.5, 0.18, 0.12),
    "a smiling red": (0.22, 0.47, 0.2, 0.11),
}


class Table(PromptDebiaser):
    """The rule without a language model."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def view_probs(self, prompt: str) -> dict[str, float]:
        self.asked.append(prompt)
        return dict(zip(DIRECTIONS, TABLE[prompt], strict=True))


def test_words_that_make_a_view_unlikely_are_left_out() -> None:
    """p / (½ p + ½ p_without) below 0.95 by hand.

    Without "smiling" 0.2/0.25 = 0.8 for side and back and 0.1/0.125 = 0.8 for overhead, but 1.33 for front; without
    "red" 0.1/0.11 = 0.91 for overhead, 1.05 for back; without "bear" 0.2/0.21 = 0.952 for side and overhead, so kept.
    """
    assert Table().reduced("a smiling red bear") == {
        "side": "a red bear", "front": "a smiling red bear", "back": "a red bear", "overhead": "a bear",
    }  # fmt: skip


def test_only_named_words_may_go() -> None:
    debiaser = Table()
    reduced = debiaser.reduced("a smiling red bear", ("red",))
    assert reduced["overhead"] == "a smiling bear" and reduced["side"] == "a smiling red bear"
    assert debiaser.asked == ["a smiling red bear", "a smiling bear"]


def test_a_prompt_of_one_word_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "bear", (0.1, 0.7, 0.1, 0.1))
    assert Table().reduced("bear") == dict.fromkeys(DIRECTIONS, "bear")


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BertForMaskedLM with its tokenizer, as a folder of safetensors."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    folder = tmp_path_factory.mktemp("masked_lm")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *DIRECTIONS]
    names += ["this", "image", "is", "depicting", "a", "view", "of", "smiling", "red", "bear"]
    BertTokenizer(vocab={name: index for index, name in enumerate(names)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(names), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, initializer_range=1.0,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder, safe_serialization=True)
    assert (folder / "model.safetensors").is_file()
    return folder


def test_a_language_model_is_loaded_and_asked_for_the_masked_word(masked_lm: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    debiaser = PromptDebiaser(str(masked_lm))
    probs = debiaser.view_probs("a red bear")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(masked_lm),
        AutoModelForMaskedLM.from_pretrained(masked_lm),
    )
    tokens = [
        "[CLS]",
        "this",
        "image",
        "is",
        "depicting",
        "a",
        "[MASK]",
        "view",
        "of",
        "a",
        "red",
        "bear",
        "[SEP]",
    ]
    ids = tokenizer.convert_tokens_to_ids(tokens)
    with torch.no_grad():
        odds = model.eval()(torch.tensor([ids])).logits[0, tokens.index("[MASK]")].exp()
    odds = odds[[tokenizer.get_vocab()[direction] for direction in DIRECTIONS]]
    assert list(probs.values()) == pytest.approx((odds / odds.sum()).tolist(), abs=1e-6)
    assert sum(probs.values()) == pytest.approx(1, abs=1e-6)
    for view, reduced in debiaser.reduced("a smiling red bear").items():
        assert set(reduced.split()) <= {"a", "smiling", "red", "bear"} and view in DIRECTIONS


@pytest.mark.parametrize("content", ["missing", "empty", "other_model", "no_weights"])
def test_a_wrong_folder_is_one_sentence(content: str, tmp_path: Path, masked_lm: Path) -> None:
    folder = tmp_path / "model"
    if content != "missing":
        folder.mkdir()
    if content == "other_model":
        (folder / "config.json").write_text('{"model_type": "clip"}')
    if content == "no_weights":
        for file in masked_lm.iterdir():
            if file.suffix != ".safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(JobError) as caught:
        PromptDebiaser(str(folder))
    assert caught.value.kind == "masked_lm"
    message = caught.value.message
    assert str(folder) in message and "is not a masked language model that can be loaded" in message
    assert "\n" not in message and message.endswith(".") and len(message) < 500
    assert "guidance.masked_lm" in caught.value.hint


def test_a_cached_model_is_found_by_its_name_and_a_folder_in_quotes(
    masked_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early repositories have no owner in their names."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    shutil.copytree(masked_lm, tmp_path / "models--bert-base-uncased" / "snapshots" / "0123")
    for name in ("bert-base-uncased", f'"{masked_lm}"'):
        assert sum(PromptDebiaser(name).view_probs("a red bear").values()) == pytest.approx(1, abs=1e-6)
    with pytest.raises(JobError, match="it has no name"):
        PromptDebiaser(" ")
