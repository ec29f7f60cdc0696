"""The number of samples of each texel: that it is handed on, and that a texel is their mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from recdreamer.mesh import Mesh, MeshConfig, dress_mesh

SIZE_PX = 48


def square() -> Mesh:
    """Two triangles that fill most of the texture."""
    verts = np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], np.float32) / 2
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    corners = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]], np.float32)
    return Mesh(verts, faces, corners[faces])


@pytest.mark.parametrize("samples", [1, 4])
def test_a_texel_is_the_mean_of_as_many_samples_as_the_settings_say(tmp_path: Path, samples: int) -> None:
    """Of noise of deviation 0.1, whose mean has 0.1 / √n; and none of the places is a texel's centre."""
    asked: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)

    def noise(points: Tensor, normals: Tensor) -> Tensor:
        asked.append(points)
        return 0.5 + 0.1 * torch.randn(points.shape, generator=generator)

    config = MeshConfig(texture_size_px=SIZE_PX, bake_samples=samples, normal_map=False, padding_px=0)
    dress_mesh(square(), noise, None, config, tmp_path, place=lambda mesh: mesh)
    assert len(asked) == samples and len({len(points) for points in asked}) == 1
    if samples > 1:
        assert not torch.allclose(asked[0], asked[1], atol=1e-4)
    with Image.open(tmp_path / "albedo.png") as picture:
        inside = np.asarray(picture.convert("RGB"))[10:-10, 10:-10] / 255
    assert inside.std() == pytest.approx(0.1 / samples**0.5, rel=0.1)
