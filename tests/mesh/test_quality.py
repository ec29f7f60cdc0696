"""The numbers that say how good a mesh is, against meshes for which they are known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from recdreamer.mesh import Mesh, extract_mesh, mesh_report, unwrap, uv_stretch
from recdreamer.mesh.charts import segment
from recdreamer.mesh.mesh import connected_components, face_neighbours, is_watertight
from recdreamer.mesh.parametrize import flatten_or_none, make_charts

from .fields import SMALL, nose_field


def grid(height: np.ndarray | float = 0.0, size: int = 12) -> Mesh:
    """Square patch over [0, 1]^2, with its own x and y as UVs."""
    along = np.linspace(0, 1, size)
    x, y = np.meshgrid(along, along, indexing="ij")
    verts = np.stack([x, y, np.broadcast_to(height, x.shape)], -1).reshape(-1, 3).astype(np.float32)
    a = (np.arange(size - 1)[:, None] * size + np.arange(size - 1)).ravel()
    faces = np.concatenate([np.stack([a, a + size, a + size + 1], 1), np.stack([a, a + size + 1, a + 1], 1)])
    faces = faces.astype(np.int32)
    return Mesh(verts, faces, verts[faces][..., :2].copy())


def with_uvs(mesh: Mesh, uvs: np.ndarray) -> Mesh:
    return Mesh(mesh.verts, mesh.faces, uvs.astype(np.float32))


def test_an_isometry_of_any_size_stretches_nothing() -> None:
    mesh = grid()
    for scale in (1.0, 0.3):
        stretch = uv_stretch(with_uvs(mesh, mesh.uvs_or_error() * scale))
        assert list(stretch.values()) == pytest.approx([1] * 5, abs=1e-4)


def test_a_stretch_by_four_along_u_is_reported_as_four() -> None:
    """Singular values 1/2 and 2 in units of equal area: L2 = sqrt((4 + 1/4) / 2), G / g = 4, area unchanged."""
    mesh = grid()
    stretch = uv_stretch(with_uvs(mesh, mesh.uvs_or_error() * (1, 0.25)))
    assert stretch["l2"] == pytest.approx(math.sqrt((4 + 0.25) / 2), rel=1e-4)
    assert stretch["angle_max"] == pytest.approx(4, rel=1e-4)
    assert stretch["area_max"] == pytest.approx(1, rel=1e-4)


def test_faces_without_uv_area_are_infinitely_bad() -> None:
    mesh = grid()
    uvs = mesh.uvs_or_error().copy()
    uvs[:20] = 0
    assert uv_stretch(with_uvs(mesh, uvs))["area_max"] == math.inf


def test_a_developable_patch_flattens_to_its_own_lengths() -> None:
    """A quarter of a cylinder."""
    flat = grid()
    angle = flat.verts[:, 0] * (math.pi / 2)
    bent = Mesh(np.stack([np.sin(angle), flat.verts[:, 1], np.cos(angle)], 1).astype(np.float64), flat.faces)
    uvs = flatten_or_none(bent)
    assert uvs is not None
    edges = bent.verts[bent.faces] - np.roll(bent.verts[bent.faces], 1, axis=1)
    flat_edges = uvs[bent.faces] - np.roll(uvs[bent.faces], 1, axis=1)
    ratio = np.linalg.norm(flat_edges, axis=-1) / np.linalg.norm(edges, axis=-1)
    assert np.abs(ratio - 1).max() < 2e-3


def test_a_closed_surface_and_a_patch_that_would_overlap_do_not_flatten(sphere_mesh: Mesh) -> None:
    assert flatten_or_none(Mesh(sphere_mesh.verts.astype(np.float64), sphere_mesh.faces)) is None
    # A strip round a ring one and a half times: flat, without a fold, and over itself.
    turn = np.linspace(0, 3 * math.pi, 60)
    ring = np.stack([np.cos(turn), np.sin(turn), 0.0 * turn], 1)
    verts = np.concatenate([ring, 1.3 * ring])
    verts[:, 2] = 0.002 * np.tile(turn, 2)
    a = np.arange(59)
    faces = np.concatenate([np.stack([a, a + 60, a + 61], 1), np.stack([a, a + 61, a + 1], 1)])
    strip = Mesh(verts, faces.astype(np.int32))
    assert flatten_or_none(strip) is None
    assert len(make_charts(strip)[0]) >= 2


def test_patches_are_connected_and_cover_every_face(sphere_mesh: Mesh) -> None:
    patches = segment(sphere_mesh)
    neighbours = face_neighbours(sphere_mesh)
    assert len(np.unique(patches)) == patches.max() + 1
    for number in range(patches.max() + 1):
        inside = np.flatnonzero(patches == number)
        reached = {int(inside[0])}
        waiting = [int(inside[0])]
        while waiting:
            for other in neighbours[waiting.pop()].tolist():
                if other >= 0 and patches[other] == number and other not in reached:
                    reached.add(other)
                    waiting.append(other)
        assert len(reached) == len(inside)


@pytest.mark.parametrize("target_faces", [2_000, 8_000, 30_000])
def test_any_number_of_faces_gives_a_closed_mesh_that_hardly_stretches(target_faces: int) -> None:
    mesh = extract_mesh(nose_field, replace(SMALL, resolution=112, target_faces=target_faces))
    assert 0.9 * target_faces < len(mesh.faces) <= 1.01 * target_faces
    assert is_watertight(mesh)
    unwrapped, num_islands = unwrap(mesh, SMALL)
    stretch = uv_stretch(unwrapped)
    assert stretch["l2"] < 1.05
    assert stretch["area_p99"] < 2
    assert stretch["angle_p99"] < 2
    assert num_islands < 60


def test_the_report_counts_parts_and_edges(sphere_mesh: Mesh) -> None:
    two = Mesh(
        np.concatenate([sphere_mesh.verts, sphere_mesh.verts + 2]),
        np.concatenate([sphere_mesh.faces, sphere_mesh.faces + len(sphere_mesh.verts)]).astype(np.int32),
    )
    assert connected_components(two).max() == 1
    report = mesh_report(two)
    assert (report["components"], report["is_watertight"], report["faces"]) == (2, True, len(two.faces))
    assert "uv_stretch" not in report
    assert mesh_report(Mesh(two.verts, two.faces[1:]))["is_watertight"] is False


def test_neighbours_of_a_border_and_of_a_flipped_face_are_none() -> None:
    mesh = grid(size=3)
    neighbours = face_neighbours(mesh)
    assert (neighbours < 0).sum() == 8
    face, side = np.argwhere(neighbours >= 0)[0]
    assert face in neighbours[neighbours[face, side]]
    faces = mesh.faces.copy()
    faces[0] = faces[0, ::-1]
    assert (face_neighbours(Mesh(mesh.verts, faces))[0] < 0).all()
