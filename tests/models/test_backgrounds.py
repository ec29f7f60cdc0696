"""What lies behind the object in each stage's training pictures: a random tinted grey, as the settings say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from recdreamer.cameras import sample_cameras
from recdreamer.config import GenerateConfig
from recdreamer.field import FieldConfig, RadianceField
from recdreamer.field.grid_values import grid_points
from recdreamer.mesh import Mesh
from recdreamer.models.close_ups import CloseUps
from recdreamer.models.model import Model
from recdreamer.models.painting import Painting
from recdreamer.models.radiance import Scene
from recdreamer.models.surface import Surface
from recdreamer.presets import resolve
from recdreamer.sdf.distance_grid import DistanceGrid
from recdreamer.shared.protocol import JobRequest

CPU, VIEWS = torch.device("cpu"), 12
SETTINGS = {
    "optimize.render_px": 16, "geometry.render_px": 16, "geometry.resolution": 24, "texture.render_px": 16,
    "texture.num_views": VIEWS, "texture.cached_views": VIEWS, "texture.detail_zoom": 1.0,
    "texture.detail_steps": 1, "field.num_levels": 2, "field.blob_radius": 0.1,
}  # fmt: skip


def painting(config: GenerateConfig) -> Painting:
    """Of a ball so small that the corners of every picture are free."""
    small = trimesh.creation.icosphere(subdivisions=2, radius=0.2)
    mesh = Mesh(small.vertices.astype(np.float32), small.faces.astype(np.int32))
    return Painting(config, mesh, RadianceField(FieldConfig(num_levels=2), 0), CPU)


def surface(config: GenerateConfig) -> Surface:
    distances = (grid_points(24).norm(dim=1) - 0.2).view(24, 24, 24)
    return Surface(config, DistanceGrid(distances, torch.full((3, 24, 24, 24), 0.5)), CPU)


MODELS: dict[str, Callable[[GenerateConfig], Model]] = {
    "shape": lambda config: Scene(config, CPU),
    "geometry": surface,
    "texture": painting,
    "close-ups": lambda config: CloseUps(config, painting(config)),
}


def corners(stage: str, brightness: tuple[float, float], tint: float, seed: int = 0) -> Tensor:
    """The corner of each of a step's pictures, (views, 3)."""
    overrides = SETTINGS | {
        "optimize.background_brightness": list(brightness),
        "optimize.background_tint": tint,
    }
    config = resolve(JobRequest("a red bear", overrides=overrides))
    model, generator = MODELS[stage](config), torch.Generator().manual_seed(seed)
    own = model.cameras(0) if isinstance(model, Painting | CloseUps) else None
    cameras = own or sample_cameras(config.cameras, VIEWS, generator, CPU)
    return model.render(cameras, 0, generator).rgb[:, :, 0, 0].detach()


@pytest.mark.parametrize("stage", MODELS)
def test_brightness_and_tint_are_those_of_the_settings(stage: str) -> None:
    seen = corners(stage, (0.3, 0.6), 0.2)
    assert seen.min() >= 0.2 - 1e-3 and seen.max() <= 0.7 + 1e-3
    spread = seen.amax(1) - seen.amin(1)
    assert spread.max() <= 0.2 + 1e-3 and spread.min() < 0.15 and spread.max() > 0.08
    assert seen.mean(1).std() > 0.03, "each view has its own"
    assert not torch.allclose(seen, corners(stage, (0.3, 0.6), 0.2, seed=1), atol=0.01), "and each step"


@pytest.mark.parametrize("stage", MODELS)
def test_without_tint_a_background_is_grey(stage: str) -> None:
    seen = corners(stage, (0.3, 0.6), 0.0)
    assert (seen.amax(1) - seen.amin(1)).max() < 1e-3 and seen.mean(1).std() > 0.03
    assert torch.allclose(corners(stage, (0.5, 0.5), 0.0), torch.full((VIEWS, 3), 0.5), atol=1e-3)
