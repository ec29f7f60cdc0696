"""Gradients of a prior in float16 that are far below what float16 has numbers for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recdreamer import device as devices
from recdreamer.prior import grad_scale
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraBranch

TINY = 1e-9
"""Of a gradient; the smallest half is 6 · 10⁻⁸."""


def cosine(one: Tensor, other: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(
        one.double().flatten(), other.double().flatten(), dim=0
    ).item()


def gradients(dtype: torch.dtype) -> dict[str, Tensor]:
    """Of each network, with respect to what it reads and to the branch, for a tiny gradient of its output."""
    prior = DiffusionPrior.load("builtin", "cpu", dtype)
    draw = torch.Generator().manual_seed(0)
    branch = LoraBranch(prior, 4, ("to_q", "to_v"), 0)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    picture = torch.rand(1, 3, 64, 64, generator=draw).requires_grad_()
    latents = prior.encode(picture)
    upstream = TINY * torch.randn(latents.shape, generator=draw)
    found = {"encoder": torch.autograd.grad(latents, picture, upstream)[0]}
    x = torch.randn(latents.shape, generator=draw).requires_grad_()
    decoded = prior.decode(x)
    above = TINY * torch.randn(decoded.shape, generator=draw)
    found["decoder"] = torch.autograd.grad(decoded, x, above)[0]
    t, text = torch.tensor([400]), prior.encode_text(["a red bear"]).float()
    output = branch.output(x, t, text, torch.eye(4)[None])
    inputs = [x, *branch.learning()]
    grads = torch.autograd.grad(output, inputs, upstream)
    return found | {"denoiser": grads[0], "branch": grads[1], "camera": grads[-1]}


@pytest.fixture(scope="module")
def exact() -> dict[str, Tensor]:
    return gradients(torch.float32)


def test_tiny_gradients_come_through_float16(exact: dict[str, Tensor]) -> None:
    found = gradients(torch.float16)
    assert {name: cosine(found[name], exact[name]) > 0.995 for name in exact} == dict.fromkeys(exact, True)
    assert all(found[name].norm() / exact[name].norm() == pytest.approx(1, abs=0.02) for name in exact)


def test_they_would_be_lost_without_a_scale(
    exact: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(grad_scale, "factor_of", lambda grad: torch.ones(()))
    found = gradients(torch.float16)
    assert all(found[name].norm() < 0.5 * exact[name].norm() for name in exact)


def test_a_gradient_that_is_not_finite_is_seen() -> None:
    scale = grad_scale.GradScale(torch.float16)
    x = torch.ones(2, requires_grad=True)
    grad = torch.autograd.grad(scale.leave(scale.enter(x).half().float()), x, torch.tensor([1.0, torch.nan]))
    assert torch.isnan(grad[0]).any()


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_the_precision_follows_the_card(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.choose_dtype("some model", torch.device("cuda")) == dtype
    assert devices.choose_dtype("builtin", torch.device("cuda")) == torch.float32
    assert devices.choose_dtype("some model", torch.device("cpu")) == torch.float32
    named = [devices.choose_dtype("some model", torch.device("cuda"), name) for name in ("float16", "single")]
    assert named == [torch.float16, torch.float32]
    assert devices.choose_dtype("some model", torch.device("cpu"), "float16") == torch.float32
