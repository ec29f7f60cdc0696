"""Compares the finished mesh of a job with the true figure of its prompt, and writes a sheet of views.

Independent of the method: only the files of the mesh are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.evaluation.animal_meshes import AnimalTruth, animal_or_none, load_animals
from recdreamer.evaluation.figurines import COLORS, KINDS, Figurines
from recdreamer.evaluation.job_report import add_to_report
from recdreamer.evaluation.mesh_distance import (
    SEARCH_POINTS,
    SurfacePoints,
    best_yaw_to,
    compare_surfaces,
    figure_bounds,
    figure_or_none,
    fitted_to,
    mesh_surface,
    triangle_measures,
    true_surface,
)
from recdreamer.evaluation.mesh_views import mesh_views, psnr_db, sheet_cameras, true_views, write_views
from recdreamer.mesh.baked_texture import Tiles
from recdreamer.mesh.export import texture_name
from recdreamer.mesh.mesh import Mesh
from recdreamer.mesh.raster import tiles_of_faces
from recdreamer.report import JobError
from recdreamer.shared.protocol import JobFolder
from recdreamer.shared.safe_files import read_npz

VIEW_PX = 128
SURFACE_POINTS = 50_000
SHEET_SIZE = 1.5
"""Longest side of the mesh on its sheet, in scene units: about that of the figures."""


@dataclass(frozen=True)
class FigureTruth:
    """A figurine."""

    figure: Figurines

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return figure_bounds(self.figure)

    def surface(self, count: int, seed: int = 0) -> SurfacePoints:
        return true_surface(self.figure, count, seed)

    def views(self, cameras: Cameras, size_px: int) -> Tensor:
        return true_views(self.figure, cameras, size_px)


Truth = FigureTruth | AnimalTruth
"""What a mesh is compared with."""


def judge_mesh(job: JobFolder, animals: Path | None = None) -> dict[str, Any]:
    """Measure the finished mesh of a job and add the results to result/report.json as "geometry".

    If the prompt names a figure of the embedded world, or an animal in the file `animals`, compares with it, at the best
    yaw and unrotated; "floor" is the difference between two samplings of the truth. Also writes result/mesh-sheet.png:
    twelve views of the mesh as it stands, textured and in clay. Raises JobError if there is no mesh, RequestError if the
    file cannot be read.
    """
    if not (job.result / "mesh.npz").exists():
        raise JobError("evaluate", f"{job.root} has no finished mesh.", "Run the job to its end first.")
    arrays = read_npz(job.result / "mesh.npz", ("verts", "faces", "uvs"))
    if len(arrays) < 3:
        raise JobError("evaluate", "mesh.npz has no textured mesh.", "Repeat the last stage of the job.")
    mesh = Mesh(arrays["verts"], arrays["faces"], arrays["uvs"])
    tiles = _base_colors(job, mesh)
    write_views(mesh_views(_centered(mesh), tiles, sheet_cameras(), VIEW_PX), job.result / "mesh-sheet.png")
    found: dict[str, Any] = {"triangles": triangle_measures(mesh)}
    prompt = job.read_request().prompt
    truth = truth_of(prompt, animals)
    if truth is None:
        found["note"] = (
            f"There is no true figure for {prompt!r}, so only the triangles were measured. The embedded world has "
            f"{', '.join(KINDS)} in {', '.join(COLORS)}, as in 'a red bear'. For animals, name their file."
        )
    else:
        found |= against_the_truth(mesh, tiles, truth)
    add_to_report(job, "geometry", found)
    return found


def truth_of(prompt: str, animals: Path | None) -> Truth | None:
    """The animal or the figure that a prompt names. Raises RequestError if the file of animals cannot be read."""
    if animals is not None and (animal := animal_or_none(prompt, load_animals(animals))):
        return animal
    figure = figure_or_none(prompt)
    return None if figure is None else FigureTruth(figure)


def _base_colors(job: JobFolder, mesh: Mesh) -> Tiles:
    """The base colour of each UV tile in use. Raises JobError if one cannot be read."""
    tiles: Tiles = {}
    used = np.unique(tiles_of_faces(mesh.uvs_or_error())).tolist()
    for tile in used:
        path = job.result / texture_name("albedo", tile, used)
        try:
            with Image.open(path) as image:
                tiles[tile] = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise JobError("evaluate", f"The texture {path} cannot be read.", "Run the job again.") from error
    return tiles


def against_the_truth(mesh: Mesh, tiles: Tiles, truth: Truth) -> dict[str, Any]:
    """The measures at the best yaw (degrees by which the mesh is turned, counter-clockwise from above) and unrotated."""
    lo, hi = truth.bounds()
    height = float(hi[2] - lo[2])
    true, other = (truth.surface(SURFACE_POINTS, seed) for seed in (0, 1))
    cameras = sheet_cameras()
    true_pictures = truth.views(cameras, VIEW_PX)

    def measured(yaw_deg: float) -> dict[str, float]:
        there = fitted_to(mesh, yaw_deg, lo, hi)
        surface = mesh_surface(there, tiles, SURFACE_POINTS)
        pictures = mesh_views(there, tiles, cameras, VIEW_PX).textured
        distance = compare_surfaces(surface, true, height).as_dict()
        return {"yaw_deg": yaw_deg, **distance, "psnr_db": psnr_db(pictures, true_pictures)}

    unrotated, turned = measured(0.0), measured(best_yaw_to(mesh, (lo, hi), truth.surface(SEARCH_POINTS)))
    return {
        # The search for the yaw uses fewer points, so a mesh that fits badly everywhere may fit better unrotated.
        "best_yaw": min(turned, unrotated, key=lambda found: found["chamfer"]),
        "unrotated": unrotated,
        "floor": compare_surfaces(other, true, height).as_dict(),
    }


def _centered(mesh: Mesh) -> Mesh:
    """The mesh centred on the origin, in the size for its sheet."""
    lo, hi = mesh.verts.min(0), mesh.verts.max(0)
    return replace(mesh, verts=(mesh.verts - (lo + hi) / 2) * (SHEET_SIZE / (hi - lo).max()))
