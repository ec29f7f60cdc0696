"""Which words of a prompt a text encoder reads: it has room for few tokens, and does not know every word."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recdreamer.catalog.locate import located
from recdreamer.prior.loading import BUILTIN_FOLDER, loading
from recdreamer.prior.pipeline import tokenizer_of
from recdreamer.safe_files import printable
from recdreamer.worlds import world_of

SMALL_VOCABULARY = 1000
"""Tokenizers with fewer tokens know whole words and letters only: words that they split mean nothing to their model."""
WORD = re.compile(r"[^\W\d_]+|[^\w\s]|\d")
ARTICLES = {"a", "an", "the"}
MAX_NAMED = 8
"""Words that a sentence names."""
ENDS = " \t,;:.-"


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as the encoder reads it."""

    text: str
    """What is left of it; the prompt itself if there is room for all of it."""
    left_out: tuple[str, ...] = ()
    """Words for which there is no room, in the order of the prompt."""
    unknown: tuple[str, ...] = ()
    """Words that the model does not know, whether they are left out or spelled by letters."""
    knows_none: bool = False
    """The model knows no word of the prompt."""
    room: int = 0
    """Tokens that the encoder has room for."""


Read = Callable[[str, Sequence[str]], ReadPrompt]
"""Reads a prompt in front of endings."""


class Words:
    """The words of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """A CLIPTokenizer."""
        self.tokenizer = tokenizer
        self.room: int = tokenizer.model_max_length - 2
        """Tokens of a prompt, without the two that mark its ends."""

    @staticmethod
    def load(prior: str) -> Words:
        """The words of a prior by its name, without the model. Raises JobError."""
        model = located(prior, "prior", BUILTIN_FOLDER)
        with loading("prior", prior, "a Stable Diffusion model", "Choose another model."):
            return Words(tokenizer_of(model))

    def shortened(self, prompt: str, endings: Sequence[str] = ()) -> ReadPrompt:
        """The prompt as far as there is room for it in front of each ending ("back view"), which is never cut.

        Unknown words go first, those of the most tokens before others, then the last words.
        """
        unknown = tuple(dict.fromkeys(word for word in WORD.findall(prompt) if self.is_unknown(word)))
        words = [word for word in WORD.findall(prompt) if word.isalnum() and word.lower() not in ARTICLES]
        knows_none = bool(prompt.strip()) and not any(word not in unknown for word in words)
        if self._fits(prompt, endings):
            return ReadPrompt(prompt, (), unknown, knows_none, self.room)
        given = prompt.split()
        counts = dict(enumerate(map(self._count, given)))
        room = self.room - max((self._count(f", {ending}") for ending in endings if ending), default=0)
        spelled = [
            place for place in sorted(counts, key=lambda at: -counts[at]) if self._is_spelled(given[place])
        ]
        for place in (*spelled, *reversed(range(len(given)))):
            if len(counts) == 1 or sum(counts.values()) <= room:
                break
            counts.pop(place, None)
        text = " ".join(given[place] for place in sorted(counts)).rstrip(ENDS)
        left_out = [word.strip(ENDS) for place, word in enumerate(given) if place not in counts]
        if not self._fits(text, endings):
            left_out.append(text)
            while text and not self._fits(text, endings):  # A single word, which is no word.
                text = text[: len(text) // 2]
        return ReadPrompt(text, tuple(left_out), unknown, knows_none, self.room)

    def is_unknown(self, word: str) -> bool:
        """The model has no token for this word or sign: it is spelled by letters, or not seen at all."""
        if word.lower() in ARTICLES:
            return False
        tokens = self.tokenizer(word, add_special_tokens=False, verbose=False).input_ids
        if not tokens or self.tokenizer.unk_token_id in tokens:
            return True
        if not word.isalpha():
            return False
        is_split = len(tokens) > 1
        return is_split and (len(self.tokenizer) < SMALL_VOCABULARY or len(tokens) >= len(word))

    def _is_spelled(self, text: str) -> bool:
        """All words in it are unknown."""
        return all(
            self.is_unknown(word) for word in WORD.findall(text) if word.isalpha() or not word.isascii()
        )

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _fits(self, prompt: str, endings: Sequence[str]) -> bool:
        return all(
            self._count(f"{prompt}, {ending}" if ending else prompt) <= self.room for ending in (*endings, "")
        )


def doubts(read: ReadPrompt, prior: str) -> str:
    """What the artist should know of how a prompt is read, or nothing."""
    lines, world = [], world_of(prior)
    who = "built-in model" if world else "model"
    if read.knows_none:
        lines.append(f"The {who} knows none of the words of the prompt.")
    elif read.unknown:
        lines.append(f"The {who} does not know {_named(read.unknown)}.")
    if lines and world:
        lines.append(world.knows)
    elif lines:
        lines.append("Describe the object in English.")
    if read.left_out:
        verb = "is" if len(read.left_out) == 1 else "are"
        lines.append(
            f"The prompt is longer than the {read.room} tokens that the {who} reads: {_named(read.left_out)} {verb} left "
            "out."
        )
    return " ".join(lines)


def _named(words: Iterable[str]) -> str:
    """
    >>> _named(["shiny", "cute"])
    '“shiny” and “cute”'
    """
    shown = [f"“{printable(word)[:40]}”" for word in words]
    if len(shown) > MAX_NAMED:
        shown = [*shown[:MAX_NAMED], f"{len(shown) - MAX_NAMED} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
