"""CUDA graphs of whole steps against the steps as written, and the fused kernels on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recdreamer.distillation.methods import LORA_METHODS
from recdreamer.graphs import CudaGraph
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.fast_layers import GroupNormThenSilu, OneWideHead
from recdreamer.prior.fused import add, add_reference, geglu, geglu_reference, group_norm
from recdreamer.prior.fused_warp import Geglu, GroupNormSilu
from recdreamer.prior.lora import LoraTrainer
from recdreamer.recorded_step import Picture, RecordedSteps
from recdreamer.shared.protocol import Method, Template
from recdreamer.stages.guidance import prepare_guide
from tests.gpu.test_guidance_cuda import METHODS, make_job, templates  # noqa: F401

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
PX, VIEWS = 64, 2
"""The embedded prior's own size: resampling a picture adds up its gradient in any order on a GPU."""


class Pixels(Picture):
    """A picture that moves."""

    def __init__(self) -> None:
        super().__init__(torch.rand(VIEWS, 3, PX, PX, generator=torch.Generator().manual_seed(4)).cuda())
        self.grads: list[Tensor] = []

    def descend(
        self, rendering: Any, latents: Tensor, grad: Tensor, step: int, generator: torch.Generator
    ) -> None:
        super().descend(rendering, latents, grad, step, generator)
        assert self.grad is not None
        self.grads.append(self.grad.clone())
        # What moves θ draws, too.
        noise = torch.rand(self.rgb.shape, generator=generator, device=self.device)
        with torch.no_grad():
            self.rgb -= 0.02 * self.grad / self.grad.square().mean().sqrt() + 0.001 * noise


class Run:
    """Steps of a method on pixels, as written or recorded."""

    def __init__(
        self, folder: Path, given: tuple[Template, ...], method: Method, is_recorded: bool, dtype: torch.dtype,
        seed: int = 3, **overrides: Any,
    ) -> None:  # fmt: skip
        few = {"optimize.num_views": VIEWS, "optimize.num_steps": 8, "guidance.lora_warmup_steps": 6}
        job, config = make_job(folder, given, "cuda", method, **few, **overrides)
        prior, self.warnings = DiffusionPrior.load("builtin", "cuda", dtype), []
        self.guide = prepare_guide(job, config, prior)
        branch, guidance = self.guide.denoiser.branch, config.guidance
        self.lora = None
        if method in LORA_METHODS and branch is not None:
            self.lora = LoraTrainer(branch, guidance.lora_learning_rate, guidance.lora_warmup_steps)
        # Another seed draws other noise, timesteps and cameras; the branch starts as it did.
        of_step = replace(config.step("shape"), seed=seed)
        self.steps = RecordedSteps(of_step, prior, self.guide, self.lora, self.warnings.append)
        if not is_recorded:
            self.steps.recorder = None
        self.pixels = Pixels()

    def run(self, steps: range) -> Run:
        for step in steps:
            self.steps.run(step, self.pixels)
        return self

    def state(self) -> list[Tensor]:
        """All that changes: the pixels, what the branch and the rectifiers have learned, and every gradient."""
        parts = [part for part in (self.lora, *self.guide.rectifiers) if part is not None]
        learned = [tensor.float() for part in parts for tensor in part.tensors().values()]
        return [self.pixels.rgb.detach(), *self.pixels.grads, *learned]

    def continued_from(self, other: Run) -> Run:
        for mine, theirs in zip(
            [self.lora, *self.guide.rectifiers], [other.lora, *other.guide.rectifiers], strict=True
        ):
            if mine is not None and theirs is not None:
                mine.load({name: tensor.clone() for name, tensor in theirs.tensors().items()})
        with torch.no_grad():
            self.pixels.rgb.copy_(other.pixels.rgb)
        return self


def farthest(found: Run, wanted: Run) -> float:
    """The largest relative error of any part of the state."""
    errors = [
        ((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-12)).item()
        for one, other in zip(found.state(), wanted.state(), strict=True)
    ]
    return max(errors)


@pytest.fixture(autouse=True)
def exact_arithmetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Otherwise convolutions choose their algorithm by the memory that is free, and round to 10 bits (TF32)."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    wanted = [(products, "allow_tf32", False), (cudnn, "allow_tf32", False), (cudnn, "deterministic", True)]
    wanted.append((cudnn, "benchmark", False))
    before = [(where, name, getattr(where, name)) for where, name, _ in wanted]
    for where, name, value in wanted:
        setattr(where, name, value)
    yield
    # Monkeypatch would delete what it does not find in their dictionaries.
    for where, name, value in before:
        setattr(where, name, value)


@dataclass(frozen=True)
class Distances:
    """How far runs are from one as written."""

    recorded: float
    again: float
    """As written once more: sums in any order, which steps enlarge."""
    other_draws: float
    """As written, with another seed."""

    @property
    def is_same_run(self) -> bool:
        """Whether recording changes no more than doing it again does, beside rounding, and far less than a draw would."""
        bound = max(5 * self.again, 1e-4)
        return self.recorded <= bound and self.other_draws > max(10 * self.recorded, 0.1)


def distances(folder: Path, given: tuple[Template, ...], method: Method, dtype: torch.dtype, steps: int, **overrides: Any
) -> tuple[Distances, Run]:  # fmt: skip
    """Of a recorded run, which comes with them."""
    run = lambda name, is_recorded, seed=3: Run(  # noqa: E731
        folder / name, given, method, is_recorded, dtype, seed, **overrides
    ).run(range(steps))
    written, recorded = run("written", False), run("recorded", True)
    again, other = run("again", False), run("other", False, 4)
    found = Distances(*(farthest(one, written) for one in (recorded, again, other)))
    return found, recorded


CASES = [
    *((method, torch.float32) for method in METHODS),
    *((m, torch.bfloat16) for m in ("sds", "vsd", "usd")),
]


@pytest.mark.parametrize(("method", "dtype"), CASES, ids=lambda value: str(value).removeprefix("torch."))
def test_a_graph_does_what_is_written(
    method: Method, dtype: torch.dtype, tmp_path: Path, templates: tuple[Template, ...]  # noqa: F811
) -> None:  # fmt: skip
    settings = {"guidance.bridge_from": 0.5, "guidance.clip_limits": [0.1, 2.0]}
    found, recorded = distances(tmp_path, templates, method, dtype, 6, **settings)
    assert recorded.warnings == []
    made = [recording for recording in recorded.steps.recordings.values() if recording is not None]
    assert len(made) == (2 if method == "sds_bridge" else 1)
    assert all(isinstance(recording, CudaGraph) for recording in made)
    assert found.is_same_run, found


OPTIONS = {
    "checkpointing": {"guidance.checkpointing": True},
    "separate pass": {"rectifier.separate_pass": True},
    "no jacobian": {"rectifier.jacobian": False},
    "lazy, every other step": {"rectifier.lazy_steps": 3, "guidance.lora_every": 2},
    "noisy": {"rectifier.estimate": "noisy"},
    "other layers": {"guidance.lora_targets": ["to_q", "conv1", "ff.net.0.proj"]},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_usd_is_recorded(
    option: str, tmp_path: Path, templates: tuple[Template, ...]  # noqa: F811
) -> None:  # fmt: skip
    found, recorded = distances(tmp_path, templates, "usd", torch.float32, 6, **OPTIONS[option])
    assert recorded.warnings == []
    assert found.is_same_run, found


def test_a_resumed_run_is_the_run_that_was_interrupted(
    tmp_path: Path, templates: tuple[Template, ...]  # noqa: F811
) -> None:  # fmt: skip
    straight = Run(tmp_path / "a", templates, "vsd", True, torch.float32).run(range(8))
    first = Run(tmp_path / "b", templates, "vsd", True, torch.float32).run(range(4))
    second = Run(tmp_path / "c", templates, "vsd", True, torch.float32).continued_from(first).run(range(4, 8))
    straight.pixels.grads = straight.pixels.grads[4:]
    other = Run(tmp_path / "d", templates, "vsd", True, torch.float32, 4).run(range(8))
    other.pixels.grads = other.pixels.grads[4:]
    assert farthest(second, straight) < 1e-4 and farthest(other, straight) > 0.1


def test_what_cannot_be_recorded_goes_on_as_written(
    tmp_path: Path, templates: tuple[Template, ...], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    written = Run(tmp_path / "a", templates, "vsd", False, torch.float32).run(range(6))
    waiting = Run(tmp_path / "b", templates, "vsd", True, torch.float32)
    clipped = waiting.guide.clipped

    def reads_a_number(denoising: Tensor, x: Any) -> Tensor:
        assert denoising.sum().item() < 1e9
        return clipped(denoising, x)

    monkeypatch.setattr(waiting.guide, "clipped", reads_a_number)
    stream, state = torch.cuda.current_stream(), torch.cuda.get_rng_state()
    waiting.run(range(6))
    assert len(waiting.warnings) == 1 and "takes longer" in waiting.warnings[0]
    assert farthest(waiting, written) < 1e-4
    # What comes after is not disturbed: neither draws, nor the next recording.
    assert torch.cuda.current_stream() == stream and torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.rand(8, device="cuda").unique().numel() == 8
    generator, total = torch.Generator("cuda").manual_seed(1), torch.zeros(4, device="cuda")
    draw = lambda: total.add_(torch.rand(4, generator=generator, device="cuda"))  # noqa: E731
    recording = CudaGraph(draw, [generator])
    for _ in range(2):
        recording.replay()
    wanted = torch.Generator("cuda").manual_seed(1)
    assert torch.equal(total, sum(torch.rand(4, generator=wanted, device="cuda") for _ in range(2)))


def test_the_guidance_in_half_precision_uses_the_kernels() -> None:
    prior = DiffusionPrior.load("builtin", "cuda", torch.bfloat16)
    assert any(isinstance(module, GroupNormThenSilu) for module in prior.unet.modules())
    weights = [p for p in prior.unet.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape", [(1, 320, 64, 64), (2, 960, 32, 32), (2, 2560, 8, 8), (1, 128, 512, 512), (3, 1920, 16, 16)]
)
def test_group_norm_on_a_gpu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(32, shape[1], eps=1e-5).cuda().to(dtype).requires_grad_(False)
    nn.init.normal_(norm.weight, 1, 0.3)
    nn.init.normal_(norm.bias, 0, 0.3)
    x = (1.5 * torch.randn(shape, device="cuda") + 0.4).to(dtype).requires_grad_()
    upstream = torch.randn(shape, device="cuda").to(dtype)
    move = torch.randn(shape[:2], device="cuda").to(dtype)
    for with_silu, shift in ((True, None), (False, None), (True, move), (True, move[:1])):
        y = group_norm(x, norm, with_silu, shift)
        assert y.grad_fn is not None and "GroupNormSilu" in type(y.grad_fn).__name__
        assert y.is_contiguous(memory_format=torch.channels_last)
        (grad,) = torch.autograd.grad(y, x, upstream)
        exact = x.detach().double().requires_grad_()
        moved = exact if shift is None else exact + shift.double()[:, :, None, None]
        wanted = F.group_norm(moved, 32, norm.weight.double(), norm.bias.double(), norm.eps)
        wanted = F.silu(wanted) if with_silu else wanted
        (wanted_grad,) = torch.autograd.grad(wanted, exact, upstream.double())
        bound = 0.6 * (2.0**-8 if dtype == torch.bfloat16 else 2.0**-11)
        assert relative_error(y, wanted) < bound and relative_error(grad, wanted_grad) < bound
        again = GroupNormSilu.apply(x, norm.weight, norm.bias, 32, norm.eps, with_silu, shift)
        assert torch.equal(again, y)


def test_a_sum_on_a_gpu() -> None:
    x, other = (torch.randn(2, 320, 64, 64, device="cuda").bfloat16() for _ in range(2))
    shift = torch.randn(1, 320, device="cuda").bfloat16()
    y = add(x, other, shift)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(y, add_reference(x.double(), other.double(), shift.double())) < 0.6 * 2.0**-8


def test_group_norm_shows_what_is_not_finite() -> None:
    """Fast arithmetic must not hide it."""
    norm = nn.GroupNorm(32, 1280).cuda().bfloat16().requires_grad_(False)
    for value in (float("nan"), float("inf")):
        for pixels in (8, 64):
            x = torch.randn(1, 1280, pixels, pixels, device="cuda").bfloat16()
            x[0, 3, 1, 1] = value
            assert not group_norm(x, norm, True).isfinite().all()


def test_geglu_on_a_gpu() -> None:
    x = torch.randn(2, 4096, 2560, device="cuda").bfloat16().requires_grad_()
    upstream = torch.randn(2, 4096, 1280, device="cuda").bfloat16()
    y = geglu(x)
    (grad,) = torch.autograd.grad(y, x, upstream)
    exact = x.detach().double().requires_grad_()
    wanted = geglu_reference(exact)
    (wanted_grad,) = torch.autograd.grad(wanted, exact, upstream.double())
    assert torch.equal(y, Geglu.apply(x))
    assert relative_error(y, wanted) < 0.6 * 2.0**-8 and relative_error(grad, wanted_grad) < 0.6 * 2.0**-8


def test_the_wide_head_is_exchanged() -> None:
    """Of an autoencoder as wide as Stable Diffusion's."""
    from recdreamer.evaluation.random_sd import random_sd21

    vae = random_sd21(torch.device("cuda"), torch.bfloat16).vae
    assert sum(isinstance(getattr(m, "processor", None), OneWideHead) for m in vae.modules()) == 2
