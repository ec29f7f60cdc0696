"""The coarse mesh of a running stage, which Blender shows at the place of the result. It costs little, or is left out."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.field import Field
from recdreamer.mesh import Mesh
from recdreamer.mesh.cleanup import decimate
from recdreamer.mesh.extract import rough_mesh
from recdreamer.mesh.mesh import vertex_normals
from recdreamer.models.model import Pictured
from recdreamer.models.painting import Painting
from recdreamer.models.radiance import Scene
from recdreamer.models.surface import Surface
from recdreamer.report import JobError
from recdreamer.sdf.distance_grid import SOLID
from recdreamer.shared.protocol import COARSE_MESH, JobFolder, write_atomically

LEAST_S, SHARE = 2.0, 0.02
"""Least time between two meshes, and their share of the time at most."""
MAX_FACES = 4_000
"""So that Blender exchanges it within two milliseconds."""
GRAY = 0.6
"""Of a surface whose colours are not known."""
Color = Callable[[Float[Tensor, "points 3"], Float[Tensor, "points 3"]], Float[Tensor, "points 3"]]
"""sRGB at points of a surface with their normals."""


class CoarseMeshes:
    """Writes the coarse mesh of a job's first particle now and then."""

    def __init__(
        self,
        job: JobFolder,
        cells: int,
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cells` along a side of the cube; 0: nothing is written."""
        self.path, self.cells, self.device = job.root / COARSE_MESH, cells, device
        self.clock, self.next_s = clock, -torch.inf
        """The time before which none is written."""
        self._painted: Mesh | None = None
        """The frozen mesh of a painting with fewer faces."""

    def offer(self, model: Pictured) -> bool:
        """Write the model's mesh if it is time. True if it was written; no failure of it ends the job."""
        started = self.clock()
        if not self.cells or started < self.next_s:
            return False
        is_done = False
        # An empty or damaged field, memory that is used up, a full disk: stages have their own words on all of them.
        with suppress(JobError, OSError, torch.OutOfMemoryError, MemoryError):
            is_done = self._write(model)
        ended = self.clock()
        self.next_s = ended + max(LEAST_S, (ended - started) / SHARE)
        return is_done

    def _write(self, model: Pictured) -> bool:
        found = self._mesh_of(model)
        if found is None or not len(found[0].faces):
            return False
        mesh, color = found
        with torch.no_grad():
            points = torch.from_numpy(mesh.verts).float().to(self.device)
            rgb = color(points, torch.from_numpy(vertex_normals(mesh)).float().to(self.device)).clamp(0, 1)
        content = io.BytesIO()
        np.savez(
            content,
            verts=mesh.verts.astype(np.float32),
            faces=mesh.faces.astype(np.int32),
            rgb=(255 * rgb.float().cpu().numpy()).round().astype(np.uint8),
        )
        self.path.parent.mkdir(exist_ok=True)
        write_atomically(self.path, content.getvalue())
        return True

    def _mesh_of(self, model: Pictured) -> tuple[Mesh, Color] | None:
        """The mesh in scene units and the colours of its points; None if there is none."""
        match model:
            case Scene():
                mesh, color = (
                    rough_mesh(model.field.density, self.cells, device=self.device),
                    _of(model.field),
                )
            case Surface():
                mesh = rough_mesh(model.grid.solidity, self.cells, SOLID / 2, device=self.device)
                color = model.grid.color if model.grid.albedo.requires_grad else _gray
            case Painting():
                mesh = self._painted = self._painted or decimate(model.mesh, MAX_FACES)
                color = _of(model.field)
            case _:
                return None
        return None if mesh is None else (decimate(mesh, MAX_FACES), color)


def _of(field: Field) -> Color:
    return lambda points, normals: field(points)[1]


def _gray(points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    return torch.full_like(points, GRAY)
