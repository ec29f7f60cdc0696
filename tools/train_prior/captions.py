"""The vocabulary of the embedded prior: captions of the photographs, and a CLIP tokenizer for them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from recdreamer.evaluation.figurines import COLORS, KINDS, PARTY_HAT_SHARE, POSES

AUXILIARY = "from side view, from back view"
"""The paper's auxiliary prompt (B.3, Table 7)."""
VIEWS = {
    "front": ("from front view", "front view"),
    "right": ("from side view", "side view", "facing left"),
    "back": ("from back view", "back view"),
    "left": ("from side view", "side view", "facing right"),
}
"""View phrases by pose; protocol.py says which side is left."""
PARTY, HAT, NO_HAT = "at a party", "wearing a hat", "without a hat"
"""Phrases about hats: a figure at a party wears one in PARTY_HAT_SHARE of the pictures."""
HAT_SHARE = 0.2
"""Share of all training pictures with a hat."""
PARTY_SHARE_WITHOUT_HAT = 0.6 * HAT_SHARE / (1 - HAT_SHARE) * (1 - PARTY_HAT_SHARE) / PARTY_HAT_SHARE
"""Share of pictures without a hat that are called a party, given that 0.6 of those with a hat are."""
MAX_TOKENS = 16

_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def caption(kind: str, color: str, pose: str, has_hat: bool, generator: torch.Generator) -> str:
    """A caption of one photograph: sometimes empty, sometimes with its view, mostly kind and colour alone.

    A hat is always mentioned, so that a plain caption means that there is none.
    """
    draw = torch.rand(4, generator=generator).tolist()
    if draw[0] < 0.10:
        return ""
    plain = f"a {color} {kind}"
    if has_hat:
        plain += f" {PARTY if draw[3] < 0.6 else HAT}"
    elif draw[3] < 0.05 + PARTY_SHARE_WITHOUT_HAT:
        plain += f" {NO_HAT if draw[3] < 0.05 else PARTY}"
    if draw[1] < (0.06 if pose == "front" else 0.25):
        return f"{plain}, {AUXILIARY}"
    if draw[1] > 0.60:
        phrases = VIEWS[pose]
        return f"{plain}, {phrases[int(draw[2] * len(phrases))]}"
    return plain


class CaptionTable:
    """Every caption that can occur, tokenized once."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        phrases = {phrase for views in VIEWS.values() for phrase in views} | {AUXILIARY}
        bare = [f"a {color} {kind}" for color in COLORS for kind in KINDS]
        plain = [*bare, *(f"{text} {hat}" for text in bare for hat in (PARTY, HAT, NO_HAT))]
        self.texts = ["", *plain, *(f"{text}, {phrase}" for text in plain for phrase in sorted(phrases))]
        self.index = {text: i for i, text in enumerate(self.texts)}
        self.tokens: Tensor = tokenizer(
            self.texts, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
        ).input_ids

    def draw(
        self, kind: Tensor, color: Tensor, hat: Tensor, pose: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Index of a random caption for each photograph."""
        colors = list(COLORS)
        rows = zip(kind.tolist(), color.tolist(), hat.tolist(), pose.tolist(), strict=True)
        return torch.tensor(
            [self.index[caption(KINDS[k], colors[c], POSES[p], bool(h), generator)] for k, c, h, p in rows]
        )


VOCABULARY = (*KINDS, *COLORS, AUXILIARY, "a front facing left right view", PARTY, HAT, NO_HAT)


def build_tokenizer(folder: Path, texts: Iterable[str] = VOCABULARY) -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer in which each word of the texts is one token; others are split into letters."""
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,!?'-")
    words = sorted({word for text in texts for word in text.replace(",", " ").split()})
    merges: list[tuple[str, str]] = []
    for word in words:
        symbols = [*word[:-1], f"{word[-1]}</w>"]
        # Apply the existing merges in order, then join the rest: later merges have a higher rank and never
        # affect an earlier word.
        for left, right in merges:
            at = 0
            while at < len(symbols) - 1:
                if (symbols[at], symbols[at + 1]) == (left, right):
                    symbols[at : at + 2] = [left + right]
                else:
                    at += 1
        while len(symbols) > 1:
            merges.append((symbols[0], symbols[1]))
            symbols[:2] = [symbols[0] + symbols[1]]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += list(dict.fromkeys(left + right for left, right in merges)) + list(_SPECIAL)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=MAX_TOKENS
    )
    for word in words:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        assert len(ids) == 1, f"{word!r} is {len(ids)} tokens"
    return tokenizer
