"""Low-rank updates of a frozen network's layers (Hu et al. 2021), switched on row by row of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recdreamer.prior.grad_scale import GradScale
from recdreamer.shared.protocol import RequestError

ALIGNED = 8
"""Ranks are filled up with zeros to a multiple of this: tensor cores take 16 bytes at once."""


@dataclass(frozen=True)
class _Site:
    """A layer whose output is updated, for one or several of the chosen layers."""

    layer: nn.Linear | nn.Conv2d
    parts: list[str]
    """Names of the chosen layers: this one, or those of a joint projection that have it in their place."""
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    """Of A and B, filled up, with those of the parts one below the other, and along the diagonal."""


class LowRankUpdates(nn.Module):
    """y = W x + g B A x in each of the chosen layers, with g = 1 in the rows that are updated, and 0 in the others.

    A row with g = 0 is exactly that of the frozen network, and passes no gradient on to A and B. All factors are one
    vector in float32, which the optimizer sees as one tensor; a forward pass works with them in the network's dtype.
    """

    values: nn.Parameter
    places: Tensor

    def __init__(self, network: nn.Module, rank: int, targets: tuple[str, ...], adapter: str) -> None:
        """The layers of `network` whose names end with one of `targets`: linear ones, and convolutions.

        A is drawn with a standard deviation of 1/rank, and B is zero. `adapter` is part of the names, which are those
        of peft. Raises RequestError if no layer has such a name, or one is of another kind.
        """
        super().__init__()
        layers, device = _layers(network, targets), next(network.parameters()).device
        slots = -(-rank // ALIGNED) * ALIGNED
        self.sites = _sites(network, layers, slots)
        sizes = [prod(shape) for site in self.sites for shape in site.shapes]
        begins = [0, *accumulate(sizes)]
        self.shapes: dict[str, tuple[int, ...]] = {}
        values, places = [], []
        for name, layer in layers.items():
            index = next(i for i, site in enumerate(self.sites) if name in site.parts)
            site = self.sites[index]
            first, (a, b), (_, number) = (
                slots * site.parts.index(name),
                _drawn(layer, rank),
                _joint(network, name),
            )
            in_a, in_b = (
                begin + torch.arange(prod(shape)).view(shape)
                for begin, shape in zip(begins[2 * index : 2 * index + 2], site.shapes, strict=True)
            )
            in_a, in_b = (
                in_a[first : first + rank],
                in_b[:, first : first + rank].narrow(0, number * len(b), len(b)),
            )
            for factor, matrix, where in (("A", a, in_a), ("B", b, in_b)):
                self.shapes[f"{name}.lora_{factor}.{adapter}.weight"] = tuple(matrix.shape)
                values.append(matrix.flatten())
                places.append(where.flatten())
        self.values = nn.Parameter(torch.cat(values).to(device))
        self.register_buffer("places", torch.cat(places).to(device), persistent=False)
        self._gated: _Gated | None = None
        for index, site in enumerate(self.sites):
            site.layer.register_forward_hook(partial(self._update, index))

    def named(self, tensor: Float[Tensor, "values"]) -> dict[str, Tensor]:
        """The part of each factor in a vector like `values`, by peft's names and in its shape; views."""
        parts = tensor.split([prod(shape) for shape in self.shapes.values()])
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def on(
        self, gate: Float[Tensor, "rows"] | None, dtype: torch.dtype, scale: GradScale | None = None
    ) -> AbstractContextManager[None]:
        """Update the rows where `gate` is 1 in forward passes inside; None updates all. `scale` is the pass's."""
        values = self.values if scale is None else scale.enter(self.values)
        return self._set(_Gated(None if gate is None else gate.to(dtype), self._factors(values, dtype)))

    def as_now(self) -> AbstractContextManager[None]:
        """Brings back the updates as they are now, for activations that are computed again later."""
        return self._set(self._gated)

    @contextmanager
    def _set(self, gated: _Gated | None) -> Iterator[None]:
        before, self._gated = self._gated, gated
        try:
            yield
        finally:
            self._gated = before

    def _factors(self, values: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """All factors in `dtype`, filled up. One copy for all of them, forward and backward."""
        shapes = [shape for site in self.sites for shape in site.shapes]
        sizes = [prod(shape) for shape in shapes]
        padded = self.values.new_zeros(sum(sizes), dtype=dtype)
        padded = padded.index_copy(0, self.places, values.to(dtype))
        return [part.view(shape) for part, shape in zip(padded.split(sizes), shapes, strict=True)]

    def _update(
        self, index: int, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        gated = self._gated
        if gated is None:
            return None
        (x,) = inputs
        a, b = gated.factors[2 * index : 2 * index + 2]
        if isinstance(layer, nn.Conv2d):
            return output + F.conv2d(
                gated(F.conv2d(x, a, None, layer.stride, layer.padding, layer.dilation)), b
            )
        low = gated(F.linear(x, a))
        return torch.addmm(output.flatten(0, -2), low.flatten(0, -2), b.t()).view_as(output)


@dataclass(frozen=True)
class _Gated:
    """The updates of one forward pass."""

    gate: Float[Tensor, "rows"] | None
    factors: list[Tensor]

    def __call__(self, low: Tensor) -> Tensor:
        return low if self.gate is None else low * self.gate.view(-1, *[1] * (low.ndim - 1))


def _layers(network: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Linear | nn.Conv2d]:
    found: dict[str, nn.Linear | nn.Conv2d] = {}
    for name, layer in network.named_modules():
        if not any(name == target or name.endswith(f".{target}") for target in targets):
            continue
        if not isinstance(layer, nn.Linear) and not (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            raise RequestError(
                f"The layer {name} cannot be adapted: it is a {type(layer).__name__}.",
                "Name linear layers or convolutions in guidance.lora_targets.",
            )
        found[name] = layer
    if not found:
        raise RequestError(
            f"No layer of the model has a name that ends with {' or '.join(targets) or 'nothing'}.",
            "Name layers of its U-Net in guidance.lora_targets, such as to_q.",
        )
    return found


def _joint(network: nn.Module, name: str) -> tuple[nn.Module, int]:
    """The layer that a layer's place is taken by, and the layer's number in there.

    Fast attention layers have one projection for queries, keys and values, or for the keys and values of a text.
    """
    owner, _, own = name.rpartition(".")
    parent = network.get_submodule(owner)
    for joint, parts in (("to_qkv", ("to_q", "to_k", "to_v")), ("to_kv", ("to_k", "to_v"))):
        if own in parts and isinstance(getattr(parent, joint, None), nn.Linear):
            return getattr(parent, joint), parts.index(own)
    return network.get_submodule(name), 0


def _sites(network: nn.Module, layers: dict[str, nn.Linear | nn.Conv2d], slots: int) -> list[_Site]:
    """The layers to hook, in order; each part takes `slots` of the ranks."""
    parts: dict[nn.Module, list[str]] = {}
    for name in layers:
        parts.setdefault(_joint(network, name)[0], []).append(name)
    sites = []
    for layer, names in parts.items():
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        rank, (outs, *ins) = slots * len(names), layer.weight.shape
        ends = (1, 1) if isinstance(layer, nn.Conv2d) else ()
        sites.append(_Site(layer, names, ((rank, *ins), (outs, rank, *ends))))
    return sites


def _drawn(layer: nn.Linear | nn.Conv2d, rank: int) -> tuple[Tensor, Tensor]:
    """A and B of a layer. Made from layers, like peft's, so that a seed draws the same numbers as there."""
    if isinstance(layer, nn.Conv2d):
        a = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, bias=False)  # pyright: ignore[reportArgumentType]
        b = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
    else:
        a = nn.Linear(layer.in_features, rank, bias=False)
        b = nn.Linear(rank, layer.out_features, bias=False)
    nn.init.normal_(a.weight, std=1 / rank)
    return a.weight.detach(), torch.zeros_like(b.weight)
