"""The coarse mesh that the worker of a running job writes. No bpy here."""

from __future__ import annotations

import numpy as np

from ...backend.recdreamer.shared.protocol import COARSE_MESH, RequestError
from ...backend.recdreamer.shared.safe_files import confined, read_npz
from .job import Job

MAX_FACES, MAX_BYTES = 8_000, 1 << 20
"""Of a file in the job folder, which a stranger may have written."""


def read_coarse(job: Job) -> dict[str, np.ndarray]:
    """`verts` (verts 3) in metres, on the origin; `faces` (faces 3); `rgb` (verts 3), bytes. Raises RequestError."""
    arrays = read_npz(confined(job.folder.root, COARSE_MESH), ("verts", "faces", "rgb"), MAX_BYTES)
    verts, faces, rgb = (arrays.get(name, np.empty(0)) for name in ("verts", "faces", "rgb"))
    fits = verts.shape[1:] == (3,) == faces.shape[1:] and rgb.shape == verts.shape
    kinds = verts.dtype.kind == "f" and faces.dtype.kind in "iu" and rgb.dtype == np.uint8
    if not (fits and kinds and 0 < len(faces) <= MAX_FACES and len(verts)):
        raise RequestError("The preview of this job cannot be used.", "Wait for the next one.")
    verts = verts.astype(np.float64)
    low, high = verts.min(0), verts.max(0)
    is_right = faces.min() >= 0 and faces.max() < len(verts) and np.abs(verts).max() <= 2 and high[2] > low[2]
    if not is_right or job.request is None:
        raise RequestError("The preview of this job cannot be used.", "Wait for the next one.")
    base = np.array(((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]))
    verts = (verts - base) * (job.request.height_m / (high[2] - low[2]))
    return {"verts": verts.astype(np.float32), "faces": faces.astype(np.int32), "rgb": rgb}
