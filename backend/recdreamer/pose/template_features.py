"""Features of templates, averaged over augmented copies, and cached, because jobs reuse templates."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from recdreamer.pose import perturbation
from recdreamer.pose.features import FeatureExtractor, Features
from recdreamer.shared.protocol import write_atomically

MAX_KEPT = 200
NOISE = 0.12
"""Largest standard deviation of the noise on the copies."""


def template_features(
    extractor: FeatureExtractor,
    images: Float[Tensor, "templates 3 s s"],
    copies: int,
    seed: int,
    cache: Path | None = None,
) -> Features:
    """Unit features averaged over each picture and `copies` augmented ones (paper, B.1.4).

    The class token is averaged over noise, affine maps, greys and jittered colours; copies for the patches are not
    moved, so that places stay. The picture's content seeds its copies, so that replacing one template does not change
    the others. With a `cache` folder, features are looked up there by the content of picture and model.
    """
    found = [_of_one(extractor, image, copies, seed, cache) for image in images]
    return Features(
        torch.stack([features["cls"] for features in found]),
        torch.stack([features["patches"] for features in found]),
    )


def _of_one(
    extractor: FeatureExtractor, image: Float[Tensor, "3 s s"], copies: int, seed: int, cache: Path | None
) -> dict[str, Tensor]:
    digest = hashlib.sha256(image.float().cpu().numpy().tobytes())
    content_seed = (seed + int.from_bytes(digest.digest()[:6])) % 2**63
    if cache is None:
        return _average(extractor, image, copies, content_seed)
    # The code of the augmentation is part of the key, so that changing it invalidates the cache.
    for code in (perturbation.__file__, __file__):
        digest.update(Path(code).read_bytes())
    digest.update(f"{extractor.fingerprint}, {copies}, {seed}".encode())
    path = cache / f"{digest.hexdigest()}.safetensors"
    try:
        kept = load_file(path, device=str(image.device))
        if {"cls", "patches"} - set(kept) or not all(tensor.isfinite().all() for tensor in kept.values()):
            raise ValueError("expected finite features")
        with suppress(OSError):
            os.utime(path)
        return kept
    except (OSError, ValueError, SafetensorError):
        made = _average(extractor, image, copies, content_seed)
        with suppress(OSError):  # The job can go on without a writable cache.
            cache.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save({name: tensor.contiguous() for name, tensor in made.items()}))
            _prune(cache)
        return made


@torch.no_grad()
def _average(
    extractor: FeatureExtractor, image: Float[Tensor, "3 s s"], copies: int, seed: int
) -> dict[str, Tensor]:
    generator = torch.Generator(device=image.device).manual_seed(seed)
    plain = extractor(image[None])
    cls, patches = plain.cls, plain.patches
    if copies:
        same = image.expand(copies, -1, -1, -1)
        colored = perturbation.jittered_color(
            perturbation.perturbed(same, generator, NOISE, max_shift=0), generator
        )
        moved = perturbation.moved(
            perturbation.jittered_color(
                perturbation.perturbed(same, generator, NOISE, max_shift=0), generator
            ),
            generator,
        )
        unmoved, elsewhere = extractor(colored), extractor(moved)
        cls = torch.cat((cls, unmoved.cls, elsewhere.cls))
        patches = torch.cat((patches, unmoved.patches))
    return {"cls": F.normalize(cls.mean(0), dim=-1), "patches": F.normalize(patches.mean(0), dim=-1)}


def _prune(cache: Path) -> None:
    """Delete the least recently used entries."""
    kept = list(cache.glob("*.safetensors"))
    if len(kept) > MAX_KEPT:
        with suppress(OSError):  # Another job may prune at the same time.
            for path in sorted(kept, key=lambda path: path.stat().st_mtime)[:-MAX_KEPT]:
                path.unlink(missing_ok=True)
