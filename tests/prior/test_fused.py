"""The fused operations: the Warp kernels against torch in float64, and whole networks with and without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from recdreamer.prior import fast_layers
from recdreamer.prior.fast_layers import FastGeglu, FastResnetBlock, FastTransformer, OneWideHead, speed_up
from recdreamer.prior.fused import add_reference, geglu_reference, group_norm, group_norm_reference
from recdreamer.prior.fused_warp import Geglu, GroupNormSilu, Sum, fits_geglu, fits_group_norm

HALVES = [torch.bfloat16, torch.float16]
STEP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-23}
"""Least relative distance of neighbouring numbers; one rounding loses up to all of it, and half on average."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).norm() / wanted.norm()).item()


def norm_of(channels: int, groups: int, dtype: torch.dtype) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=1e-5)
    nn.init.normal_(norm.weight, 1.0, 0.3, generator=seeded(1))
    nn.init.normal_(norm.bias, 0.0, 0.3, generator=seeded(2))
    return norm.to(dtype).requires_grad_(False)


def apply(x: Tensor, norm: nn.GroupNorm, with_silu: bool, shift: Tensor | None = None) -> Tensor:
    return GroupNormSilu.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps, with_silu, shift)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("with_silu", [True, False])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((1, 8, 2, 2), 2),
        ((2, 20, 6, 10), 4),
        ((3, 32, 16, 16), 32),
        ((2, 64, 8, 8), 32),
        ((1, 12, 64, 48), 1),
        ((1, 8, 128, 128), 1),
        ((1, 8, 256, 96), 1),
    ],
)
def test_group_norm_and_its_gradient_are_exact_to_one_rounding(
    shape: tuple[int, ...], groups: int, with_silu: bool, dtype: torch.dtype
) -> None:
    """Groups whose channels begin and end within a word, or fill some; pictures of few and of many parts; small and large
    groups; a mean far from zero.
    """
    norm = norm_of(shape[1], groups, dtype)
    x = (1.5 * torch.randn(shape, generator=seeded(3)) + 2).to(dtype).requires_grad_()
    upstream = torch.randn(shape, generator=seeded(4)).to(dtype)
    assert fits_group_norm(x)
    y = apply(x, norm, with_silu)
    (grad,) = torch.autograd.grad(y, x, upstream)
    exact = x.detach().double().requires_grad_()
    wanted = F.group_norm(exact, groups, norm.weight.double(), norm.bias.double(), norm.eps)
    wanted = F.silu(wanted) if with_silu else wanted
    (wanted_grad,) = torch.autograd.grad(wanted, exact, upstream.double())
    assert y.dtype == grad.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(y, wanted) < 0.6 * STEP[dtype]
    assert relative_error(grad, wanted_grad) < 0.6 * STEP[dtype]
    # Torch's own kernels round in between, and are farther away.
    assert relative_error(y, wanted) < 1.1 * relative_error(group_norm_reference(x, norm, with_silu), wanted)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("side", "groups"), [(8, 2), (96, 1), (6, 4)])
def test_a_shift_of_the_channels_is_part_of_the_norm(
    side: int, groups: int, rows: int, dtype: torch.dtype
) -> None:
    """For each picture or for all, with its gradient; in one block of threads, in many, and across words."""
    norm = norm_of(16 if groups < 4 else 24, groups, dtype)
    x = torch.randn(3, norm.num_channels, side, side, generator=seeded(3)).to(dtype).requires_grad_()
    shift = (2 * torch.randn(rows, norm.num_channels, generator=seeded(4))).to(dtype).requires_grad_()
    upstream = torch.randn(x.shape, generator=seeded(5)).to(dtype)
    y = apply(x, norm, True, shift)
    grads = torch.autograd.grad(y, (x, shift), upstream)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, shift)]
    doubles = norm_of(norm.num_channels, groups, dtype).double()
    wanted = group_norm_reference(exact[0], doubles, True, exact[1])
    assert relative_error(y, wanted) < 0.6 * STEP[dtype]
    found = torch.autograd.grad(wanted, exact, upstream.double())
    assert relative_error(grads[0], found[0]) < 0.6 * STEP[dtype]
    # A sum over pixels of rounded numbers, which partly cancel.
    assert grads[1].shape == shift.shape and relative_error(grads[1], found[1]) < 2 * STEP[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_the_sum_of_two_pictures_and_a_shift_is_exact_to_one_rounding(dtype: torch.dtype) -> None:
    x, other = (torch.randn(2, 12, 4, 6, generator=seeded(i)).to(dtype).requires_grad_() for i in (1, 2))
    shift = torch.randn(1, 12, generator=seeded(3)).to(dtype)
    y = Sum.apply(x, other.contiguous(memory_format=torch.channels_last), shift)
    wanted = add_reference(x.double(), other.double(), shift.double())
    assert relative_error(y, wanted) < 0.6 * STEP[dtype]
    upstream = torch.randn(y.shape, generator=seeded(4)).to(dtype)
    assert all(torch.equal(grad, upstream) for grad in torch.autograd.grad(y, (x, other), upstream))


def test_the_layout_of_the_input_does_not_matter() -> None:
    norm = norm_of(16, 4, torch.bfloat16)
    x = torch.randn(2, 16, 6, 6, generator=seeded()).bfloat16()
    assert torch.equal(
        apply(x, norm, True), apply(x.contiguous(memory_format=torch.channels_last), norm, True)
    )
    # A batch of some rows of a larger one, as in a chunk of answers.
    assert torch.equal(apply(torch.cat([x, x])[1:3], norm, True), apply(x.flip(0), norm, True))


def test_the_gradient_agrees_with_differences() -> None:
    """Along a direction, by the reference in float64: what the kernels differentiate is what they compute."""
    norm = norm_of(16, 4, torch.float16)
    x = torch.randn(2, 16, 4, 4, generator=seeded()).half().requires_grad_()
    upstream = torch.randn(x.shape, generator=seeded(5)).half()
    direction = torch.randn(x.shape, generator=seeded(6))
    (grad,) = torch.autograd.grad(apply(x, norm, True), x, upstream)
    step, doubles = 1e-5, norm_of(16, 4, torch.float64)
    ahead, behind = (
        (group_norm_reference(x.detach().double() + s * step * direction, doubles, True) * upstream).sum()
        for s in (1, -1)
    )
    assert (grad.double() * direction).sum().item() == pytest.approx(
        ((ahead - behind) / (2 * step)).item(), rel=5e-3
    )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(8,), (5, 16), (2, 7, 48)])
def test_geglu_and_its_gradient_are_exact_to_one_rounding(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (2 * torch.randn(shape, generator=seeded())).to(dtype).requires_grad_()
    upstream = torch.randn(*shape[:-1], shape[-1] // 2, generator=seeded(1)).to(dtype)
    assert fits_geglu(x)
    y = Geglu.apply(x)
    (grad,) = torch.autograd.grad(y, x, upstream)
    exact = x.detach().double().requires_grad_()
    wanted = geglu_reference(exact)
    (wanted_grad,) = torch.autograd.grad(wanted, exact, upstream.double())
    assert relative_error(y, wanted) < 0.6 * STEP[dtype]
    assert relative_error(grad, wanted_grad) < 0.6 * STEP[dtype]


def test_what_the_kernels_do_not_take_goes_to_the_reference() -> None:
    """Here everything does, as there is no GPU; what they do not take is told by its kind."""
    norm = norm_of(8, 2, torch.float32)
    x = torch.randn(1, 8, 3, 3, generator=seeded())
    assert torch.equal(group_norm(x, norm, True), group_norm_reference(x, norm, True))
    assert not fits_group_norm(x) and not fits_group_norm(x.half())
    assert not fits_group_norm(torch.zeros(1, 6, 4, 4, dtype=torch.half))
    assert not fits_geglu(torch.zeros(2, 12, dtype=torch.half)) and not fits_geglu(torch.zeros(2, 16))


def small_unet(**settings: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    widths = {"block_out_channels": (32, 64), "attention_head_dim": 8, "cross_attention_dim": 12}
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **widths | settings,
    ).requires_grad_(False).eval()  # fmt: skip


def small_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(16, 320), layers_per_block=1, norm_num_groups=16, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).requires_grad_(False).eval()  # fmt: skip


def through_unet(unet: UNet2DConditionModel) -> list[Tensor]:
    dtype = unet.dtype
    x = torch.randn(2, 4, 8, 8, generator=seeded(3)).to(dtype).requires_grad_()
    text = torch.randn(2, 5, 12, generator=seeded(4)).to(dtype)
    output = unet(x, torch.tensor([100, 700]), text).sample
    return [output, *torch.autograd.grad(output, x, torch.randn(output.shape, generator=seeded(5)).to(dtype))]


def through_vae(vae: AutoencoderKL) -> list[Tensor]:
    images = torch.randn(2, 3, 16, 16, generator=seeded(3)).to(vae.dtype).requires_grad_()
    latents = vae.encode(images).latent_dist.mean
    decoded = vae.decode(latents).sample
    upstream = torch.randn(decoded.shape, generator=seeded(5)).to(vae.dtype)
    return [latents, decoded, *torch.autograd.grad(decoded, images, upstream)]


NETWORKS = {
    "linear projections": (lambda: small_unet(use_linear_projection=True), through_unet),
    "projections by convolution": (small_unet, through_unet),
    "autoencoder": (small_vae, through_vae),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_exchanged_layers_answer_as_before(network: str) -> None:
    make, through = NETWORKS[network]
    wanted, fast = through(make()), make()
    names = list(fast.state_dict())
    speed_up(fast)
    kinds = {type(module) for module in fast.modules()}
    # Checkpoints fit as before; joint projections come on top, and share their memory.
    assert FastResnetBlock in kinds and [n for n in fast.state_dict() if "kv." not in n] == names
    if network == "autoencoder":
        assert sum(isinstance(getattr(m, "processor", None), OneWideHead) for m in fast.modules()) == 2
    else:
        assert {FastTransformer, FastGeglu} <= kinds
        attention = next(m for n, m in fast.named_modules() if n.endswith("attn1"))
        assert (
            attention.to_k.weight.data_ptr() == attention.to_qkv.weight[len(attention.to_q.weight)].data_ptr()
        )
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    for found, expected in zip(through(fast), wanted, strict=True):
        assert relative_error(found, expected.double()) < 2e-5


@pytest.mark.parametrize("network", NETWORKS)
def test_in_half_precision_the_kernels_are_at_least_as_close(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every norm and GEGLU of a network goes to Warp, as on a GPU; float32 tells what is right."""
    make, through = NETWORKS[network]
    wanted = through(make())
    before = through(make().bfloat16())
    seen: list[str] = []

    def by_warp(x: Tensor, norm: nn.GroupNorm, with_silu: bool, shift: Tensor | None = None) -> Tensor:
        seen.append("norm")
        return apply(x, norm, with_silu, shift)

    def add_by_warp(x: Tensor, other: Tensor, shift: Tensor) -> Tensor:
        seen.append("sum")
        return Sum.apply(x, other, shift)

    def gate_by_warp(inputs: Tensor) -> Tensor:
        seen.append("geglu")
        return Geglu.apply(inputs)

    def by_torch(*_: object) -> Tensor:
        raise AssertionError("A norm of the network is still torch's own.")

    monkeypatch.setattr(fast_layers, "group_norm", by_warp)
    monkeypatch.setattr(fast_layers, "add", add_by_warp)
    monkeypatch.setattr(F, "group_norm", by_torch)
    monkeypatch.setattr(fast_layers, "geglu", gate_by_warp)
    fast = make().bfloat16()
    speed_up(fast)
    found = through(fast)
    assert (
        seen.count("norm") > 8 and seen.count("sum") >= 6 and ("geglu" in seen) == (network != "autoencoder")
    )
    for after, torchs, exact in zip(found, before, wanted, strict=True):
        assert relative_error(after, exact.double()) < 1.2 * relative_error(torchs, exact.double())
