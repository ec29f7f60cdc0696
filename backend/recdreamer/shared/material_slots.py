"""Material slots of a mesh: which slot each face has, and the names of the materials in them.

Numpy only, and shared with the add-on like protocol.py: they go from the artist's mesh to the result as two arrays,
`slots` and `slot_names` (see START_MESH).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .safe_files import RequestError, printable

MAX_SLOTS = 1024
"""Of a mesh; each is a material of its own in glTF and in Blender."""
MAX_NAME_BYTES = 63
"""Of a material's name, the limit of Blender."""


@dataclass(frozen=True)
class MaterialSlots:
    """The slots of a mesh, used or not."""

    of_face: np.ndarray
    """Index of each face's slot, int32 `faces`."""
    names: tuple[str, ...]
    """Of the slots' materials; empty for a slot without one."""

    @property
    def num_used(self) -> int:
        return len(np.unique(self.of_face))

    def of(self, chosen: np.ndarray) -> MaterialSlots:
        """The slots of some of the faces, chosen by indices or a mask."""
        return MaterialSlots(self.of_face[chosen], self.names)

    def as_arrays(self) -> dict[str, np.ndarray]:
        """As they stand in an .npz."""
        text = "\n".join(self.names)
        return {"slots": self.of_face.astype(np.int32), "slot_names": np.frombuffer(text.encode(), np.uint8)}


def named_slots(of_face: np.ndarray, names: Sequence[str]) -> MaterialSlots | None:
    """Slots of faces by the places of their materials in `names`, or -1 for a face without a material.

    None if no face has a material, and if there are more materials than slots. Faces without one share a slot of their
    own, the last.

    >>> named_slots(np.array([1, -1]), ["oak", "tin"]).of_face.tolist()
    [1, 2]
    >>> named_slots(np.array([1, -1]), ["oak", "tin"]).names
    ('oak', 'tin', '')
    """
    if not (of_face >= 0).any():
        return None
    shown = [_short(name) for name in names]
    if (of_face < 0).any():
        of_face, shown = np.where(of_face < 0, len(shown), of_face), [*shown, ""]
    return MaterialSlots(of_face.astype(np.int32), tuple(shown)) if len(shown) <= MAX_SLOTS else None


def slots_in(arrays: Mapping[str, np.ndarray], num_faces: int) -> MaterialSlots | None:
    """The slots among the arrays of an .npz; None if it has none. Raises RequestError if they do not fit the faces."""
    if "slots" not in arrays:
        return None
    of_face, text = arrays["slots"], arrays.get("slot_names", np.zeros(0, np.uint8))
    if of_face.dtype.kind not in "iu" or of_face.shape != (num_faces,) or text.dtype != np.uint8:
        raise RequestError("The material slots do not fit the faces of the mesh.", "Choose the object again.")
    last = int(of_face.max(initial=-1))
    if int(of_face.min(initial=0)) < 0 or last >= MAX_SLOTS:
        raise RequestError(
            f"A face has a material slot below 0, or beyond the {MAX_SLOTS:,} that there can be.",
            "Use fewer materials.",
        )
    lines = text.tobytes()[: MAX_SLOTS * (MAX_NAME_BYTES + 1)].decode("utf-8", errors="replace").split("\n")
    names = [_short(line) for line in lines[:MAX_SLOTS]]
    return MaterialSlots(of_face.astype(np.int32), tuple(names + [""] * (last + 1 - len(names))))


def _short(name: str) -> str:
    """A name of one line that fits into Blender.

    >>> _short("two\\nlines"), len(_short("ä" * 100).encode())
    ('two\\\\nlines', 62)
    """
    return printable(name).encode("utf-8", "replace")[:MAX_NAME_BYTES].decode("utf-8", errors="ignore")
