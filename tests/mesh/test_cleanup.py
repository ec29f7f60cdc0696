"""Smoothing and decimation keep a closed surface closed; pinched ones are taken apart."""

import numpy as np
import pytest
from scipy import ndimage

from recdreamer.mesh import Mesh
from recdreamer.mesh.cleanup import decimate, smooth, without_small_parts
from recdreamer.mesh.extract import _marching_cubes
from recdreamer.mesh.mesh import is_watertight, signed_volume, vertex_normals
from recdreamer.mesh.pinches import separate_pinches
from recdreamer.mesh.solid_cells import solid_parts

from .fields import euler_characteristic

TETRAHEDRON = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32)


def noise_mesh(sigma: float) -> Mesh:
    """Closed surface full of handles, bridges and thin walls."""
    values = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(32, 32, 32)), sigma)
    values -= np.quantile(values, 0.6)
    solid = solid_parts(values > 0, 0.01)
    signed = np.where(solid, np.abs(values), -np.abs(values))
    verts, faces = _marching_cubes(np.pad(signed, 1, constant_values=-1.0))
    return Mesh(verts.astype(np.float32), faces.astype(np.int32))


def test_watertight_notices_a_hole_a_flip_and_an_edge_of_four_faces(sphere_mesh: Mesh) -> None:
    verts, faces = sphere_mesh.verts, sphere_mesh.faces
    assert is_watertight(sphere_mesh)
    assert not is_watertight(Mesh(verts, faces[1:]))
    flipped = faces.copy()
    flipped[0] = flipped[0, ::-1]
    assert not is_watertight(Mesh(verts, flipped))
    assert not is_watertight(Mesh(verts, np.concatenate([faces, faces])))
    assert not is_watertight(Mesh(verts, faces[:0]))


def test_decimation_reaches_its_target_and_stays_closed_and_smooth(sphere_mesh: Mesh) -> None:
    mesh = decimate(sphere_mesh, 800)
    assert 700 < len(mesh.faces) <= 808
    assert is_watertight(mesh)
    assert euler_characteristic(mesh) == 2
    assert signed_volume(mesh) == pytest.approx(signed_volume(sphere_mesh), rel=0.01)
    outward = mesh.verts / np.linalg.norm(mesh.verts, axis=1, keepdims=True)
    assert np.degrees(np.arccos((vertex_normals(mesh) * outward).sum(1).clip(-1, 1))).mean() < 1


def test_loose_parts_below_the_share_and_inward_ones_go(sphere_mesh: Mesh) -> None:
    def also(scale: float, faces: np.ndarray) -> Mesh:
        verts = np.concatenate([sphere_mesh.verts, sphere_mesh.verts * np.float32(scale) + np.float32(3)])
        return Mesh(verts, np.concatenate([sphere_mesh.faces, faces + np.int32(len(sphere_mesh.verts))]))

    num_faces = len(sphere_mesh.faces)
    # 0.2^3 is 0.8 % of the volume, 0.25^3 is 1.6 %.
    assert len(without_small_parts(also(0.2, sphere_mesh.faces), 0.01).faces) == num_faces
    assert len(without_small_parts(also(0.25, sphere_mesh.faces), 0.01).faces) == 2 * num_faces
    assert len(without_small_parts(also(0.25, sphere_mesh.faces[:, ::-1]), 0.01).faces) == num_faces


def test_decimation_leaves_a_small_mesh_alone(sphere_mesh: Mesh) -> None:
    assert decimate(sphere_mesh, len(sphere_mesh.faces)) is sphere_mesh


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_decimation_of_a_tangle_stays_closed(sigma: float) -> None:
    tangle = noise_mesh(sigma)
    assert is_watertight(tangle)
    mesh = decimate(tangle, len(tangle.faces) // 12)
    assert is_watertight(mesh)
    assert signed_volume(mesh) == pytest.approx(signed_volume(tangle), rel=0.35)
    assert len(np.unique(mesh.faces)) == len(mesh.verts)


def test_two_solids_that_share_an_edge_are_taken_apart_each_whole() -> None:
    # Both contain the edge 0-1; one lies at +y, the other at -y.
    verts = np.array([[0, 0, 0], [1, 0, 0], [0.5, 1, 0], [0.5, 1, 1], [0.5, -1, 0], [0.5, -1, 1]], np.float32)
    first = TETRAHEDRON[:, ::-1]
    second = np.array([0, 1, 4, 5], np.int32)[TETRAHEDRON]
    pinched = Mesh(verts, np.concatenate([_outward(verts, first), _outward(verts, second)]))
    assert not is_watertight(pinched)

    mesh = separate_pinches(pinched)
    assert is_watertight(mesh)
    assert len(mesh.verts) == 8
    assert euler_characteristic(mesh) == 4
    assert signed_volume(mesh) == pytest.approx(signed_volume(pinched))
    # Each part lies on one side: faces were paired around the solids, not across the gap.
    for faces in np.split(mesh.faces, 2):
        assert len(np.unique(np.sign(mesh.verts[np.unique(faces)][:, 1]))) == 2


def test_two_solids_that_share_a_vertex_are_taken_apart() -> None:
    verts = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    both = np.concatenate([verts, -verts[1:]])
    second = np.array([0, 4, 5, 6], np.int32)[TETRAHEDRON]
    pinched = Mesh(both, np.concatenate([_outward(both, TETRAHEDRON), _outward(both, second)]))
    mesh = separate_pinches(pinched)
    assert len(mesh.verts) == 8
    assert euler_characteristic(mesh) == 4


def test_a_double_wall_of_no_thickness_vanishes(sphere_mesh: Mesh) -> None:
    wall = np.array([[5, 50, 500], [500, 50, 5]], np.int32)
    mesh = separate_pinches(Mesh(sphere_mesh.verts, np.concatenate([sphere_mesh.faces, wall])))
    assert len(mesh.faces) == len(sphere_mesh.faces)
    assert is_watertight(mesh)


def test_an_open_mesh_cannot_be_taken_apart() -> None:
    verts = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="has a boundary"):
        separate_pinches(Mesh(verts, np.array([[0, 1, 2]], np.int32)))


def test_smoothing_removes_noise_but_keeps_the_volume(sphere_mesh: Mesh) -> None:
    noise = np.random.default_rng(0).normal(scale=0.004, size=sphere_mesh.verts.shape).astype(np.float32)
    rough = Mesh(sphere_mesh.verts + noise, sphere_mesh.faces)
    mesh = smooth(rough, 4)
    before, after = (np.std(np.linalg.norm(m.verts, axis=1)) for m in (rough, mesh))
    assert after < 0.5 * before
    assert signed_volume(mesh) == pytest.approx(signed_volume(rough), rel=0.005)
    assert smooth(rough, 0) is rough


def _outward(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """One tetrahedron's faces, wound to look away from it."""
    return faces if signed_volume(Mesh(verts, faces)) > 0 else faces[:, ::-1]
