"""Shared by all pretrained models: one sentence when loading fails, and the preparation of pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import diffusers.utils.logging
import torch
import transformers.utils.logging
from jaxtyping import Float
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from recdreamer.paths import given_path
from recdreamer.report import JobError
from recdreamer.safe_files import printable, reason_of

PREPROCESSOR = "preprocessor_config.json"
BUILTIN_FOLDER = Path(__file__).parents[1] / "builtin" / "prior"
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"}
"""Suffixes of weights that are never loaded: unpickling runs what the file says."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
NOT_HERE = "it is no folder, and no model of that name has been downloaded"


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
        reason = NOT_HERE if type(error).__name__ == "LocalEntryNotFoundError" else reason_of(error)
        raise JobError(
            kind, f"'{printable(name)}' is not {what} that can be loaded ({reason}).", hint
        ) from error


def model_source(name: str, builtin: Path | None = None) -> str:
    """Where a model is loaded from: the folder `builtin` for "builtin", another folder, or an id of the local cache.

    Raises ValueError with the reason why a path is no model.
    """
    if name == "builtin" and builtin is not None:
        return str(builtin)
    if not name.strip():  # Which would be the working folder.
        raise ValueError("it has no name")
    path = given_path(name)
    if path.is_dir():
        if not any(path.rglob("*.safetensors")) and (pickles := sorted(_pickles(path))):
            raise ValueError(
                f"its weights, {pickles[0].name}, are a pickle, which can run programs; save them as safetensors"
            )
        return str(path)
    if path.is_file():
        if path.suffix.lower() in PICKLES:
            raise ValueError("it is a pickle, which can run programs and is never loaded")
        raise ValueError("it is a single file; convert it to a folder in the format of diffusers")
    if not HUB_ID.fullmatch(str(path)) or str(path).startswith("."):
        raise ValueError("there is no such folder")
    return str(path)


def _pickles(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in PICKLES)


def model_folder(name: str, builtin: Path) -> Path:
    """Folder of a model with a preprocessor; `name` is "builtin", a folder, or an id from the local cache.

    Ids are resolved here, because the models' loaders would query the network for adapters.
    """
    source = model_source(name, builtin)
    return Path(str(cached_file(source, PREPROCESSOR, local_files_only=True))).parent


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
