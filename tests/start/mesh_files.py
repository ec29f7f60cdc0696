"""Mesh files as the worker reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recdreamer.shared.material_slots import slots_in
from recdreamer.start.mesh_file import read_start_mesh, start_mesh_bytes, start_notes


def read(folder: Path, name: str, content: bytes | str) -> dict[str, np.ndarray]:
    """The mesh of a file, as the worker reads it."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "start.npz").write_bytes(start_mesh_bytes(path, "object"))
    return read_start_mesh(folder / "start.npz")


def notes(folder: Path) -> str:
    return " ".join(start_notes(folder / "start.npz"))


def materials_of_faces(arrays: dict[str, np.ndarray]) -> list[str]:
    slots = slots_in(arrays, len(arrays["faces"]))
    return [] if slots is None else [slots.names[slot] for slot in slots.of_face]
