"""Surfaces, ray casts and signed distances on a GPU answer as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from recdreamer.cameras import camera_rays, orbit_cameras
from recdreamer.field import OccupancyConfig, OccupancyGrid, RadianceField
from recdreamer.field.grid_values import grid_points
from recdreamer.mesh import Mesh, bake_color, unwrap
from recdreamer.mesh.mesh import MeshConfig
from recdreamer.models.painting import Painting
from recdreamer.presets import EMBEDDED_FIELD, resolve
from recdreamer.rendering.ray_cast import MeshCaster
from recdreamer.rendering.render_sdf import render_surface
from recdreamer.sdf.distance_grid import DistanceGrid
from recdreamer.sdf.from_mesh import SolidMesh
from recdreamer.shared.protocol import JobRequest
from recdreamer.stages.texture import texture_field
from recdreamer.stages.workpiece import Workpiece
from recdreamer.start.starting_point import StartingPoint

pytestmark = pytest.mark.gpu
SIZE = 48


def both() -> list[torch.device]:
    return [torch.device("cpu"), torch.device("cuda")]


def ball() -> Mesh:
    shape = trimesh.creation.torus(0.5, 0.2, major_sections=48, minor_sections=24)
    return Mesh(shape.vertices.astype(np.float32), shape.faces.astype(np.int32))


def test_pictures_of_a_surface_and_their_gradient() -> None:
    pictures, grads = [], []
    for device in both():
        distances = (grid_points(SIZE, device).norm(dim=1) - 0.6).view(SIZE, SIZE, SIZE)
        grid = DistanceGrid(distances, torch.full((3, SIZE, SIZE, SIZE), 0.5, device=device)).to(device)
        cameras = orbit_cameras(
            torch.tensor([0.0, 120.0], device=device), torch.tensor([8.0, 8.0], device=device), 4.0, 30.0
        )
        occupancy = OccupancyGrid(OccupancyConfig()).to(device)
        ground = torch.full((2, 3), 0.8, device=device)
        found = render_surface(grid, occupancy, cameras, 64, ground, "shaded", 0.01, 0.02)
        found.rgb.square().sum().backward()
        pictures.append(found.rgb.detach().cpu())
        grads.append(grid.distances.grad.cpu())
    torch.testing.assert_close(*pictures, atol=2e-3, rtol=0)
    assert torch.nn.functional.cosine_similarity(*(grad.flatten() for grad in grads), dim=0) > 0.999


def test_rays_meet_the_same_faces() -> None:
    found = []
    for device in both():
        cameras = orbit_cameras(
            torch.tensor([20.0], device=device), torch.tensor([30.0], device=device), 4.0, 30.0
        )
        rays_o, rays_d = (rays.reshape(-1, 3) for rays in camera_rays(cameras, 96, 96))
        mesh = ball()
        faces, _, distances = MeshCaster(mesh.verts, mesh.faces, device).cast(rays_o, rays_d)
        found.append((faces.cpu(), distances.cpu()))
    assert (found[0][0] == found[1][0]).float().mean() > 0.995
    hit = (found[0][0] >= 0) & (found[1][0] >= 0)
    torch.testing.assert_close(found[0][1][hit], found[1][1][hit], atol=1e-3, rtol=0)


def test_signed_distances() -> None:
    mesh = ball()
    cpu, cuda = (SolidMesh(mesh.verts, mesh.faces, device).on_grid(40).distances.cpu() for device in both())
    torch.testing.assert_close(cpu, cuda, atol=1e-4, rtol=0)


def test_a_painted_mesh_and_its_texture() -> None:
    config, mesh = resolve(JobRequest("a red bear")), ball()
    field = RadianceField(EMBEDDED_FIELD, 0)
    cameras = [
        orbit_cameras(torch.tensor([40.0], device=device), torch.tensor([9.0], device=device), 4.0, 30.0)
        for device in both()
    ]
    paintings = [Painting(config, mesh, field, device) for device in both()]
    pictures = [p.picture(c, 64).cpu() for p, c in zip(paintings, cameras, strict=True)]
    assert (pictures[0] - pictures[1]).abs().mean() < 1e-3
    flat = unwrap(mesh, MeshConfig(texture_size_px=128))[0]
    textures = [
        bake_color(flat, lambda xyz, normals, p=p: p.color(xyz), texture_size_px=128, device=p.device).tiles[
            1001
        ]
        for p in paintings
    ]
    assert np.abs(textures[0].astype(int) - textures[1]).mean() < 1


def test_a_region_of_an_object_is_painted_on_the_device_of_its_region() -> None:
    mesh, device = ball(), torch.device("cuda")
    config = resolve(JobRequest("a ring", start="texture", start_mesh="m.npz"))
    distances = (grid_points(SIZE, device).norm(dim=1) - 0.6).view(SIZE, SIZE, SIZE)
    original = {"verts": mesh.verts, "faces": mesh.faces}
    start = StartingPoint("texture", 1.0, original, mesh, distances=distances, region=(distances > 0).float())
    work = Workpiece.given(start, config, device)
    painting = Painting(config, mesh, texture_field(config, start, work.field, 0), device)
    points = torch.from_numpy(mesh.verts).to(device)
    assert painting.color(points).device.type == work.shade(points, points).device.type == "cuda"
