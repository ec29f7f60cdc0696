"""Ray casts against a mesh: a ball, the points that are met, and the Warp kernel against plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from recdreamer.cameras import camera_rays, orbit_cameras
from recdreamer.evaluation.bench_field_cases import cast_reference
from recdreamer.rendering.ray_cast import FAR, MeshCaster


def torus(scale: float = 1.0) -> MeshCaster:
    """Rays meet it up to four times."""
    shape = trimesh.creation.torus(0.6, 0.25, major_sections=24, minor_sections=12)
    return MeshCaster((scale * shape.vertices).astype(np.float32), shape.faces.astype(np.int32), "cpu")


def rays() -> tuple[torch.Tensor, torch.Tensor]:
    cameras = orbit_cameras(torch.tensor([10.0, 130.0, 250.0]), torch.full((3,), 25.0), 4.0, 30.0)
    rays_o, rays_d = camera_rays(cameras, 24, 24)
    return rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)


def test_a_ray_meets_a_ball_where_it_should() -> None:
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=0.5)
    caster = MeshCaster(sphere.vertices.astype(np.float32), sphere.faces.astype(np.int32), "cpu")
    origin = torch.tensor([[0.1, -4.0, 0.2]]).expand(2, 3)
    faces, _, distances = caster.cast(origin, torch.tensor([[0.0, 1, 0], [0.0, -1, 0]]))
    assert distances[0].item() == pytest.approx(4 - (0.25 - 0.05) ** 0.5, abs=1e-3)
    assert faces[1] == -1 and distances[1] == FAR


def test_barycentrics_give_the_point_that_the_ray_meets() -> None:
    caster, (rays_o, rays_d) = torus(), rays()
    face, barycentrics, distances = caster.cast(rays_o, rays_d)
    is_hit = face >= 0
    points = torch.einsum("nc,ncd->nd", barycentrics[is_hit], caster.verts[caster.faces[face[is_hit]].long()])
    expected = rays_o[is_hit] + distances[is_hit, None] * rays_d[is_hit]
    torch.testing.assert_close(points, expected, atol=1e-4, rtol=0)


def test_the_nearest_face_is_that_of_the_reference() -> None:
    caster = torus()
    face, barycentrics, distances = caster.cast(*rays())
    expected, expected_barycentrics, expected_distances = cast_reference(caster.verts, caster.faces, *rays())
    is_hit = face >= 0
    assert 0.1 < is_hit.float().mean() < 0.9
    # On an edge shared by two faces either may win; at a border either may see the mesh.
    assert (face == expected).float().mean() > 0.99
    same = is_hit & (face == expected)
    torch.testing.assert_close(distances[same], expected_distances[same], atol=1e-4, rtol=0)
    torch.testing.assert_close(barycentrics[same], expected_barycentrics[same], atol=2e-3, rtol=0)
    # The comparison can fail: a mesh that is a little smaller is told apart.
    smaller = torus(0.99).cast(*rays())[2]
    assert not torch.allclose(smaller[same], expected_distances[same], atol=1e-4, rtol=0)
