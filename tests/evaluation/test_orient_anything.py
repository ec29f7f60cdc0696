"""Orient Anything's file as its authors write it, with random weights."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config

from recdreamer.evaluation.inspect_mesh import choose_oracle
from recdreamer.evaluation.orient_anything import OrientAnything, load_orient_anything, pose_probs
from recdreamer.shared.protocol import RequestError

SMALL = Dinov2Config(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=28)
EARLIER = {
    "attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense",
}  # fmt: skip
"""Names of transformers 4, in which the file was written."""


@pytest.fixture(scope="module")
def network() -> OrientAnything:
    torch.manual_seed(0)
    made = OrientAnything(SMALL, 902)
    for norm in (made.down_sampler["net1"][1], made.down_sampler["net2"][1]):
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return made.eval()


def as_released(network: OrientAnything) -> dict[str, Tensor]:
    found = {}
    for name, value in network.state_dict().items():
        for present, earlier in EARLIER.items():
            name = name.replace(present, earlier)
        found[name] = value.clone()
    return found


def test_the_released_tensors_are_read(network: OrientAnything, tmp_path: Path) -> None:
    file = tmp_path / "dino_weight.safetensors"
    save_file(as_released(network), file)
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(load_orient_anything(file).pose_probs(pictures), network.pose_probs(pictures))
    oracle = choose_oracle("auto", "a red bear", None, "builtin", "builtin", torch.device("cpu"), file)
    assert oracle is not None and oracle.name == "Orient Anything"
    torch.testing.assert_close(oracle.probs(pictures), network.pose_probs(pictures))


@pytest.mark.parametrize(
    ("azimuth", "pose"), [(0, 0), (44, 0), (316, 0), (46, 1), (90, 1), (180, 2), (270, 3)]
)
def test_azimuths_belong_to_the_nearest_pose(azimuth: int, pose: int) -> None:
    outputs = torch.full((1, 902), -50.0)
    outputs[0, azimuth] = outputs[0, -2] = 50.0
    assert pose_probs(outputs).argmax() == pose and pose_probs(outputs).max() > 0.99
    outputs[0, -1], outputs[0, -2] = 50.0, -50.0
    assert torch.allclose(pose_probs(outputs), torch.full((1, 4), 0.25)), "it says that there is no front"


@pytest.mark.parametrize("kind", ["missing", "text", "other tensors", "no norm", "no bias"])
def test_other_files_are_refused(kind: str, network: OrientAnything, tmp_path: Path) -> None:
    file = tmp_path / "dino_weight.safetensors"
    weights = as_released(network)
    match kind:
        case "text":
            file.write_text("no weights")
        case "other tensors":
            save_file({"a": torch.zeros(3)}, file)
        case "no norm":
            save_file({name: value for name, value in weights.items() if "net2.1" not in name}, file)
        case "no bias":
            save_file({name: value for name, value in weights.items() if "1.mlp.fc2.bias" not in name}, file)
    with pytest.raises(RequestError, match=r"dino_weight\.safetensors"):
        load_orient_anything(file)


def test_a_pickle_is_refused_with_the_way_to_convert_it(network: OrientAnything, tmp_path: Path) -> None:
    file = tmp_path / "dino_weight.pt"
    torch.save(as_released(network), file)
    with pytest.raises(RequestError, match="is a pickle") as refused:
        load_orient_anything(file)
    command = re.search(r'python -c "(.*)"', refused.value.hint)
    assert command is not None
    subprocess.run([sys.executable, "-c", command[1]], cwd=tmp_path, check=True)
    pictures = torch.rand(2, 3, 64, 64)
    found = load_orient_anything(tmp_path / "dino_weight.safetensors").pose_probs(pictures)
    torch.testing.assert_close(found, network.pose_probs(pictures))


def test_it_asks_for_its_weights() -> None:
    with pytest.raises(RequestError, match="weights are missing"):
        choose_oracle("orient", "", None, "builtin", "builtin", torch.device("cpu"))
