"""Starting from a mesh: its place, the start of the field, how it is held, and regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from recdreamer.cameras import camera_rays, orbit
from recdreamer.field.grid_values import grid_points
from recdreamer.field.region_field import RegionField
from recdreamer.mesh import Mesh
from recdreamer.models.radiance import Particles, Scene
from recdreamer.rendering.ray_cast import MeshCaster
from recdreamer.shared.material_slots import MaterialSlots
from recdreamer.shared.protocol import JobFolder, RequestError
from recdreamer.shared.uv_map import tile_numbers
from recdreamer.stages.workpiece import placing
from recdreamer.start.earlier_job import written_yaw_deg
from recdreamer.start.mesh_file import Placement
from recdreamer.start.prepare import prepare_start
from recdreamer.start.starting_point import FROM_PROMPT, StartingPoint, in_scene

from .starts import CPU, above, figure, iou, make_job, opacities, push, start_of

# The file


def test_a_mesh_is_placed_in_the_middle_and_found_again(tmp_path: Path):
    arrays = figure()
    start, _ = start_of(tmp_path, arrays)
    mesh, placement = start.mesh, start.placement
    assert mesh is not None and placement is not None and mesh.uvs is None
    low, high = mesh.verts.min(0), mesh.verts.max(0)
    np.testing.assert_allclose(low + high, 0, atol=1e-6)
    assert (high - low).max() == pytest.approx(1.5)
    # Front and up stay where they were: the nose points to -Y, above the middle.
    nose = mesh.verts[mesh.verts[:, 1].argmin()]
    assert nose[1] == low[1] and nose[2] > 0.3
    np.testing.assert_allclose(placement.to_world(mesh.verts), arrays["verts"], atol=1e-6)
    assert np.array_equal(start.original["verts"], arrays["verts"])


def test_a_prompt_has_no_start_and_a_mesh_without_a_use_is_refused(tmp_path: Path):
    job, config = make_job(tmp_path / "a")
    assert prepare_start(job, config, CPU) is FROM_PROMPT
    job, config = make_job(tmp_path / "b", figure(), start="prompt")
    with pytest.raises(RequestError, match="from the prompt alone"):
        prepare_start(job, config, CPU)


def test_to_paint_only_takes_no_distances(tmp_path: Path):
    start, _ = start_of(tmp_path, figure(), start="texture")
    assert start.mesh is not None and start.distances is None and start.region is None


def told(folder: Path, arrays: dict, **changes) -> list[str]:
    """What preparing a start says."""
    job, config = make_job(folder, arrays, **changes)
    lines: list[str] = []
    prepare_start(job, config, CPU, warn=lines.append)
    return lines


def test_what_was_changed_of_a_mesh_is_said_when_the_job_begins(tmp_path: Path):
    kept = figure() | {"notes": np.frombuffer(b"The mesh was changed.\n\x1b[31mred\n" * 20, np.uint8)}
    lines = told(tmp_path / "a", kept, height_m=float(np.ptp(kept["verts"][:, 2])))
    assert lines[:2] == ["The mesh was changed.", "\\x1b[31mred"] and len(lines) == 10
    assert told(tmp_path / "b", figure(), start="texture") == ["The mesh has no UV map; a new one is made."]
    stacked = figure() | {"uvs": np.tile(np.eye(3, 2, dtype=np.float32), (len(figure()["faces"]), 1, 1))}
    (line,) = told(tmp_path / "c", stacked, start="texture")
    assert "100% of the UV map lies under other parts" in line


def test_a_result_of_another_size_than_the_object_is_reported(tmp_path: Path):
    height = float(np.ptp(figure()["verts"][:, 2]))
    assert told(tmp_path / "a", figure(), height_m=height) == []
    (line,) = told(tmp_path / "b", figure(), height_m=2.0)
    assert line == f"The object is {height:.3g} m high, and its result will be 2 m high."
    region = {"region": above(figure(), 3.3)}
    assert told(tmp_path / "c", figure() | region, height_m=2.0) == [], "a region keeps its place"


def test_a_flat_object_keeps_its_size(tmp_path: Path):
    """By its height, a sheet of 2 m and a millimetre would become a kilometre wide."""
    sheet = trimesh.creation.box((2.0, 1.0, 1e-3))
    arrays = {"verts": sheet.vertices.astype(np.float32), "faces": sheet.faces.astype(np.int32)}
    (line,) = told(tmp_path / "a", arrays, height_m=0.5)
    assert line.startswith("The object is flat, 2 × 1 × 0.001 m: it keeps its size")
    start, _ = start_of(tmp_path / "b", arrays, height_m=0.5)
    assert start.mesh is not None
    # What comes out of the field is two cells thick.
    thick = start.mesh.verts * np.array([1, 1, 40], np.float32)
    placed = placing(start, 0.5)(Mesh(thick, start.mesh.faces))
    np.testing.assert_allclose(np.ptp(placed.verts, axis=0), (2.0, 1.0, 0.04), rtol=1e-4)
    upright = {"verts": arrays["verts"][:, [0, 2, 1]], "faces": arrays["faces"]}
    start, _ = start_of(tmp_path / "c", upright, height_m=0.5)
    assert start.mesh is not None
    assert np.ptp(placing(start, 0.5)(start.mesh).verts[:, 2]) == pytest.approx(0.5)


def test_an_object_too_thin_to_be_seen_and_ignored_faces_are_reported(tmp_path: Path):
    needle = trimesh.creation.box((0.002, 0.002, 1.0))
    arrays = {"verts": needle.vertices.astype(np.float32), "faces": needle.faces.astype(np.int32)}
    new_uvs, line = told(tmp_path / "a", arrays, start="texture")
    assert new_uvs.startswith("The mesh has no UV map") and "1 m long but only 0.002 m wide" in line
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    doubled = np.concatenate([box.faces, box.faces[:3, ::-1], [[0, 0, 1]]]).astype(np.int32)
    (line,) = told(tmp_path / "b", {"verts": box.vertices.astype(np.float32), "faces": doubled})
    assert line.startswith("4 of the 16 triangles of the object have no area or lie upon others")


@pytest.mark.parametrize(
    "text",
    ['{"meshes": [{"yaw_deg": 30.5}], "stretch": Infinity}', "[" * 100_000, "{", '{"meshes": {}}', "[]",
     '{"meshes": [{"yaw_deg": NaN}]}', '{"meshes": [{"yaw_deg": 1' + "0" * 400 + "}]}", '{"meshes": [{"yaw_deg": []}]}'],
)  # fmt: skip
def test_the_turn_of_an_earlier_result_is_read_or_is_none(text: str, tmp_path: Path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "report.json").write_text(text)
    assert written_yaw_deg(JobFolder(tmp_path)) == (30.5 if "30.5" in text else 0.0)


def test_a_job_does_not_continue_itself(tmp_path: Path):
    job, config = make_job(tmp_path, start="continue", start_job=str(tmp_path / "."))
    with pytest.raises(RequestError, match="continues itself"):
        prepare_start(job, config, CPU)


# The start of the field


def test_the_field_starts_as_the_object(tmp_path: Path):
    start, config = start_of(tmp_path, figure(), overrides={"start.resolution": 96})
    assert start.mesh is not None
    scene = Scene(config, CPU, 0, start)
    rays_o, rays_d = camera_rays(orbit(4, config.cameras, CPU), 64, 64)
    caster = MeshCaster(start.mesh.verts, start.mesh.faces, "cpu")
    hit = caster.cast(rays_o.reshape(-1, 3), rays_d.reshape(-1, 3))[0].view(4, 64, 64) >= 0
    found = opacities(scene)
    assert iou(found > 0.5, hit) > 0.9
    assert found[hit].mean() > 0.9 and found[~hit].mean() < 0.02


def test_a_resumed_scene_needs_no_start(tmp_path: Path):
    arrays = figure()
    for name, more in {"plain": {}, "region": {"region": above(arrays, 3.3)}}.items():
        start, config = start_of(tmp_path / name, arrays | more, strength=0.25)
        scene, other = Particles(config, CPU, start), Particles(config, CPU)
        push(scene.scenes[0], 2, (1.0, 0.0, 0.0))
        other.load({k: v.clone() for k, v in scene.tensors().items()})
        assert torch.equal(opacities(scene.scenes[0]), opacities(other.scenes[0]))
        push(scene.scenes[0], 2, (1.0, 0.0, 0.0))
        push(other.scenes[0], 2, (1.0, 0.0, 0.0))
        for key, value in scene.tensors().items():
            assert torch.equal(value, other.tensors()[key]), key


# Strength


def test_strength_decides_how_far_the_shape_may_go(tmp_path: Path):
    # Nothing else that holds the shape: no falling rates, no wish for opaque pixels.
    free = {"optimize.final_learning_rate": 1.0, "regularizers.opaque": 0.0}
    start, config = start_of(tmp_path, figure(), overrides=free)
    kept = {}
    for strength in (0.0, 0.5, 1.0):
        scene = Scene(config, CPU, 0, replace(start, strength=strength))
        before = opacities(scene) > 0.5
        push(scene, 40, None)
        kept[strength] = iou(before, opacities(scene) > 0.5)
    assert kept[0.0] > 0.95
    assert kept[1.0] < 0.2
    assert kept[0.0] > kept[0.5] > 0.5


def test_without_strength_the_shape_stays_but_the_colour_learns(tmp_path: Path):
    start, config = start_of(tmp_path, figure(), strength=0.0)
    scene = Scene(config, CPU, 0, start)
    before = opacities(scene) > 0.5
    push(scene, 40, (1.0, 0.0, 0.0))
    assert iou(before, opacities(scene) > 0.5) > 0.95
    red = scene.picture(orbit(4, config.cameras, CPU), 64).permute(0, 2, 3, 1)[before].mean(0)
    assert red[0] > 0.7 and red[1] < 0.3


# Regions


@pytest.mark.parametrize("color", [(0.0, 1.0, 0.0), None])
def test_outside_the_region_nothing_changes(color: tuple | None, tmp_path: Path):
    arrays = figure()
    arrays |= {
        "region": above(arrays, 3.25),
        "rgb": np.tile(np.float32([0.2, 0.4, 0.9]), (len(arrays["verts"]), 1)),
    }
    start, config = start_of(tmp_path, arrays, strength=1.0)
    assert start.region is not None
    scene = Scene(config, CPU, 0, start)
    assert isinstance(scene.field, RegionField)
    xyz = grid_points(40)
    is_kept = scene.field.weights(xyz) == 0
    before = scene.field.density(xyz).detach()
    # A level camera: rays through the lower half of the picture stay below the region.
    config = replace(config, cameras=replace(config.cameras, elevation_deg=(0.0, 0.0)))
    scene.config = config
    pictures = scene.picture(orbit(4, config.cameras, CPU), 64)
    push(scene, 30, color)
    after = scene.field.density(xyz).detach()
    assert torch.equal(before[is_kept], after[is_kept]) and not torch.equal(before[~is_kept], after[~is_kept])
    change = (scene.picture(orbit(4, config.cameras, CPU), 64) - pictures).abs()
    assert change[:, :, 42:].max() < 1e-3
    assert change[:, :, :28].max() > 0.1
    lower = pictures[:, :, 42:][(opacities(scene) > 0.9)[:, None, 42:].expand(-1, 3, -1, -1)]
    assert lower.min() == pytest.approx(0.2, abs=0.05), "it has the colours that it brought"


def test_a_region_out_of_sight_takes_no_step(tmp_path: Path):
    start, config = start_of(tmp_path, figure(), strength=1.0)
    scene = Scene(config, CPU, 0, replace(start, region=torch.zeros(48, 48, 48)))
    before = {name: value.clone() for name, value in scene.field.field.state_dict().items()}
    push(scene, 2, (1.0, 0.0, 0.0))
    assert all(torch.equal(value, before[name]) for name, value in scene.field.field.state_dict().items())


def test_a_region_ends_away_from_its_surface(tmp_path: Path):
    arrays = figure()
    start, _ = start_of(tmp_path, arrays | {"region": above(arrays, 3.25)})
    assert start.region is not None
    assert start.region.min() == 0 and start.region.max() == 1
    top = start.region[24, 24]
    assert top[:10].max() == 0 and top[38] == 1, "below and inside the head"
    assert start.region[0, 0, -1] == 0, "the corner is far from it"


def test_a_mesh_is_painted_in_uvs_in_which_no_materials_overlap_and_its_own_stay() -> None:
    square = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], np.float32)
    verts = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    original = {"verts": verts, "faces": np.array([[0, 1, 2], [0, 2, 3]] * 2, np.int32)}
    original |= {"uvs": np.tile(square, (2, 1, 1))} | MaterialSlots(
        np.array([0, 0, 1, 1]), ("a", "b")
    ).as_arrays()
    placement = Placement.centred(verts, 0.75)
    painted = in_scene(StartingPoint("texture", 0.0, original), placement)
    assert painted.mesh is not None and painted.mesh.uvs is not None
    assert tile_numbers(painted.mesh.uvs).tolist() == [1001] * 2 + [1011] * 2
    assert painted.original["uvs"].max() == 1
    shaped = in_scene(StartingPoint("object", 0.0, original), placement)
    assert shaped.mesh is not None and np.array_equal(shaped.mesh.uvs, original["uvs"])
