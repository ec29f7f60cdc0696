"""Templates of figurines from other sources than the prior, made without Blender for the studies of `bench_suites.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from recdreamer.cameras import Cameras, orbit_cameras
from recdreamer.evaluation.figurines import POSES, Figurines
from recdreamer.evaluation.mesh_distance import figure_or_none, part_levels, true_surface
from recdreamer.evaluation.mesh_views import colored_views, true_views
from recdreamer.evaluation.sketches import draw_sketches
from recdreamer.images import write_picture
from recdreamer.mesh import Mesh, MeshConfig, extract_mesh
from recdreamer.presets import EMBEDDED_CAMERAS
from recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, RequestError

TEMPLATE_PX = 128
TURNTABLE_ELEVATION_DEG = 10.0
BY_HAND_DEG = {"front": (6.0, 14.0), "right": (83.0, 9.0), "back": (187.0, 17.0), "left": (275.0, 12.0)}
"""Azimuth and elevation of views that an artist has turned by hand, up to 8° off the axes."""
SKETCHED = ("front", "right", "back")
"""The left side is the right one mirrored."""
SKETCH_SEED, STAND_IN_SEED = 5, 16
COARSE = MeshConfig(resolution=32, target_faces=1500, closed_gap=0.0, smoothing_steps=2)
"""Of the stand-in mesh: about as much as a generator that knows the basic elements alone."""


def _seen_from(azimuth_deg: list[float], elevation_deg: list[float]) -> Cameras:
    return orbit_cameras(
        torch.tensor(azimuth_deg), torch.tensor(elevation_deg),
        EMBEDDED_CAMERAS.distance[0], EMBEDDED_CAMERAS.fov_y_deg[0],
    )  # fmt: skip


def _around() -> Cameras:
    return _seen_from([CLASS_AZIMUTHS_DEG[pose] for pose in POSES], [TURNTABLE_ELEVATION_DEG] * len(POSES))


def turntable(prompt: str) -> dict[str, Tensor]:
    """The figure from its four sides, as the add-on's turntable takes them."""
    return dict(zip(POSES, true_views(_figure(prompt), _around(), TEMPLATE_PX), strict=True))


def by_hand(prompt: str) -> dict[str, Tensor]:
    """The figure from four sides by the eye."""
    cameras = _seen_from(*[list(angles) for angles in zip(*BY_HAND_DEG.values(), strict=True)])
    return dict(zip(BY_HAND_DEG, true_views(_figure(prompt), cameras, TEMPLATE_PX), strict=True))


def sketches(prompt: str) -> dict[str, Tensor]:
    """Line drawings of three sides by an unsteady hand."""
    figure, count = _figure(prompt), len(SKETCHED)
    cameras = _seen_from([CLASS_AZIMUTHS_DEG[pose] for pose in SKETCHED], [TURNTABLE_ELEVATION_DEG] * count)
    figures = Figurines(
        *(
            getattr(figure, name).expand(count, *getattr(figure, name).shape[1:])
            for name in ("centers", "radii", "pitch_rad", "is_box", "colors")
        )
    )
    drawn = draw_sketches(figures, cameras, TEMPLATE_PX, torch.Generator().manual_seed(SKETCH_SEED))
    return {f"{pose}-sketch": picture for pose, picture in zip(SKETCHED, drawn, strict=True)}


def other_renders(prompt: str) -> dict[str, Tensor]:
    """Renders of another generator's mesh (paper, Fig. 16), for which a coarse mesh of other proportions stands in.

    That generator has the basic elements alone, so it leaves out the hat that the prompt asks for.
    """
    figure = _figure(prompt.replace(" wearing a hat", "").replace(" at a party", ""))
    figure = figure.varied(torch.Generator().manual_seed(STAND_IN_SEED))
    mesh = stand_in_mesh(figure)
    true = true_surface(figure, 20_000)
    colors = true.colors[KDTree(true.points).query(mesh.verts)[1]]

    def color_at(faces: np.ndarray, weights: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
        return np.einsum("nc,ncd->nd", weights, colors[mesh.faces[faces]])

    views = colored_views(mesh, color_at, _around(), TEMPLATE_PX).textured
    return dict(zip(POSES, views, strict=True))


def stand_in_mesh(figure: Figurines) -> Mesh:
    """The figure's surface on a grid as coarse as COARSE says, in scene units."""

    def density(xyz: Tensor) -> Tensor:
        return 60.0 * torch.from_numpy(part_levels(figure, xyz.double().numpy()).min(1) < 0).float()

    return extract_mesh(density, COARSE)


SOURCES: dict[str, Callable[[str], dict[str, Tensor]]] = {
    "turntable": turntable, "by hand": by_hand, "sketches": sketches, "other renders": other_renders,
}  # fmt: skip
"""Pictures by their file names, for a prompt of the world of figurines."""


def write_templates(source: str, prompt: str, folder: Path) -> None:
    """Write the pictures of a source into a folder, named so that `templates_in` knows their poses; what is there stays.

    Raises RequestError for a prompt that names no figure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in SOURCES[source](prompt).items():
        if not (folder / f"{name}.png").exists():
            write_picture(folder / f"{name}.png", picture)


def _figure(prompt: str) -> Figurines:
    figure = figure_or_none(prompt)
    if figure is None:
        raise RequestError(
            f"There is no figure for the prompt {prompt!r}, of which templates could be made.",
            "Give a prompt of the embedded figurines, such as 'a red bear', or a source with --templates.",
        )
    return figure
