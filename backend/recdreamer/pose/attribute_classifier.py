"""Classifiers of any attribute: CLIP with a text for each class (paper, Fig. 15), or a trained image classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, CLIPModel, CLIPTokenizer

from recdreamer.catalog.locate import located
from recdreamer.pose.perturbation import averaged_logits
from recdreamer.prior.loading import Preprocessing, loading
from recdreamer.shared.protocol import RequestError

BUILTIN_FOLDER = Path(__file__).parents[1] / "builtin" / "clip"
COPIES, NOISE = 2, 0.06
"""Perturbed copies of each classified picture, and their noise, as in the pose classifier."""


class AttributeClassifier(nn.Module):
    """p(c|x) for pictures x in [0, 1], differentiable, each picture independently."""

    texts: Tensor

    def __init__(self, name: str, classes: Mapping[str, str]) -> None:
        """`classes` maps each label to its text (CLIP), or to the name of one of the model's own classes.

        `name` is "builtin", a folder, or a model that is installed or cached, such as "clip". Raises
        JobError if it cannot be loaded, RequestError if `classes` does not fit.
        """
        super().__init__()
        if len(classes) < 2:
            raise RequestError(
                f"The attribute has {len(classes)} class(es).", "Give two or more, each with a text."
            )
        self.labels = tuple(classes)
        folder = located(name, "classifier", BUILTIN_FOLDER).path
        hint = "Download the model again, or choose another."
        with loading("classifier", name, "an image classifier", hint):
            self.prepare = Preprocessing(folder, "bicubic")
            self.is_clip = AutoConfig.from_pretrained(folder, local_files_only=True).model_type == "clip"
            kind: Any = CLIPModel if self.is_clip else AutoModelForImageClassification
            self.model = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
            texts = self._text_features(folder, list(classes.values())) if self.is_clip else torch.empty(0)
        self.model.requires_grad_(False).eval()
        self.register_buffer("texts", texts)
        self.columns = [] if self.is_clip else self._columns(name, classes)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Log-probabilities of the classes. With a generator, averaged over perturbed copies."""
        return averaged_logits(self._logits, images, generator, COPIES, NOISE).log_softmax(-1)

    def _logits(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        if not self.is_clip:
            return self.model(pixel_values=self.prepare(images)).logits[:, self.columns]
        return self.model.logit_scale.exp() * self.image_features(images) @ self.texts.T

    def image_features(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """CLIP's unit vectors of pictures, whose products with `texts` are cosines."""
        seen = self.model.vision_model(pixel_values=self.prepare(images)).pooler_output
        return nn.functional.normalize(self.model.visual_projection(seen), dim=-1)

    @torch.no_grad()
    def _text_features(self, path: Path, texts: list[str]) -> Float[Tensor, "classes width"]:
        tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        length = self.model.config.text_config.max_position_embeddings
        tokens = tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        found = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return nn.functional.normalize(self.model.text_projection(found.pooler_output), dim=-1)

    def _columns(self, name: str, classes: Mapping[str, str]) -> list[int]:
        known = {str(label): int(index) for index, label in self.model.config.id2label.items()}
        missing = [own for own in classes.values() if own not in known]
        if missing:
            raise RequestError(
                f"{name!r} has no class {missing[0]!r}.", f"Its classes are: {', '.join(list(known)[:20])}."
            )
        return [known[own] for own in classes.values()]
