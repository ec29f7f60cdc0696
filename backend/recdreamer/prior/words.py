"""Which words of a prompt a loaded tokenizer reads. The rules are in prompt_words.py, which the add-on shares."""

from __future__ import annotations

from typing import Any

from recdreamer.catalog.locate import located
from recdreamer.prior.loading import BUILTIN_FOLDER, loading
from recdreamer.prior.pipeline import tokenizer_of
from recdreamer.shared.prompt_words import PromptReader, Read, ReadPrompt, doubts

__all__ = ["Read", "ReadPrompt", "Words", "doubts"]


class Words(PromptReader):
    """The words of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """A CLIPTokenizer."""
        self.tokenizer = tokenizer
        super().__init__(
            lambda text: tokenizer(text, add_special_tokens=False, verbose=False).input_ids,
            tokenizer.unk_token_id,
            len(tokenizer),
            tokenizer.model_max_length - 2,
        )

    @staticmethod
    def load(prior: str) -> Words:
        """The words of a prior by its name, without the model. Raises JobError."""
        model = located(prior, "prior", BUILTIN_FOLDER)
        with loading("prior", prior, "a Stable Diffusion model", "Choose another model."):
            return Words(tokenizer_of(model))
