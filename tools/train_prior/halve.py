"""Store embedded models in half precision: python tools/train_prior/halve.py backend/recdreamer/builtin/prior.

Every loader reads them in single precision again. Two worlds do not fit into 30 MB otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def halve(folder: Path) -> int:
    """Rewrite all .safetensors below a folder whose weights are in single precision. Returns how many there were."""
    count = 0
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if any(values.dtype == torch.float32 for values in weights.values()):
            halved = {
                key: values.half() if values.dtype == torch.float32 else values
                for key, values in weights.items()
            }
            save_file(halved, path, metadata)
            count += 1
    return count


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {halve(Path(name))} files")
