"""Judging the finished mesh of a job by the true figure of its prompt, with a sheet of views to look at.

Free of the method's code: a mesh is judged wherever its files are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from recdreamer.evaluation.figurines import COLORS, KINDS, Figurines
from recdreamer.evaluation.job_report import add_to_report
from recdreamer.evaluation.mesh_distance import (
    best_yaw,
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
from recdreamer.protocol import JobFolder
from recdreamer.report import JobError

VIEW_PX = 128
SURFACE_POINTS = 50_000
SHEET_SIZE = 1.5
"""Longest side of the mesh on its sheet, in scene units: about that of the figures."""


def judge_mesh(job: JobFolder) -> dict[str, Any]:
    """Measure the finished mesh of a job, add the answer to result/report.json as "geometry".

    Against the true figure where the prompt names one of the embedded world: where it fits best, and as it stands.
    "floor" is what two samplings of the truth differ by. Also writes result/mesh-sheet.png: twelve views of the mesh
    as it stands, textured and in clay. Raises JobError when there is no mesh.
    """
    if not (job.result / "mesh.npz").exists():
        raise JobError("evaluate", f"{job.root} holds no finished mesh.", "Run the job to its end first.")
    with np.load(job.result / "mesh.npz", allow_pickle=False) as arrays:
        mesh = Mesh(arrays["verts"], arrays["faces"], arrays["uvs"])
    tiles = _base_colors(job, mesh)
    write_views(mesh_views(_centered(mesh), tiles, sheet_cameras(), VIEW_PX), job.result / "mesh-sheet.png")
    found: dict[str, Any] = {"triangles": triangle_measures(mesh)}
    prompt = job.read_request().prompt
    figure = figure_or_none(prompt)
    if figure is None:
        found["note"] = (
            f"There is no true figure for {prompt!r}, so that only the triangles were measured: the embedded world "
            f"knows {', '.join(KINDS)} in {', '.join(COLORS)}, as in 'a red bear'."
        )
    else:
        found |= against_the_truth(mesh, tiles, figure)
    add_to_report(job, "geometry", found)
    return found


def _base_colors(job: JobFolder, mesh: Mesh) -> Tiles:
    """The base colour of each UV tile that the mesh uses. Raises JobError where it cannot be read."""
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


def against_the_truth(mesh: Mesh, tiles: Tiles, figure: Figurines) -> dict[str, Any]:
    """The measures at the best yaw (degrees, counter-clockwise from above, that the mesh was turned) and without."""
    lo, hi = figure_bounds(figure)
    height = float(hi[2] - lo[2])
    true, other = (true_surface(figure, SURFACE_POINTS, seed) for seed in (0, 1))
    cameras = sheet_cameras()
    true_pictures = true_views(figure, cameras, VIEW_PX)

    def measured(yaw_deg: float) -> dict[str, float]:
        there = fitted_to(mesh, yaw_deg, lo, hi)
        surface = mesh_surface(there, tiles, SURFACE_POINTS)
        pictures = mesh_views(there, tiles, cameras, VIEW_PX).textured
        distance = compare_surfaces(surface, true, height).as_dict()
        return {"yaw_deg": yaw_deg, **distance, "psnr_db": psnr_db(pictures, true_pictures)}

    unrotated, turned = measured(0.0), measured(best_yaw(mesh, figure))
    return {
        # The yaw was searched with fewer points: a mesh that fits nowhere well may fit as well as it stands.
        "best_yaw": min(turned, unrotated, key=lambda found: found["chamfer"]),
        "unrotated": unrotated,
        "floor": compare_surfaces(other, true, height).as_dict(),
    }


def _centered(mesh: Mesh) -> Mesh:
    """The mesh with its middle on the origin, as large as its sheet shows it."""
    lo, hi = mesh.verts.min(0), mesh.verts.max(0)
    return replace(mesh, verts=(mesh.verts - (lo + hi) / 2) * (SHEET_SIZE / (hi - lo).max()))
