"""What is known of a model that can be used, before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recdreamer.catalog.entries import Kind

Prediction = Literal["epsilon", "v_prediction", ""]
"""What the U-Net predicts; "" if only its output can tell, as in most single files."""


@dataclass(frozen=True)
class Model:
    """A model that has been checked: everything that its files say about it."""

    path: Path
    """A folder in the library's format, or a single .safetensors file."""
    kind: Kind
    family: str
    """In words, e.g. "Stable Diffusion 1.x"."""
    size: int
    """Bytes of the files that are loaded."""
    bits: int
    """Of the widest number: 16 or 32."""
    prediction: Prediction = ""
    has_zero_terminal_snr: bool = False
    """There is no signal at the last timestep. Fine for v-prediction only."""
    image_px: int = 0
    """Side of the pictures that an image model was trained on; 0 if unknown or of another kind."""
    latent_channels: int = 0
    configuration: Path | None = None
    """Of a single file: the folder of configurations that it is loaded with."""
    variants: dict[str, str] = field(default_factory=dict)
    """Of a pipeline folder: the middle part of the file names of each part's weights, "" or "fp16"."""

    def as_json(self) -> dict[str, Any]:
        """The description as plain values."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "family": self.family,
            "bytes": self.size,
            "bits": self.bits,
            "prediction": self.prediction,
            "image_px": self.image_px,
        }
