"""Captions of the animals: by kind, coat and sometimes view; view words are right part of the time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import CLIPTokenizer

from recdreamer.evaluation.animals import COATS, KINDS, POSE_SHARES, POSES, VIEW_SHARE, VIEW_TRUTH
from recdreamer.shared.worlds import described

from captions import AUXILIARY, VIEWS

EMPTY_SHARE = 0.10
"""Share of captions without a word, for guidance."""
KIND_SHARE = 0.15
"""Share of captions that leave the coat out."""
AUXILIARY_SHARE = 0.3
"""Share of the views named other than the front that are called by the auxiliary prompt."""

PHRASES = ["", *dict.fromkeys(phrase for pose in POSES for phrase in VIEWS[pose]), AUXILIARY]
"""What follows kind and coat; the first is nothing."""
VOCABULARY = (*map(described, KINDS), *COATS, AUXILIARY, "a front facing left right view")


class AnimalCaptions:
    """Every caption of these looks, tokenized once."""

    def __init__(self, looks: Sequence[tuple[str, str]], tokenizer: CLIPTokenizer) -> None:
        self.names = list(dict.fromkeys(["", *map(described, KINDS), *(described(*look) for look in looks)]))
        self.texts = [f"{name}, {phrase}" if phrase else name for name in self.names for phrase in PHRASES]
        self.tokens: Int[Tensor, "captions tokens"] = tokenizer(
            self.texts, padding="max_length", return_tensors="pt"
        ).input_ids
        assert self.tokens.shape[1] == tokenizer.model_max_length
        row = {name: i for i, name in enumerate(self.names)}
        self._full = torch.tensor([row[described(*look)] for look in looks])
        self._kind = torch.tensor([row[described(kind)] for kind, _ in looks])

    def plain(self, looks: Int[Tensor, "pictures"]) -> Int[Tensor, "pictures"]:
        """Rows of the captions of kind and coat alone."""
        return self._full[looks] * len(PHRASES)

    def draw(
        self, looks: Int[Tensor, "pictures"], poses: Int[Tensor, "pictures"], generator: torch.Generator
    ) -> Int[Tensor, "pictures"]:
        """A random caption for each picture; index into `texts`.

        Whether a view is named, and whether truly, does not depend on what the picture shows: so the pictures
        without a view have the bias that is stated, and those with one have it obeyed as often as is stated.
        """
        count = len(looks)
        draw = torch.rand(count, 6, generator=generator)
        names = torch.where(draw[:, 0] < KIND_SHARE, self._kind[looks], self._full[looks])
        names = torch.where(draw[:, 1] < EMPTY_SHARE, 0, names)
        shares = torch.tensor([POSE_SHARES[pose] for pose in POSES])
        others = shares.multinomial(count, replacement=True, generator=generator)
        said = torch.where(draw[:, 2] < VIEW_TRUTH, poses, others)
        phrases = torch.zeros(count, dtype=torch.long)
        for index, pose in enumerate(POSES):
            rows = torch.tensor([PHRASES.index(phrase) for phrase in VIEWS[pose]])
            chosen = rows[(draw[:, 3] * len(rows)).long()]
            phrases = torch.where(said == index, chosen, phrases)
        is_auxiliary = (draw[:, 4] < AUXILIARY_SHARE) & (said != POSES.index("front"))
        phrases = torch.where(is_auxiliary, len(PHRASES) - 1, phrases)
        is_named = (draw[:, 5] < VIEW_SHARE) & (names > 0)
        return names * len(PHRASES) + torch.where(is_named, phrases, 0)
