"""Features of templates, averaged over augmented copies, and kept: a template is seen again in the next job."""

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
from recdreamer.protocol import write_atomically

MAX_KEPT = 200
NOISE = 0.12
"""Deviation of the noise on the copies, at most."""


def template_features(
    extractor: FeatureExtractor,
    images: Float[Tensor, "templates 3 s s"],
    copies: int,
    seed: int,
    cache: Path | None = None,
) -> Features:
    """Unit features averaged over each picture and `copies` augmented ones (paper, B.1.4).

    Noise, affine maps, greys and jittered colours for the class token; patches are not moved, so that places
    stay. Copies are seeded by the picture itself: one that was replaced leaves those of the others alone. With a
    `cache` folder, features found there by the content of picture and model are taken from it.
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
    # The code of the augmentation is part of the key, so that a changed one finds nothing.
    for code in (perturbation.__file__, __file__):
        digest.update(Path(code).read_bytes())
    digest.update(f"{extractor.fingerprint}, {copies}, {seed}".encode())
    path = cache / f"{digest.hexdigest()}.safetensors"
    try:
        kept = load_file(path, device=str(image.device))
        with suppress(OSError):
            os.utime(path)
        return kept
    except (OSError, SafetensorError):
        made = _average(extractor, image, copies, content_seed)
        with suppress(OSError):  # A cache that cannot be written is no reason to stop.
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
            perturbation.perturbed(same, generator, NOISE, max_shift_px=0), generator
        )
        moved = perturbation.moved(
            perturbation.jittered_color(
                perturbation.perturbed(same, generator, NOISE, max_shift_px=0), generator
            ),
            generator,
        )
        unmoved, elsewhere = extractor(colored), extractor(moved)
        cls = torch.cat((cls, unmoved.cls, elsewhere.cls))
        patches = torch.cat((patches, unmoved.patches))
    return {"cls": F.normalize(cls.mean(0), dim=-1), "patches": F.normalize(patches.mean(0), dim=-1)}


def _prune(cache: Path) -> None:
    """Let go of those that were not asked for longest."""
    kept = list(cache.glob("*.safetensors"))
    if len(kept) > MAX_KEPT:
        with suppress(OSError):  # Another job may tidy up, too.
            for path in sorted(kept, key=lambda path: path.stat().st_mtime)[:-MAX_KEPT]:
                path.unlink(missing_ok=True)
