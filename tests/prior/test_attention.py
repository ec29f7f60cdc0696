"""Cross-attention maps: those of the attention layers themselves, and large on the object."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.figurines import COLORS, KINDS, Figurines, render_figurines
from recdreamer.prior.attention import QueriesAndKeys, attention_to_prompt
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.fast_layers import speed_up

SIDE = 16


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return DiffusionPrior.load("builtin", "cpu", torch.float32)


def photos(kind: str, color: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Four views and their alpha."""
    row = torch.zeros(4, dtype=torch.long)
    figures = Figurines.of(row + KINDS.index(kind), row + list(COLORS).index(color))
    cameras = orbit_cameras(torch.tensor([0.0, 90.0, 180.0, 270.0]), torch.full((4,), 10.0), 4.0, 30.0)
    on = [render_figurines(figures, cameras, 64, torch.full((4, 3), grey)) for grey in (0.0, 0.8, 1.0)]
    return on[1], 1 - (on[2] - on[0]).mean(1)


@pytest.mark.parametrize(
    ("kind", "color"), [("bear", "red"), ("bird", "blue"), ("robot", "green"), ("rabbit", "teal")]
)
def test_attention_to_the_prompt_lies_on_the_object(prior: DiffusionPrior, kind: str, color: str) -> None:
    images, alpha = photos(kind, color)
    generator = torch.Generator().manual_seed(0)
    found = attention_to_prompt(prior, images, f"a {color} {kind}", SIDE, generator)
    alpha = torch.nn.functional.adaptive_avg_pool2d(alpha[:, None], SIDE).flatten(1)
    for one, truth in zip(found, alpha, strict=True):
        assert torch.corrcoef(torch.stack((one, truth)))[0, 1] > 0.6


def test_start_and_article_carry_no_meaning(prior: DiffusionPrior) -> None:
    assert prior.has_meaning("a red bear").tolist()[:3] == [False, False, True]
    assert prior.has_meaning("red bear").tolist()[:2] == [False, True]


@pytest.mark.parametrize(("prompt", "places"), [("a red bear", [2, 3]), ("red bear", [1, 2]), ("a", [2])])
def test_nothing_behind_the_words_counts(prior: DiffusionPrior, prompt: str, places: list[int]) -> None:
    """Neither the end nor the padding, which in CLIP's 77 tokens would outvote them; but in the priors that ship, whose
    attention to the words alone does not lie on the object."""
    assert prior.has_meaning(prompt)[places[0] :].all()
    assert replace(prior, padding_has_meaning=False).has_meaning(prompt).nonzero()[:, 0].tolist() == places


@pytest.mark.parametrize("processor", [AttnProcessor(), AttnProcessor2_0()])
def test_maps_are_those_of_the_layers_with_any_processor(prior: DiffusionPrior, processor: object) -> None:
    """The recorded map times the values is what the layer puts out before its last projection."""
    prior.unet.set_attn_processor(processor)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    layer = prior.unet.get_submodule(name)
    seen = {}
    hooks = [
        layer.to_v.register_forward_hook(lambda _, __, output: seen.update(value=output)),
        layer.to_out[0].register_forward_pre_hook(lambda _, inputs: seen.update(mixed=inputs[0])),
    ]
    with torch.no_grad(), QueriesAndKeys(prior.unet) as recorded:
        latents = torch.randn(2, prior.unet.config.in_channels, 16, 16)
        prior.eps(latents, torch.tensor([300, 300]), prior.encode_text(["a red bear", "a blue bird"]))
    for hook in hooks:
        hook.remove()
    query, key = (recorded.of[name][part].unflatten(-1, (layer.heads, -1)) for part in ("to_q", "to_k"))
    weights = (torch.einsum("bphd,bthd->bhpt", query, key) * layer.scale).softmax(-1)
    value = seen["value"].unflatten(-1, (layer.heads, -1))
    mixed = torch.einsum("bhpt,bthd->bphd", weights, value).flatten(2)
    assert torch.allclose(mixed, seen["mixed"], atol=1e-5)
    assert torch.allclose(recorded.maps(name), weights.mean(1), atol=1e-6)


def test_nothing_is_left_hooked(prior: DiffusionPrior) -> None:
    attention_to_prompt(prior, photos("bear", "red")[0], "a red bear", SIDE, torch.Generator().manual_seed(0))
    assert not any(module._forward_hooks for module in prior.unet.modules())


def test_maps_are_the_same_where_keys_and_values_are_one_projection() -> None:
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    images, _ = photos("bear", "red")
    maps = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(0)
        maps.append(attention_to_prompt(prior, images, "a red bear", SIDE, generator))
        speed_up(prior.unet)
    assert hasattr(prior.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2"), "to_kv")
    torch.testing.assert_close(*maps, atol=1e-5, rtol=1e-4)
