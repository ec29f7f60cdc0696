"""Whole jobs that start from a mesh: one that is only painted, and one that gives its shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from recdreamer.generate import generate
from recdreamer.presets import resolve
from recdreamer.shared.material_slots import MaterialSlots
from recdreamer.shared.protocol import RequestError

from .small_jobs import Recorder, job_of, mesh_of


def saved_ball(folder: Path, uvs: bool = False, region: bool = False) -> None:
    """The START_MESH of a ball in metres, beside the origin."""
    ball = trimesh.creation.icosphere(3, 0.3).apply_translation((1.0, 2.0, 0.3))
    arrays = {"verts": ball.vertices.astype(np.float32), "faces": ball.faces.astype(np.int32)}
    if uvs:
        # Two tiles: the left half of the ball in the second.
        corners = np.stack([0.2 + 0.6 * np.arange(3)[None] / 3, np.full((1, 3), 0.1)], -1)
        corners[:, 1, 1] += 0.7
        corners = np.repeat(corners, len(ball.faces), 0)
        corners[ball.triangles_center[:, 0] < 1.0, :, 0] += 1
        arrays["uvs"] = corners.astype(np.float32)
    if region:
        arrays["region"] = (ball.vertices[:, 2] > 0.4).astype(np.float32)
        arrays["rgb"] = np.full((len(ball.vertices), 3), (0.1, 0.6, 0.2), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "mesh.npz", **arrays)


def test_what_is_only_painted_keeps_its_mesh_and_moves_uvs_only_by_whole_tiles(tmp_path: Path) -> None:
    saved_ball(tmp_path, uvs=True)
    given = dict(np.load(tmp_path / "mesh.npz"))
    slots = MaterialSlots((np.arange(len(given["faces"])) % 3 == 0).astype(np.int32), ("skin", "eyes"))
    given |= slots.as_arrays()
    np.savez(tmp_path / "mesh.npz", **given)
    job, request = job_of(tmp_path, start="texture", start_mesh="mesh.npz", stages=("texture",))
    report = Recorder()
    generate(job, resolve(request), report)
    assert report.stages == ["prepare", "texture", "mesh"]
    made = np.load(job.result / "mesh.npz")
    assert given.keys() == set(made.files)
    assert all(np.array_equal(given[name], made[name]) for name in given if name != "uvs")
    # The eyes lay upon the skin, and go up by a whole tile; the skin's UVs are the artist's.
    above = np.array([[0.0, 1.0]], np.float32) * (slots.of_face == 1)[:, None, None]
    assert np.array_equal(made["uvs"], given["uvs"] + above)
    written = {path.name for path in job.result.glob("albedo*")}
    assert written == {f"albedo.{tile}.png" for tile in (1001, 1002, 1011, 1012)}


def test_of_a_painted_object_only_the_region_changes(tmp_path: Path) -> None:
    saved_ball(tmp_path, region=True)
    job, request = job_of(tmp_path, {"start.resolution": 32}, start="texture", start_mesh="mesh.npz")
    report = Recorder()
    generate(job, resolve(request), report)
    assert report.stages == ["prepare", "texture", "mesh"], "nothing else is left to be done"
    mesh = np.load(job.result / "mesh.npz")
    with Image.open(job.result / "albedo.png") as image:
        texture = np.asarray(image.convert("RGB")) / 255
    middles, corners = mesh["verts"][mesh["faces"]].mean(1), mesh["uvs"].mean(1)
    below = middles[:, 2] < 0.2
    pixels = texture[((1 - corners[:, 1]) * 64).astype(int).clip(0, 63), (corners[:, 0] * 64).astype(int)]
    assert np.abs(np.median(pixels[below], axis=0) - (0.1, 0.6, 0.2)).max() < 0.02
    assert np.abs(np.median(pixels[middles[:, 2] > 0.5], axis=0) - (0.1, 0.6, 0.2)).max() > 0.05


def test_uvs_that_leave_their_tile_are_refused_before_any_work(tmp_path: Path) -> None:
    saved_ball(tmp_path, uvs=True)
    arrays = dict(np.load(tmp_path / "mesh.npz"))
    np.savez(tmp_path / "mesh.npz", **arrays | {"uvs": 3 * arrays["uvs"] - 0.5})
    job, request = job_of(tmp_path, start="texture", start_mesh="mesh.npz")
    report = Recorder()
    with pytest.raises(RequestError, match="tile"):
        generate(job, resolve(request), report)
    assert not report.previews


def test_an_object_gives_its_shape_and_what_it_gave_can_be_continued(tmp_path: Path) -> None:
    saved_ball(tmp_path / "first")
    few = {"start.resolution": 32}
    job, request = job_of(
        tmp_path / "first", few, start="object", start_mesh="mesh.npz", stages=("geometry",)
    )
    generate(job, resolve(request), Recorder())
    ball = mesh_of(job)["verts"]
    assert np.ptp(ball, axis=0) == pytest.approx([0.5] * 3, rel=0.15)
    again, request = job_of(tmp_path / "second", start="continue", start_job=str(job.root), stages=())
    generate(again, resolve(request), Recorder())
    assert np.array_equal(mesh_of(again)["verts"], ball)
