"""Which words of a prompt a text encoder reads: it has room for few tokens, and does not know every word.

Standard library only, and shared with the add-on like protocol.py: the panel says before a job what the job will say.
"""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from .protocol import USD_METHODS
from .safe_files import printable
from .worlds import DEFAULT_WORLD, EMBEDDED, world_of

SMALL_VOCABULARY = 1000
"""Tokenizers with fewer tokens know whole words and letters only: words that they split mean nothing to their model."""
WORD = re.compile(r"[^\W\d_]+|[^\w\s]|\d")
ARTICLES = {"a", "an", "the"}
MAX_NAMED = 8
"""Words that a sentence names."""
ENDS = " \t,;:.-"
UNKNOWN = "<|endoftext|>"
CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
CLIP_TOKENS = 77
VIEW_WORDS = ("front view", "side view", "back view", "overhead view")
BUILTIN_VIEW_WORDS = ("from front view", "facing left", "from back view", "facing right")
CLOSE_UP_WORDS = "close-up, highly detailed"
PACKAGE = Path(__file__).parents[1]


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


class PromptReader:
    """Reads prompts with the tokens of a model."""

    def __init__(
        self, tokens: Callable[[str], Sequence[object]], unknown: object, size: int, room: int
    ) -> None:
        """`tokens` splits a text, `unknown` is the token of what has none, `size` is the number of all tokens, and `room`
        how many of them a prompt may have, without the two that mark its ends."""
        self._tokens = tokens
        self._unknown = unknown
        self._is_small = size < SMALL_VOCABULARY
        self.room = room

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
        tokens = self._tokens(word)
        if not tokens or self._unknown in tokens:
            return True
        if not word.isalpha():
            return False
        is_split = len(tokens) > 1
        return is_split and (self._is_small or len(tokens) >= len(word))

    def _is_spelled(self, text: str) -> bool:
        """All words in it are unknown."""
        return all(
            self.is_unknown(word) for word in WORD.findall(text) if word.isalpha() or not word.isascii()
        )

    def _count(self, text: str) -> int:
        return len(self._tokens(text))

    def _fits(self, prompt: str, endings: Sequence[str]) -> bool:
        return all(
            self._count(f"{prompt}, {ending}" if ending else prompt) <= self.room for ending in (*endings, "")
        )


def usual_endings(method: str, is_builtin: bool) -> tuple[str, ...]:
    """What the presets put behind a prompt, for whoever does not know the settings of a job.

    >>> usual_endings("usd", False)[:2]
    ('from side view, from back view', 'front view')
    """
    if is_builtin:
        return BUILTIN_VIEW_WORDS if method in ("perp_neg", "debiased_sds", "consdreamer") else ("",)
    if method in USD_METHODS:
        return ("from side view, from back view", *VIEW_WORDS, CLOSE_UP_WORDS)
    return (*VIEW_WORDS, *(f"{CLOSE_UP_WORDS}, {view}" for view in VIEW_WORDS))


def doubts(read: ReadPrompt, model: str) -> str:
    """What the artist should know of how a model reads a prompt, or nothing."""
    lines, world = [], world_of(model)
    who = "built-in model" if world else "model"
    if read.knows_none:
        lines.append(f"The {who} knows none of the words of the prompt.")
    elif read.unknown:
        lines.append(f"The {who} does not know {_named(read.unknown)}.")
    if lines and world:
        lines.append(world.knows)
    elif lines:
        lines.append("Describe the object in English.")
    if left_out := dict.fromkeys(read.left_out):
        lines.append(
            f"The prompt is longer than the {read.room} tokens that the {who} reads: "
            f"{_named(left_out)} {'is' if len(left_out) == 1 else 'are'} left out."
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


class BytePairs:
    """The tokens of a CLIP tokenizer, without the library that a job uses: byte pairs, merged by rank."""

    def __init__(self, merges: Iterable[tuple[str, str]], vocabulary: Iterable[str] | None = None) -> None:
        """`vocabulary` has all tokens if not every byte has one."""
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known = None if vocabulary is None else frozenset(vocabulary)
        self._letters = letters_of_bytes()
        self._of_word: dict[str, list[str]] = {}

    def tokens(self, text: str) -> list[str]:
        """
        >>> clip().tokens("A red bear's")
        ['a</w>', 'red</w>', 'bear</w>', "'s</w>"]
        """
        text = " ".join(unicodedata.normalize("NFC", text).split()).lower()
        return [token for word in _words(text) for token in self._merged(word)]

    def _merged(self, word: str) -> list[str]:
        if word in self._of_word:
            return self._of_word[word]
        parts = [self._letters[byte] for byte in word.encode("utf-8", "replace")]
        parts[-1] += "</w>"
        if self._known is not None:
            parts = [part if part in self._known else UNKNOWN for part in parts]
        while len(parts) > 1:
            pairs = [(self._ranks.get(pair, len(self._ranks)), at) for at, pair in enumerate(pairwise(parts))]
            rank, at = min(pairs)
            if rank == len(self._ranks):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        self._of_word[word] = parts
        return parts


def _words(text: str) -> Iterator[str]:
    """Runs of letters, single digits, runs of other signs, and English contractions, as CLIP splits a text."""
    at = 0
    while at < len(text):
        if contraction := CONTRACTION.match(text, at):
            yield contraction[0]
            at = contraction.end()
            continue
        kind = _kind(text[at])
        end = at + 1
        while kind in "LS" and end < len(text) and _kind(text[end]) == kind:
            end += 1
        if kind != " ":
            yield text[at:end]
        at = end


def _kind(letter: str) -> str:
    """L: a letter, N: a number, S: a sign, or a space."""
    if letter.isspace():
        return " "
    category = unicodedata.category(letter)[0]
    return category if category in "LN" else "S"


def letters_of_bytes() -> dict[int, str]:
    """A printable character for each byte, as byte-level BPE writes text, in the order of vocabularies."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + at) for at, byte in enumerate(others)}


@cache
def clip() -> BytePairs:
    """The tokens of every Stable Diffusion 1.x and 2.x."""
    packed = (PACKAGE / "catalog/configurations/clip_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    return BytePairs(tuple(line.split()) for line in lines[1:])  # type: ignore[misc]


@cache
def reader(is_builtin: bool) -> PromptReader:
    """Reads prompts as the built-in model does, or as Stable Diffusion 1.x and 2.x do, without loading them."""
    if not is_builtin:
        return PromptReader(clip().tokens, UNKNOWN, len(clip()._ranks), CLIP_TOKENS - 2)
    folder = DEFAULT_WORLD.models(EMBEDDED / "prior") / "tokenizer"
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    length = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]
    pairs = BytePairs(map(tuple, model["merges"]), model["vocab"])
    return PromptReader(pairs.tokens, UNKNOWN, len(model["vocab"]), length - 2)
