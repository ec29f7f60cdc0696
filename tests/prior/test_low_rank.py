"""Our low-rank updates against peft's: the same numbers, the same names, and rows that keep to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from recdreamer.named_tensors import optimizer_tensors
from recdreamer.prior.denoiser import Denoiser, Question
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.fast_layers import speed_up
from recdreamer.prior.lora import LoraBranch, LoraTrainer
from recdreamer.prior.low_rank import LowRankUpdates
from recdreamer.shared.protocol import RequestError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
OTHERS = ("conv1", "proj_in", "ff.net.0.proj", "time_emb_proj")


class PeftBranch:
    """The same branch built from peft, whose layers are switched on for all rows or scaled row by row."""

    def __init__(self, prior: DiffusionPrior, rank: int, targets: tuple[str, ...], seed: int) -> None:
        self.unet = prior.unet
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(
                r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets)
            )
            self.unet.add_adapter(config, adapter_name="phi")
        self.layers = [module for module in self.unet.modules() if isinstance(module, LoraLayer)]
        self.matrices = {name: p for name, p in self.unet.named_parameters() if p.requires_grad}
        for parameter in self.matrices.values():
            parameter.data = parameter.data.float()

    def output(self, latents_t: Tensor, t: Tensor, text: Tensor, gate: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            layer.scaling["phi"] = 1.0 if gate is None else gate.to(self.unet.dtype)[:, None, None]
        return self.unet(latents_t.to(self.unet.dtype), t, text.to(self.unet.dtype)).sample.float()


def fresh(dtype: torch.dtype = torch.float32) -> DiffusionPrior:
    return DiffusionPrior.load("builtin", "cpu", dtype)


def asked(prior: DiffusionPrior, rows: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(rows, prior.unet.config.in_channels, 16, 16, generator=generator)
    text = prior.encode_text(["a red bear"]).expand(rows, -1, -1)
    return latents, torch.linspace(100, 800, rows).long(), text, torch.zeros(rows, 4, 4)


def stirred(matrices: dict[str, Tensor], seed: int = 2) -> None:
    """Fill B, which begins at zero, so that the updates matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, matrix in matrices.items():
            if ".lora_B." in name:
                matrix.copy_(0.05 * torch.randn(matrix.shape, generator=generator))


@contextmanager
def both(
    targets: tuple[str, ...], dtype: torch.dtype = torch.float32
) -> Iterator[tuple[LoraBranch, PeftBranch]]:
    ours, theirs = LoraBranch(fresh(dtype), 4, targets, 7), PeftBranch(fresh(dtype), 4, targets, 7)
    yield ours, theirs


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def flat(matrices: dict[str, Tensor]) -> Tensor:
    return torch.cat([matrix.detach().flatten() for matrix in matrices.values()])


@pytest.mark.parametrize("targets", [ATTENTION, OTHERS], ids=["attention", "others"])
def test_names_order_and_first_values_are_those_of_peft(targets: tuple[str, ...]) -> None:
    with both(targets) as (ours, theirs):
        mine = {name: value for name, value in ours.trainable().items() if ".lora_" in name}
        assert list(mine) == list(theirs.matrices)
        for name, value in theirs.matrices.items():
            assert torch.equal(mine[name], value), name


@pytest.mark.parametrize("targets", [ATTENTION, OTHERS], ids=["attention", "others"])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 0.03)], ids=["float32", "bfloat16"]
)
def test_output_and_gradient_are_those_of_peft(
    targets: tuple[str, ...], dtype: torch.dtype, bound: float
) -> None:
    """In bfloat16 both round, but not in the same places; their distance to float32 is that of the network itself."""
    with both(targets, dtype) as (ours, theirs):
        stirred(ours.trainable())
        stirred(theirs.matrices)
        latents, t, text, c2w = asked(ours.prior[0])
        found, wanted = ours.output(latents, t, text, c2w), theirs.output(latents, t, text)
        assert relative_error(found, wanted) < bound
        upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
        (grad,) = torch.autograd.grad(found, ours.updates.values, upstream)
        grads = torch.autograd.grad(wanted, list(theirs.matrices.values()), upstream)
        assert relative_error(grad, torch.cat([g.flatten() for g in grads])) < bound
        # Without the updates the output is another one: the comparison would see them missing.
        assert relative_error(ours.prior[0].output(latents, t, text), wanted) > 2 * bound


def test_the_gate_of_each_row_is_pefts_scale_of_it() -> None:
    with both(ATTENTION) as (ours, theirs):
        stirred(ours.trainable())
        stirred(theirs.matrices)
        latents, t, text, c2w = asked(ours.prior[0])
        gate = torch.tensor([True, False, True])
        found = ours.output(latents, t, text, c2w, gate)
        assert relative_error(found, theirs.output(latents, t, text, gate)) < 2e-5
        # A row that is off is the frozen network's, to the bit.
        assert torch.equal(found[1], ours.prior[0].output(latents, t, text)[1])


@pytest.mark.parametrize("targets", [ATTENTION, ("to_k", "attn1.to_v")], ids=["all", "some"])
def test_joined_projections_are_updated_as_if_they_were_apart(targets: tuple[str, ...]) -> None:
    """With fast layers the places of queries, keys and values are taken by one projection."""
    apart, prior = LoraBranch(fresh(), 4, targets, 7), fresh()
    speed_up(prior.unet)
    joined = LoraBranch(prior, 4, targets, 7)
    assert len(joined.updates.sites) < len(apart.updates.sites)
    found, wanted = joined.trainable(), apart.trainable()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    stirred(joined.trainable())
    stirred(apart.trainable())
    latents, t, text, c2w = asked(prior)
    gate = torch.tensor([True, False, True])
    outputs = [branch.output(latents, t, text, c2w, gate) for branch in (joined, apart)]
    assert relative_error(*outputs) < 1e-5
    upstream = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(3))
    grads = [
        torch.autograd.grad(output, branch.updates.values, upstream)[0]
        for output, branch in zip(outputs, (joined, apart), strict=True)
    ]
    assert relative_error(*grads) < 1e-5


def test_several_steps_of_training_end_where_pefts_end() -> None:
    with both(ATTENTION) as (ours, theirs):
        ours.camera.requires_grad_(False)
        trainer = LoraTrainer(ours, 3e-3, warmup_steps=4)
        optimizer = torch.optim.AdamW(theirs.matrices.values(), lr=3e-3, betas=(0.9, 0.999))
        start = flat(theirs.matrices).clone()
        latents, _, text, c2w = asked(ours.prior[0])
        for step in range(8):
            trainer.step(latents, text, c2w, step, torch.Generator().manual_seed(step))
            lesson = ours.draw(latents, text, c2w, torch.Generator().manual_seed(step))
            optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 4)
            optimizer.zero_grad()
            lesson.loss(theirs.output(lesson.latents_t, lesson.t, lesson.text)).backward()
            optimizer.step()
        moved = flat(theirs.matrices) - start
        assert relative_error(ours.updates.values - start, moved) < 1e-3


def test_a_checkpoint_of_peft_is_continued() -> None:
    """Of an earlier version: one optimizer state for each matrix, and the camera network after them."""
    with both(ATTENTION) as (ours, theirs):
        asked(ours.prior[0])
        camera = [nn.Parameter(0.1 * torch.randn(p.shape)) for p in ours.camera.parameters()]
        optimizer = torch.optim.AdamW([*theirs.matrices.values(), *camera], lr=1e-3, betas=(0.9, 0.999))
        for parameter in (*theirs.matrices.values(), *camera):
            parameter.grad = torch.randn(parameter.shape)
        optimizer.step()
        named = zip(ours.camera.state_dict(), camera, strict=True)
        saved = {f"lora.{name}": matrix.detach() for name, matrix in theirs.matrices.items()}
        saved |= {f"lora.camera.{name}": parameter.detach() for name, parameter in named}
        saved |= optimizer_tensors("lora_optimizer", optimizer)
        trainer = LoraTrainer(ours, 1e-3, warmup_steps=1)
        trainer.load(saved)
        again = trainer.tensors()
        assert set(again) == set(saved)
        for name, tensor in saved.items():
            assert torch.equal(again[name], tensor), name
        # Both go on alike.
        for parameter in (*theirs.matrices.values(), *camera):
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        trainer.learn([torch.ones_like(p) for p in ours.learning()], 5)
        assert relative_error(ours.updates.values, flat(theirs.matrices)) < 1e-6
        assert torch.allclose(torch.cat([p.flatten() for p in ours.camera.parameters()]),
                              torch.cat([p.flatten() for p in camera]), atol=1e-6)  # fmt: skip


def test_a_lesson_and_a_question_in_one_pass_keep_their_gradients_apart() -> None:
    prior = fresh()
    branch = LoraBranch(prior, 4, ATTENTION, 7)
    stirred(branch.trainable())
    nn.init.normal_(branch.camera[2].weight, std=0.1, generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(prior, branch)
    latents, t, text, _ = asked(prior, 2)
    lesson = branch.draw(latents, text, torch.eye(4).repeat(2, 1, 1), torch.Generator().manual_seed(5))
    learning = branch.learning()
    upstream = torch.randn(latents.shape, generator=torch.Generator().manual_seed(4))

    leaf = latents.clone().requires_grad_()
    eps, loss = denoiser.ask_beside(leaf, t, Question(text), lesson)
    together = torch.autograd.grad([(eps * upstream).sum(), loss], [leaf, *learning])
    (alone,) = denoiser.ask(leaf, t, Question(text))
    assert relative_error(eps, alone) < 1e-6
    apart = [*torch.autograd.grad((alone * upstream).sum(), leaf)]
    apart += torch.autograd.grad(branch.loss(lesson), learning)
    for one, other in zip(together, apart, strict=True):
        assert other.norm() > 0 and relative_error(one, other) < 1e-5
    # The question's row passes nothing on to the branch.
    eps, _ = denoiser.ask_beside(latents, t, Question(text), lesson)
    for grad in torch.autograd.grad((eps * upstream).sum(), learning):
        assert not grad.any()


@pytest.mark.parametrize(
    ("targets", "reason"),
    [(("to_x",), "ends with to_x"), ((), "ends with nothing"), (("norm1",), "it is a (Layer|Group)Norm")],
)
def test_layers_that_cannot_be_adapted_are_one_clear_sentence(targets: tuple[str, ...], reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        LowRankUpdates(fresh().unet, 4, targets, "phi")
    assert "guidance.lora_targets" in caught.value.hint
