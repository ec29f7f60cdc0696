"""One of several processes that share the views of a few steps: `one_of_several.py OUT COUNT RANK PORT WHAT`.

The process of rank 0 writes the state at the end, and the gradients of the last step, to OUT.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from safetensors.torch import save_file
from torch import Tensor

from recdreamer.config import StepConfig
from recdreamer.distillation.guidance_config import RectifierConfig
from recdreamer.distillation.methods import Guide
from recdreamer.field import RadianceField
from recdreamer.field.region_field import RegionField
from recdreamer.graphs import Rerun
from recdreamer.mesh import Mesh
from recdreamer.models.close_ups import CloseUps
from recdreamer.models.painting import Painting
from recdreamer.models.radiance import Scene
from recdreamer.models.surface import Surface
from recdreamer.parallel import team
from recdreamer.pose.control import YawPosterior
from recdreamer.pose.perturbation import averaged_logits
from recdreamer.pose.rectifier import Rectifier
from recdreamer.presets import resolve
from recdreamer.prior.denoiser import Denoiser
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraBranch, LoraTrainer
from recdreamer.prior.prompts import Prompts, ViewConfig
from recdreamer.recorded_step import RecordedSteps
from recdreamer.shared.protocol import JobRequest
from recdreamer.stages.geometry import start_grid
from recdreamer.start.starting_point import FROM_PROMPT, StartingPoint

SETTINGS = {
    "optimize.num_steps": 8, "optimize.num_views": 5, "optimize.render_px": 16, "field.num_levels": 2,
    "field.log2_table_size": 8, "geometry.num_views": 5, "geometry.render_px": 16, "geometry.resolution": 16,
    "texture.num_views": 5, "texture.render_px": 16, "texture.cached_views": 10, "texture.detail_steps": 8,
    "guidance.lora_warmup_steps": 1, "regularizers.z_variance": 1.0,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "shape": {},
    "shape, learned background": {"optimize.background": "learned"},
    "shape, samples in buffers": {"render.haze_steps": 2, "occupancy.interval": 2},
    "shape, released clamp": {"rectifier.clamp": "released"},
    "shape, separate pass": {"rectifier.separate_pass": True},
    "shape, from a start": {},
    "shape, recorded": {},
    "shape, two views at once": {"guidance.views_at_once": 2},
    "shape, recorded, one view at once": {"guidance.views_at_once": 1},
    "geometry": {},
    "texture": {},
    "close_ups": {},
}


class ByBrightness:
    """Two classes, told apart by the mean of perturbed pictures."""

    labels = ("front", "back")

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        def logits_of(pictures: Tensor) -> Tensor:
            bright = 5 * (pictures[..., :8].mean((1, 2, 3)) - pictures[..., 8:].mean((1, 2, 3)))
            return torch.stack([bright, -bright], 1)

        return averaged_logits(logits_of, images, generator, 2, 0.1).log_softmax(1)


def guide_of(prior: DiffusionPrior, of_step: StepConfig, settings: RectifierConfig) -> Guide:
    prompts = Prompts.encode(prior.encode_text, "a red bear", ViewConfig(), False)
    azimuths = torch.tensor([0.0, 180.0])
    rectifier = Rectifier(ByBrightness(), "marginal", azimuths, 10, 10, yaw=YawPosterior(azimuths, 20))
    method = of_step.method
    return Guide(
        method, Denoiser(prior, LoraBranch(prior, 2, ("to_q",), 0)), prompts, of_step.guidance,
        [rectifier] if method == "usd" else [], settings,
    )  # fmt: skip


def run(case: str, num_steps: int = 2) -> dict[str, Tensor]:
    """State and gradients after two steps; `case` says which stage, and with what.

    Not after more: a sample that is drawn beside its neighbour, for rounding, makes 10⁻⁴ of a gradient.
    """
    stage = case.split(",")[0]
    config = resolve(JobRequest("a red bear", device="cpu", seed=3, overrides=SETTINGS | CASES[case]))
    of_step, cpu = config.step(stage), torch.device("cpu")
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    guide = guide_of(prior, of_step, config.rectifier)
    lora = None
    if of_step.method in ("usd", "vsd") and guide.denoiser.branch is not None:
        lora = LoraTrainer(guide.denoiser.branch, 0.01, 1)
    if stage == "shape":
        start = FROM_PROMPT
        if "start" in case:
            start = StartFromBall()
        theta: Any = Scene(config, cpu, start=start)
    else:
        ball = trimesh.creation.icosphere(3, 0.6)
        mesh = Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32))
        field = RadianceField(config.field, config.seed)
        theta = (
            Surface(config, start_grid(config, mesh, field, cpu), cpu)
            if stage == "geometry"
            else Painting(config, mesh, field, cpu)
        )
        theta = CloseUps(config, theta) if stage == "close_ups" else theta
    steps = RecordedSteps(of_step, prior, guide, lora, recorder=Rerun if "recorded" in case else None)
    for step in range(num_steps):
        steps.run(step, theta, theta.cameras(step) if stage in ("texture", "close_ups") else None)
    assert any(steps.recordings.values()) == ("recorded" in case)
    parts = [part for part in (theta, lora, *guide.rectifiers) if part is not None]
    found = {name: tensor for part in parts for name, tensor in part.tensors().items()}
    optimizers = {"theta": theta.descent.optimizer} | ({"lora": lora.optimizer} if lora else {})
    for name, optimizer in optimizers.items():
        for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            if parameter.grad is not None:
                found[f"grad.{name}.{index}"] = parameter.grad
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}


class StartFromBall(StartingPoint):
    """A frozen field beside the one that learns, which it is held to."""

    def __init__(self) -> None:
        super().__init__("object", 0.5)

    def make_fields(self, config: Any, seed: int) -> tuple[RadianceField | RegionField, RadianceField]:
        return RadianceField(config, seed), RadianceField(config, seed).requires_grad_(False)


def main() -> None:
    out, count, rank, port, case = sys.argv[1:]
    torch.set_num_threads(1)
    if int(count) > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        team.join(torch.device("cpu"), int(rank), int(count))
    for each in case.split(";"):
        found = run(each)
        if rank == "0":
            save_file(found, Path(out) / f"{each}-{count}.safetensors")


if __name__ == "__main__":
    main()
