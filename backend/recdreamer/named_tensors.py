"""State as named tensors, so that checkpoints need no pickle."""

from __future__ import annotations

import torch
from torch import Tensor


def part(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `<name>.`, by the rest of their names."""
    return {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`<name>.<parameter number>.<quantity>` for every tensor that the optimizer keeps."""
    state = optimizer.state_dict()["state"]
    return {
        f"{name}.{index}.{key}": torch.as_tensor(value)
        for index, values in state.items()
        for key, value in values.items()
    }


def load_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; the learning rates of `optimizer` stay."""
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        if path.startswith(f"{name}."):
            _, index, key = path.rsplit(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
