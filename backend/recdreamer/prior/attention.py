"""Cross-attention maps of given pictures: the places that a pretrained model associates with the prompt."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recdreamer.prior.diffusion import DiffusionPrior

CHUNK = 4


class QueriesAndKeys:
    """Records the queries and keys of each cross-attention, whichever processor computes it."""

    def __init__(self, unet: nn.Module) -> None:
        self.of: dict[str, dict[str, Tensor]] = {}
        self.handles = []
        modules: list[tuple[str, Any]] = list(unet.named_modules())
        for name, module in modules:
            if name.endswith("attn2"):
                # Fast layers have one projection for keys and values; the keys come first.
                keys, store = getattr(module, "to_kv", module.to_k), self.of.setdefault(name, {})
                for part, layer, width in (
                    ("to_q", module.to_q, module.to_q.out_features), ("to_k", keys, module.to_k.out_features)
                ):  # fmt: skip
                    self.handles.append(
                        layer.register_forward_hook(
                            lambda _, __, output, store=store, part=part, width=width: store.update(
                                {part: output[..., :width]}
                            )
                        )
                    )
        self.heads: dict[str, Any] = {name: unet.get_submodule(name).heads for name in self.of}

    def __enter__(self) -> QueriesAndKeys:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def maps(self, name: str) -> Float[Tensor, "batch places tokens"]:
        """Attention map of a module, averaged over its heads."""
        query, key = (
            self.of[name][part].float().unflatten(-1, (self.heads[name], -1)) for part in ("to_q", "to_k")
        )
        logits = torch.einsum("bphd,bthd->bhpt", query, key) / query.shape[-1] ** 0.5
        return logits.softmax(-1).mean(1)


@torch.no_grad()
def attention_to_prompt(
    prior: DiffusionPrior,
    images: Float[Tensor, "batch 3 height width"],
    prompt: str,
    side: int,
    generator: torch.Generator,
    t: int = 300,
) -> Float[Tensor, "batch places"]:
    """How much each of side × side places attends to the meaningful tokens of the prompt, averaged over all layers.

    The pictures, in [0, 1], are first noised to timestep `t`. (Paper, B.1.3. The released code takes as many tokens
    as the prompt has words, including an article, which attracts the background in the embedded prior.)
    """
    text, has_meaning = prior.encode_text([prompt]), prior.has_meaning(prompt)
    # In small chunks: at Stable Diffusion's size the encoder's activations would not fit otherwise.
    chunks = images.split(CHUNK)
    return torch.cat([_attention(prior, few, text, has_meaning, side, generator, t) for few in chunks])


def _attention(
    prior: DiffusionPrior,
    images: Float[Tensor, "batch 3 height width"],
    text: Float[Tensor, "1 tokens features"],
    has_meaning: Bool[Tensor, "tokens"],
    side: int,
    generator: torch.Generator,
    t: int,
) -> Float[Tensor, "batch places"]:
    latents = prior.encode(images)
    t_batch = torch.full((len(images),), t, device=prior.device)
    eps = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents)
    latents_t = prior.schedule.add_noise(latents, eps, t_batch)
    with QueriesAndKeys(prior.unet) as seen:
        prior.eps(latents_t, t_batch, text.expand(len(images), -1, -1))
    height, width = latents.shape[-2:]
    found = []
    for name in seen.of:
        of_meaning = seen.maps(name)[..., has_meaning].sum(-1)
        scale = round((height * width / of_meaning.shape[-1]) ** 0.5)
        grid = of_meaning.unflatten(-1, (height // scale, width // scale))[:, None]
        found.append(F.interpolate(grid, (side, side), mode="bilinear", align_corners=False).flatten(1))
    return torch.stack(found).mean(0)
