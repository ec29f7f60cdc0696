"""Prompt debiasing of Debiased-SDS (Hong et al. 2023): remove words that contradict a view from its prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from recdreamer.catalog.locate import folder_of
from recdreamer.prior.loading import loading
from recdreamer.report import JobError

DIRECTIONS = ("side", "front", "back", "overhead")
THRESHOLD = 0.95
CURE = "Choose a folder with a model like bert-base-uncased, or clear guidance.masked_lm to clip scores only."


class PromptDebiaser:
    """A masked language model that rates how well a view fits a prompt."""

    def __init__(self, name: str) -> None:
        """Load a folder, or a model that is cached. Raises JobError if it cannot be loaded."""
        with loading("masked_lm", name, "a masked language model", CURE):
            folder = folder_of(name)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForMaskedLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
        unknown = [word for word in DIRECTIONS if self._id(word) == self.tokenizer.unk_token_id]
        if unknown or self.tokenizer.mask_token_id is None:
            # Without a vocabulary file, the library makes up an empty one.
            missing = ", ".join(unknown) or "a mask"
            raise JobError("masked_lm", f"The vocabulary of {name!r} lacks {missing}.", CURE)
        self.model.eval()

    def _id(self, word: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(word)

    @torch.no_grad()
    def view_probs(self, prompt: str) -> dict[str, float]:
        """Probability of each direction in "This image is depicting a [MASK] view of <prompt>", among the four."""
        text = f"This image is depicting a {self.tokenizer.mask_token} view of {prompt}"
        limit = self.model.config.max_position_embeddings
        inputs = self.tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
        place = (inputs.input_ids[0] == self.tokenizer.mask_token_id).nonzero()[0, 0]
        logits = self.model(**inputs).logits[0, place]
        ids = [self._id(word) for word in DIRECTIONS]
        return dict(zip(DIRECTIONS, logits[ids].softmax(-1).tolist(), strict=True))

    def reduced(self, prompt: str, candidates: Sequence[str] = ()) -> dict[str, str]:
        """The prompt of each direction without the words that make the direction unlikely.

        A word is removed if p(view | prompt) / (½ p(view | prompt) + ½ p(view | prompt without it)) < 0.95, which is
        threestudio's form of the paper's rule. `candidates` are the words that may be removed; none means all.
        """
        words, allowed = prompt.split(), {word.lower() for word in candidates}
        whole = self.view_probs(prompt)
        kept: dict[str, list[str]] = {view: [] for view in DIRECTIONS}
        for index, word in enumerate(words):
            may_go = len(words) > 1 and (not allowed or word.strip(",.;:!?").lower() in allowed)
            without = self.view_probs(" ".join(words[:index] + words[index + 1 :])) if may_go else whole
            for view in DIRECTIONS:
                if whole[view] / (0.5 * whole[view] + 0.5 * without[view]) >= THRESHOLD:
                    kept[view].append(word)
        return {view: " ".join(left) or prompt for view, left in kept.items()}
