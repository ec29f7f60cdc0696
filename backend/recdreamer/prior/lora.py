"""The LoRA branch of VSD: the same network, trained on the renders and their cameras."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from recdreamer.named_tensors import load_optimizer, optimizer_tensors
from recdreamer.prior.diffusion import DiffusionPrior


class LoraBranch(nn.Module):
    """eps_phi(x_t, t, c, y): low-rank updates of the attention layers, the camera added to the time embedding.

    Shares all frozen weights with the pretrained model (ProlificDreamer, Sec. 3.3; layout and defaults of its
    released code: rank 4, camera matrix flattened through a two-layer network).
    """

    def __init__(self, prior: DiffusionPrior, rank: int, targets: tuple[str, ...], seed: int) -> None:
        super().__init__()
        self.prior = (prior,)  # in a tuple, so that the frozen weights are not registered as this module's
        unet = prior.unet
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(
                r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets)
            )
            unet.add_adapter(config, adapter_name="phi")
            width = unet.time_embedding.linear_2.out_features
            last = nn.Linear(width, width)
            self.camera = nn.Sequential(nn.Linear(16, width), nn.SiLU(), last)
            # The branch starts out as the pretrained model for every camera.
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.camera.to(unet.device)
        self._embedding: Tensor | None = None
        unet.time_embedding.register_forward_hook(self._add_camera)
        self.layers = [module for module in unet.modules() if isinstance(module, LoraLayer)]
        self.names = [name for name, p in unet.named_parameters() if p.requires_grad]
        for name in self.names:
            parameter = unet.get_parameter(name)
            parameter.data = parameter.data.float()
        self._switch(on=False)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name: the adapter and the camera network."""
        unet = self.prior[0].unet
        own = {f"camera.{name}": parameter for name, parameter in self.camera.named_parameters()}
        return {name: unet.get_parameter(name) for name in self.names} | own

    def _add_camera(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        return None if self._embedding is None else output + self._embedding.to(output.dtype)

    @contextmanager
    def _active(
        self,
        cameras: Float[Tensor, "batch 4 4"],
        of_branch: Bool[Tensor, "batch"] | None,
        has_camera: Bool[Tensor, "batch"] | None,
    ):
        unet = self.prior[0].unet
        # Scale of the low-rank update per row: rows that are not the branch's use the frozen weights alone.
        scale = 1.0 if of_branch is None else of_branch.to(unet.dtype)[:, None, None]
        for layer in self.layers:
            layer.scaling["phi"] = scale
        embedding = self.camera(cameras.flatten(1))
        self._embedding = embedding if has_camera is None else embedding * has_camera[:, None]
        try:
            with self._switched_on():
                yield
        finally:
            self._embedding = None

    @contextmanager
    def _switched_on(self):
        self._switch(on=True)
        try:
            yield
        finally:
            self._switch(on=False)

    def _switch(self, on: bool) -> None:
        unet = self.prior[0].unet
        if on:
            unet.enable_adapters()
        else:
            unet.disable_adapters()
        # peft freezes the adapter when it is switched off, and a later backward pass would leave it untrained.
        for name in self.names:
            unet.get_parameter(name).requires_grad_(True)

    def output(
        self, latents_t: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"],
        text: Float[Tensor, "batch tokens width"], c2w: Float[Tensor, "batch 4 4"],
        of_branch: Bool[Tensor, "batch"] | None = None, has_camera: Bool[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch c h w"]:  # fmt: skip
        """The raw output, eps or v like the pretrained model's.

        Rows where `of_branch` is False are the pretrained model's, and rows where `has_camera` is False get no
        camera; None means True for all rows.
        """
        unet = self.prior[0].unet
        with self._active(c2w, of_branch, has_camera):
            return unet(latents_t.to(unet.dtype), t, text.to(unet.dtype)).sample.float()

    def loss(
        self, latents: Float[Tensor, "batch c h w"], text: Float[Tensor, "batch tokens width"],
        c2w: Float[Tensor, "batch 4 4"], generator: torch.Generator, camera_dropout: float = 0.1,
    ) -> Float[Tensor, ""]:  # fmt: skip
        """Denoising loss on renders at uniform timesteps (Eq. 8), without the camera at a rate of `camera_dropout`."""
        schedule, device = self.prior[0].schedule, latents.device
        draw = lambda *shape: torch.randn(shape, generator=generator, device=generator.device).to(device)  # noqa: E731
        t = torch.randint(
            schedule.num_timesteps, (len(latents),), generator=generator, device=generator.device
        ).to(device)
        eps = draw(*latents.shape)
        is_kept = torch.rand((), generator=generator, device=generator.device) >= camera_dropout
        c2w = c2w * is_kept.to(c2w)
        output = self.output(schedule.add_noise(latents, eps, t), t, text, c2w)
        return (output - schedule.target_of(latents, eps, t)).square().mean()

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Gradients of the latest `loss`; the branch is on, because checkpointing may recompute activations."""
        with self._switched_on():
            loss.backward()


class LoraTrainer:
    """The branch with its optimizer: one training step per distillation step (Alg. 1, line 6)."""

    def __init__(self, branch: LoraBranch, learning_rate: float, warmup_steps: int) -> None:
        self.branch, self.learning_rate, self.warmup_steps = branch, learning_rate, warmup_steps
        self.optimizer = torch.optim.AdamW(branch.trainable().values(), lr=learning_rate, betas=(0.9, 0.999))

    def step(
        self, latents: Float[Tensor, "batch c h w"], text: Float[Tensor, "batch tokens width"],
        c2w: Float[Tensor, "batch 4 4"], step: int, generator: torch.Generator,
    ) -> None:  # fmt: skip
        """Train on this step's renders; the learning rate warms up linearly from zero."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps))
        loss = self.branch.loss(latents, text, c2w, generator)
        self.optimizer.zero_grad(set_to_none=True)
        self.branch.backward(loss)
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint."""
        named = {f"lora.{name}": parameter.detach() for name, parameter in self.branch.trainable().items()}
        return named | optimizer_tensors("lora_optimizer", self.optimizer)

    def load(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.branch.trainable().items():
                parameter.copy_(tensors[f"lora.{name}"])
        load_optimizer("lora_optimizer", self.optimizer, tensors)
