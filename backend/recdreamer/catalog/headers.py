"""What a file of weights says about itself, without loading it: the header of .safetensors, and what is none.

The format: eight bytes with the length of a JSON object, that object (tensor name to dtype, shape and place), and then
the tensors without gaps. So the length of a complete file is known from its header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recdreamer.shared.json_values import parse_json
from recdreamer.shared.protocol import RequestError
from recdreamer.shared.safe_files import reason_of

MAX_HEADER_BYTES = 100_000_000
"""As the format's own library allows."""
MAX_JSON_BYTES = 64 * 2**20
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle", ".th")
OTHER_FORMATS = {
    ".gguf": "GGUF",
    ".onnx": "ONNX",
    ".msgpack": "Flax",
    ".h5": "Keras",
    ".zip": "ZIP",
    ".7z": "7-Zip",
    ".engine": "TensorRT",
    ".mlmodel": "Core ML",
}
FLOATS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}
"""Number formats that can be loaded, with their bits."""
WANTED = "Choose a .safetensors file of Stable Diffusion 1.x or 2.x, or a folder in the format of diffusers."


@dataclass(frozen=True)
class Header:
    """The table of contents of a .safetensors file."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]

    @property
    def bits(self) -> int:
        """Bits of the widest number; 8 if any tensor is quantized to eight bits or fewer."""
        if any(
            dtype in ("I8", "U8") or (dtype[:1] == "F" and dtype not in FLOATS)
            for dtype in self.dtypes.values()
        ):
            return 8
        return max((FLOATS.get(dtype, 0) for dtype in self.dtypes.values()), default=0)


def read_header(path: Path) -> Header:
    """The header of a complete .safetensors file. Raises RequestError that says what the file is instead."""
    refuse_other_formats(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            _refuse_impostors(path, start + stream.read(504))
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            stream.seek(8)
            text = stream.read(length) if 2 <= length <= MAX_HEADER_BYTES else b""
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({error.strerror}).", "Check the disk and the file's permissions."
        ) from error
    again = "Download it again, or choose another file."
    if 2 <= length <= MAX_HEADER_BYTES and len(text) < length:
        raise RequestError(f"{path.name} is cut short: it ends within its header.", again)
    try:
        raw = parse_json(text)
        metadata = raw.pop("__metadata__", None) or {}
        shapes = {name: tuple(int(side) for side in tensor["shape"]) for name, tensor in raw.items()}
        dtypes = {name: str(tensor["dtype"]) for name, tensor in raw.items()}
        end = max((int(tensor["data_offsets"][1]) for tensor in raw.values()), default=0)
        metadata = {str(name): str(value) for name, value in metadata.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise RequestError(f"{path.name} is not a .safetensors file, or it is damaged.", again) from error
    expected = 8 + length + end
    if size < expected:
        raise RequestError(
            f"{path.name} is cut short: {size / 1e6:,.1f} of {expected / 1e6:,.1f} MB are there.", again
        )
    if size > expected:
        raise RequestError(f"{path.name} is damaged: it is longer than its header says.", again)
    return Header(shapes, dtypes, metadata)


def refuse_other_formats(path: Path) -> None:
    """Raise RequestError for a file whose suffix is that of a pickle or of a format that is not read."""
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise RequestError(
            f"{path.name} is a pickle ({suffix}), which can run any program when it is opened.",
            "Choose the model's .safetensors version.",
        )
    if suffix in OTHER_FORMATS:
        raise RequestError(
            f"{path.name} is in the format {OTHER_FORMATS[suffix]}, which is not read.", WANTED
        )
    if suffix != ".safetensors":
        raise RequestError(f"{path.name} is not a model file.", WANTED)


def _refuse_impostors(path: Path, start: bytes) -> None:
    """Raise RequestError for other things that are often found under the name of a model."""
    if start.startswith(b"version https://git-lfs"):
        raise RequestError(
            f"{path.name} is only a pointer of Git LFS, not the file itself.",
            "Run `git lfs pull` in its folder, or download the file again.",
        )
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise RequestError(
            f"{path.name} is a web page that was saved under this name.", "Download the file itself."
        )
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        raise RequestError(
            f"{path.name} is a pickle, whatever its name says; opening it could run any program.",
            "Choose the model's .safetensors version.",
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises RequestError if it is missing, too large, or none."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("it is too large")
        raw = parse_json(path.read_text(encoding="utf-8-sig"))
        if not isinstance(raw, dict):
            raise ValueError("it is not an object")
    except FileNotFoundError as error:
        raise RequestError(
            f"{path.parent.name}/{path.name} is missing.", "Download the model again, or choose another."
        ) from error
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path.parent.name}/{path.name} cannot be read ({reason_of(error)}).",
            "Download the model again, or choose another.",
        ) from error
    return raw
