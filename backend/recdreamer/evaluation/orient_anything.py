"""Orient Anything (Wang et al. 2024), which reads an object's azimuth from one picture, as an oracle of poses.

Written from its released code: a DINOv2 without registers, whose class token goes through two linear layers with batch
normalization; the first 360 outputs are a histogram of the azimuth, the last two say whether the object has a front at
all. Tried with random weights only, as its own could not be had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from recdreamer.catalog.headers import PICKLES
from recdreamer.named_tensors import part
from recdreamer.paths import given_path
from recdreamer.shared.protocol import RequestError
from recdreamer.shared.safe_files import printable

NUM_DEGREES = 360
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZED_PX, CROP_PX = 256, 224
"""Of DINOv2's own preprocessing, which the released code uses."""
HEAD_WIDTH = 64
QUARTER = 90
UNREADABLE = (OSError, SafetensorError, KeyError, ValueError, RuntimeError, IndexError, ZeroDivisionError)


class OrientAnything(nn.Module):
    """Probabilities of the four poses."""

    def __init__(self, config: Dinov2Config, num_outputs: int) -> None:
        super().__init__()
        self.dinov2 = Dinov2Model(config)
        self.down_sampler = nn.ModuleDict(
            {
                "net1": nn.Sequential(
                    nn.Linear(config.hidden_size, num_outputs), nn.BatchNorm1d(num_outputs), nn.ReLU()
                ),
                "net2": nn.Sequential(nn.Linear(num_outputs, num_outputs), nn.BatchNorm1d(num_outputs)),
            }
        )

    @torch.no_grad()
    def pose_probs(self, pictures: Float[Tensor, "views 3 height width"]) -> Float[Tensor, "views 4"]:
        """Of front, right, back and left, at azimuths of 0, 90, 180 and 270°; equal ones for what has no front."""
        return pose_probs(self._outputs(pictures))

    def _outputs(self, pictures: Float[Tensor, "views 3 height width"]) -> Float[Tensor, "views outputs"]:
        sized = nn.functional.interpolate(
            pictures, (RESIZED_PX, RESIZED_PX), mode="bicubic", antialias=True, align_corners=False
        )
        edge = (RESIZED_PX - CROP_PX) // 2
        cropped = sized[..., edge : edge + CROP_PX, edge : edge + CROP_PX].clamp(0, 1)
        mean, std = (
            torch.tensor(each, device=pictures.device)[:, None, None] for each in (IMAGE_MEAN, IMAGE_STD)
        )
        hidden = self.dinov2((cropped - mean) / std).last_hidden_state[:, 0]
        return self.down_sampler["net2"](self.down_sampler["net1"](hidden))


def pose_probs(outputs: Float[Tensor, "views outputs"]) -> Float[Tensor, "views 4"]:
    """Probability of each quarter of the circle around 0, 90, 180 and 270°, from the network's outputs.

    An azimuth of 90° has the front on the left of the picture, as here (the released code's arrows).

    >>> outputs = torch.full((1, 902), -40.0)
    >>> outputs[0, 80], outputs[0, -2] = 40.0, 40.0
    >>> pose_probs(outputs).round().tolist()
    [[0.0, 1.0, 0.0, 0.0]]
    """
    azimuth = outputs[:, :NUM_DEGREES].softmax(-1)
    quarters = azimuth.roll(QUARTER // 2, -1).unflatten(-1, (4, QUARTER)).sum(-1)
    has_front = outputs[:, -2:].softmax(-1)[:, :1]
    return has_front * quarters + (1 - has_front) / 4


def load_orient_anything(file: Path, device: torch.device | str = "cpu") -> OrientAnything:
    """The network of its authors' weights (dino_weight.pt) as .safetensors.

    Raises RequestError for any other file.
    """
    file = given_path(file)
    if file.suffix.lower() in PICKLES:
        raise RequestError(
            f"{file.name} is a pickle, which can run any program when it is opened.",
            'Write its tensors as .safetensors, once: python -c "import torch, safetensors.torch as s; '
            "s.save_file(torch.load('dino_weight.pt', weights_only=True), 'dino_weight.safetensors')\"",
        )
    try:
        weights = load_file(file)
        backbone, top = part("dinov2", weights), part("down_sampler", weights)
        layers = {name.split(".")[0] for name in part("encoder.layer", backbone)}
        num_outputs, width = top["net1.0.weight"].shape
        patch_px = backbone["embeddings.patch_embeddings.projection.weight"].shape[-1]
        num_patches = backbone["embeddings.position_embeddings"].shape[1] - 1
        config = Dinov2Config(
            hidden_size=width, num_hidden_layers=len(layers), num_attention_heads=width // HEAD_WIDTH,
            patch_size=patch_px, image_size=patch_px * round(num_patches**0.5),
        )  # fmt: skip
        network = OrientAnything(config, num_outputs)
        # By transformers' own way, which knows the names of its earlier versions.
        loaded: Any = Dinov2Model.from_pretrained(
            None, config=config, state_dict=backbone, output_loading_info=True
        )
        network.dinov2, report = loaded
        if lost := sorted(set(report["missing_keys"]) - {"embeddings.mask_token"}):
            raise KeyError(f"{lost[0]} is missing")
        network.down_sampler.load_state_dict(top)
    except UNREADABLE as error:
        raise RequestError(
            f"{printable(file.name)} has no weights of Orient Anything ({str(error).splitlines()[0][:150]}).",
            "Give its dino_weight.pt as .safetensors.",
        ) from error
    return network.to(device).eval().requires_grad_(False)
