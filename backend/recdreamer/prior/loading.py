"""Shared by all pretrained models: one sentence when loading fails, and the preparation of pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import diffusers.utils.logging
import torch
import transformers.utils.logging
from jaxtyping import Float
from torch import Tensor, nn

from recdreamer.report import JobError
from recdreamer.shared.safe_files import printable, reason_of

PREPROCESSOR = "preprocessor_config.json"
BUILTIN_FOLDER = Path(__file__).parents[1] / "builtin" / "prior"


def quieten() -> None:
    """Keep progress bars and hints of the libraries out of a command's output."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


@contextmanager
def loading(kind: str, name: str, what: str, hint: str) -> Iterator[None]:
    """Turn whatever the libraries raise while they load a model into JobError(kind, …)."""
    try:
        yield
    except (JobError, MemoryError):
        raise
    except Exception as error:  # Any damage to a model is one thing.
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise JobError(
            kind, f"'{printable(name)}' is not {what} that can be loaded ({reason_of(error)}).", hint
        ) from error


class Preprocessing(nn.Module):
    """Resizes and normalizes pictures in [0, 1] to a model's input, with gradient."""

    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path, resampling: Literal["bilinear", "bicubic"]) -> None:
        super().__init__()
        prepare = json.loads((folder / PREPROCESSOR).read_text(encoding="utf-8"))
        size = prepare.get("crop_size") or prepare["size"]
        # Older files hold a plain number.
        self.size_px: int = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
        self.resampling = resampling
        self.register_buffer("mean", torch.tensor(prepare["image_mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(prepare["image_std"])[:, None, None])

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        if images.shape[-2:] != (self.size_px, self.size_px):
            images = nn.functional.interpolate(
                images,
                (self.size_px, self.size_px),
                mode=self.resampling,
                antialias=True,
                align_corners=False,
            )
        return (images - self.mean) / self.std
