"""Diffusers' layers with fused operations, and with the layout that convolutions like from end to end.

Stable Diffusion's networks change between channels-first and channels-last some 870 times in a step as they are. Here
group normalization, attention and the transformers' ends keep the layout. Same weights, same results.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from recdreamer.prior.fused import add, geglu, group_norm

WIDEST_HEAD = 256
"""Wider attention heads fall to a kernel of torch that is 20 times slower than matrix products."""


class Unbiased(nn.Conv2d):
    """A convolution whose bias its block adds, where it passes over the memory anyway."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, None)


class FastResnetBlock(ResnetBlock2D):
    """A residual block without resampling, whose norms, activations and sums are fused."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        hidden, shift = self.conv1(group_norm(input_tensor, self.norm1, True)), _bias(self.conv1)
        if self.time_emb_proj is not None:
            assert temb is not None
            shift = shift + self.time_emb_proj(self.nonlinearity(temb))
        hidden, shift = self.conv2(group_norm(hidden, self.norm2, True, shift)), _bias(self.conv2)
        if self.conv_shortcut is None:
            return add(hidden, input_tensor, shift)
        return add(hidden, self.conv_shortcut(input_tensor), shift + _bias(self.conv_shortcut))

    @staticmethod
    def exchange(block: ResnetBlock2D) -> None:
        """Make a block one of these, in place."""
        block.__class__ = FastResnetBlock
        for conv in (block.conv1, block.conv2, block.conv_shortcut):
            if conv is not None:
                conv.__class__ = Unbiased

    @staticmethod
    def fits(block: ResnetBlock2D) -> bool:
        """Whether a block is as in Stable Diffusion."""
        return (
            isinstance(block.nonlinearity, nn.SiLU)
            and block.upsample is None
            and block.downsample is None
            # The decoder of an autoencoder says "group", and has no time.
            and (block.time_embedding_norm == "default" or block.time_emb_proj is None)
            and not block.skip_time_act
            and block.output_scale_factor == 1.0
            and all(
                conv is None or (type(conv) is nn.Conv2d and conv.bias is not None)
                for conv in (block.conv1, block.conv2, block.conv_shortcut)
            )
        )


class FastTransformer(Transformer2DModel):
    """A transformer on the places of a picture that neither enters nor leaves its layout."""

    def _operate_on_continuous_inputs(self, hidden_states: Tensor) -> tuple[Tensor, int]:
        hidden = group_norm(hidden_states, self.norm, False)
        if self.use_linear_projection:
            return self.proj_in(_as_tokens(hidden)), hidden.shape[1]
        hidden = self.proj_in(hidden)
        return _as_tokens(hidden), hidden.shape[1]

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:  # fmt: skip
        if self.use_linear_projection:
            return _as_pictures(self.proj_out(hidden_states), height, width) + residual
        return self.proj_out(_as_pictures(hidden_states, height, width)) + residual


class FastGeglu(GEGLU):
    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return geglu(self.proj(hidden_states))


class GroupNormThenSilu(nn.GroupNorm):
    """The norm at the end of a network, with the activation that follows."""

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self, True)


class OneWideHead:
    """Self-attention of the autoencoder by matrix products: its only head is as wide as the network.

    The weights of a picture are a matrix of places × places, in the network's precision: 32 MiB at Stable Diffusion's
    size.
    """

    def __call__(
        self, attn: Any, hidden_states: Float[Tensor, "batch c h w"], encoder_hidden_states: None = None,
        attention_mask: None = None, temb: Tensor | None = None,
    ) -> Float[Tensor, "batch c h w"]:  # fmt: skip
        """Diffusers looks at the names of these arguments, and warns of any that it cannot pass."""
        height, width = hidden_states.shape[-2:]
        tokens = _as_tokens(group_norm(hidden_states, attn.group_norm, False))
        query, key, value = attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens)
        weights = torch.softmax(query @ (key.transpose(1, 2) * attn.scale), dim=-1)
        found = _as_pictures(attn.to_out[0](weights @ value), height, width)
        return (found + hidden_states) / attn.rescale_output_factor

    @staticmethod
    def fits(attn: Any) -> bool:
        """Whether a layer is such a head, on pictures, with nothing else to it."""
        return (
            attn.heads == 1
            and attn.to_q.out_features > WIDEST_HEAD
            and attn.group_norm is not None
            and attn.spatial_norm is None
            and attn.residual_connection
            and not attn.is_cross_attention
        )


class JoinedProjections:
    """Attention of tokens, with one projection for queries, keys and values, or for the keys and values of a text.

    Diffusers' own also divides by one, which is a pass over memory.
    """

    def __call__(
        self, attn: Any, hidden_states: Float[Tensor, "batch places c"],
        encoder_hidden_states: Float[Tensor, "batch tokens width"] | None = None, attention_mask: None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "batch places c"]:  # fmt: skip
        if encoder_hidden_states is None:
            parts = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            parts = attn.to_q(hidden_states), *attn.to_kv(encoder_hidden_states).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in parts)
        found = F.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](found.transpose(1, 2).flatten(2))

    @staticmethod
    def fits(attn: Any) -> bool:
        """Whether the projections of a layer are of one size, and there is nothing else to it."""
        widths = {layer.out_features for layer in (attn.to_q, attn.to_k, attn.to_v)}
        others = (
            attn.group_norm,
            attn.spatial_norm,
            attn.norm_cross,
            attn.norm_q,
            attn.norm_k,
            attn.add_k_proj,
        )
        return (
            type(attn.processor) is AttnProcessor2_0
            and len(widths) == 1
            and not any(other for other in others)
            and not attn.residual_connection
            and attn.rescale_output_factor == 1.0
        )


def speed_up(network: nn.Module) -> None:
    """Exchange the layers of a frozen network of diffusers for these, in place, wherever they fit.

    The projections of attention are joined: one matrix product instead of three.
    """
    # Loose types, because diffusers' own annotations are wrong.
    modules: list[Any] = list(network.modules())
    for module in modules:
        # Their classes alone: weights, names and hooks stay.
        if type(module) is ResnetBlock2D and FastResnetBlock.fits(module):
            FastResnetBlock.exchange(module)
        elif type(module) is Transformer2DModel and module.is_input_continuous:
            module.__class__ = FastTransformer
        elif type(module) is GEGLU:
            module.__class__ = FastGeglu
        elif type(module) is Attention and OneWideHead.fits(module):
            module.set_processor(OneWideHead())  # pyright: ignore[reportArgumentType]
        elif type(module) is Attention and JoinedProjections.fits(module):
            _join(module)
        norm, activation = (getattr(module, name, None) for name in ("conv_norm_out", "conv_act"))
        if type(norm) is nn.GroupNorm and isinstance(activation, nn.SiLU):
            norm.__class__ = GroupNormThenSilu
            module.conv_act = nn.Identity()


def _join(attn: Any) -> None:
    """One projection for queries, keys and values, or for the keys and values of a text; the parts become views."""
    attn.fuse_projections()
    joint: nn.Linear = attn.to_kv if attn.is_cross_attention else attn.to_qkv
    joint.requires_grad_(False)
    parts = [attn.to_k, attn.to_v] if attn.is_cross_attention else [attn.to_q, attn.to_k, attn.to_v]
    for name, whole in joint.named_parameters():
        for part, rows in zip(parts, whole.chunk(len(parts)), strict=True):
            part.get_parameter(name).data = rows.data
    attn.set_processor(JoinedProjections())  # pyright: ignore[reportArgumentType]


def _bias(conv: nn.Conv2d) -> Float[Tensor, "1 c"]:
    assert conv.bias is not None
    return conv.bias[None]


def _as_tokens(pictures: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch places c"]:
    return pictures.permute(0, 2, 3, 1).flatten(1, 2)


def _as_pictures(
    tokens: Float[Tensor, "batch places c"], height: int, width: int
) -> Float[Tensor, "batch c {height} {width}"]:
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)
