"""Starting points: the mesh file and its faults, the start of the field, how it is held, regions, earlier jobs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from recdreamer.cameras import camera_rays
from recdreamer.checkpoint import CheckpointStore
from recdreamer.config import GenerateConfig, as_json, resolve
from recdreamer.field import RadianceField
from recdreamer.field.region_field import RegionField, free_within
from recdreamer.field.solid import GREY, SolidField
from recdreamer.field.volume import grid_points, trilinear
from recdreamer.generate import handed_on, placing
from recdreamer.geometry import freedom
from recdreamer.mesh import Mesh
from recdreamer.optimize import orbit, step_generator
from recdreamer.protocol import JobFolder, JobRequest, RequestError, write_atomically
from recdreamer.rendering import render
from recdreamer.rendering.ray_cast import MeshCaster
from recdreamer.scene import Particles, Scene
from recdreamer.start import StartingPoint, field_of, prepare_start
from recdreamer.start_mesh import Placement

CPU = torch.device("cpu")

SMALL = {
    "start.resolution": 48, "optimize.num_steps": 40, "optimize.num_views": 4, "optimize.render_px": 32,
    "field.num_levels": 6, "field.log2_table_size": 13, "field.max_resolution": 48,
}  # fmt: skip


def figure() -> dict[str, np.ndarray]:
    """A body with a head and a long nose, in metres, away from the origin: a soup of three overlapping parts."""
    body = trimesh.creation.icosphere(3, 0.30)
    head = trimesh.creation.icosphere(3, 0.20).apply_translation((0, 0, 0.42))
    nose = trimesh.creation.box((0.10, 0.30, 0.10)).apply_translation((0, -0.25, 0.42))
    mesh = trimesh.util.concatenate([body, head, nose]).apply_translation((2.0, -1.0, 3.0))
    return {"verts": mesh.vertices.astype(np.float32), "faces": mesh.faces.astype(np.int32)}


def above(arrays: dict[str, np.ndarray], height: float) -> np.ndarray:
    """A region: the vertices above a height."""
    return (arrays["verts"][:, 2] > height).astype(np.float32)


def make_job(
    folder: Path, arrays: dict[str, np.ndarray] | None = None, **changes
) -> tuple[JobFolder, GenerateConfig]:
    folder.mkdir(parents=True, exist_ok=True)
    if arrays is not None:
        np.savez(folder / "start.npz", **arrays)
        changes = {"start": "object", "start_mesh": "start.npz"} | changes
    overrides = SMALL | changes.pop("overrides", {})
    request = JobRequest("a red bear", seed=3, device="cpu", overrides=overrides, **changes)
    write_atomically(folder / "job.json", request.to_json())
    config = resolve(request)
    write_atomically(folder / "config.json", json.dumps(as_json(config)))
    return JobFolder(folder), config


def start_of(
    folder: Path, arrays: dict[str, np.ndarray] | None = None, **changes
) -> tuple[StartingPoint, GenerateConfig]:
    job, config = make_job(folder, arrays, **changes)
    start = prepare_start(job, config, CPU)
    assert start is not None
    return start, config


def opacities(scene: Scene, size_px: int = 64) -> Tensor:
    cameras = orbit(4, scene.config, CPU)
    with torch.no_grad():
        return render(
            scene.field, scene.occupancy, cameras, size_px, size_px, torch.ones(4, 3), scene.config.render
        ).opacity[:, 0]


def iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())


def push(scene: Scene, num_steps: int, color: tuple[float, float, float] | None) -> None:
    """Optimizer steps along a gradient that paints each pixel; None makes matter vanish instead."""
    for step in range(num_steps):
        generator = step_generator(0, step, CPU)
        rendering = scene.render(orbit(4, scene.config, CPU, 10.0 * step), step, generator)
        if color is None:
            latents = rendering.opacity
            grad = torch.ones_like(latents)
        else:
            latents = rendering.rgb
            grad = (latents - torch.tensor(color)[:, None, None]).detach()
        scene.descend(rendering, latents, grad, step, generator)


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
    assert prepare_start(job, config, CPU) is None
    job, config = make_job(tmp_path / "b", figure(), start="prompt")
    with pytest.raises(RequestError, match="from the prompt alone"):
        prepare_start(job, config, CPU)


def test_to_paint_only_takes_no_distances(tmp_path: Path):
    start, _ = start_of(tmp_path, figure(), start="texture")
    assert start.mesh is not None and start.distances is None and start.region is None


# The start of the field


def test_the_field_starts_as_the_object(tmp_path: Path):
    start, config = start_of(tmp_path, figure(), overrides={"start.resolution": 96})
    assert start.mesh is not None
    scene = Scene(config, CPU, 0, start)
    rays_o, rays_d = camera_rays(orbit(4, config, CPU), 64, 64)
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
    red = scene.picture(orbit(4, config, CPU), 64).permute(0, 2, 3, 1)[before].mean(0)
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
    pictures = scene.picture(orbit(4, config, CPU), 64)
    push(scene, 30, color)
    after = scene.field.density(xyz).detach()
    assert torch.equal(before[is_kept], after[is_kept]) and not torch.equal(before[~is_kept], after[~is_kept])
    change = (scene.picture(orbit(4, config, CPU), 64) - pictures).abs()
    assert change[:, :, 42:].max() < 1e-3
    assert change[:, :, :28].max() > 0.1
    lower = pictures[:, :, 42:][(opacities(scene) > 0.9)[:, None, 42:].expand(-1, 3, -1, -1)]
    assert lower.min() == pytest.approx(0.2, abs=0.05), "it has the colours that it brought"


def test_a_region_field_passes_gradients_where_it_may_change_only():
    config = resolve(JobRequest("x")).field
    region = (grid_points(9)[:, 2] > 0).float().view(9, 9, 9)
    ball = grid_points(9).norm(dim=1).view(9, 9, 9) - 0.5
    field = RegionField(SolidField(10.0, ball), RadianceField(config, 0, ball), region)
    for height, expected in ((-0.5, False), (0.5, True)):
        field.zero_grad()
        sigmas, rgbs = field(torch.tensor([[0.0, 0.0, height], [0.1, 0.1, height]]))
        if sigmas.requires_grad:
            (sigmas.sum() + rgbs.sum()).backward()
        assert (field.field.hidden.weight.grad is not None) == expected
    assert rgbs.shape == (2, 3)
    frozen = field(torch.tensor([[0.0, 0.0, -0.5]]))
    assert torch.equal(frozen[1], torch.full((1, 3), GREY))
    assert {name.split(".")[0] for name, p in field.named_parameters() if p.requires_grad} == {"field"}


class Asked(RadianceField):
    """Counts the points that it is asked about."""

    points = 0

    def forward(self, xyz: Tensor) -> tuple[Tensor, Tensor]:
        self.points += len(xyz)
        return super().forward(xyz)


def test_a_place_costs_one_field_however_many_regions_followed_one_another():
    config, xyz = replace(resolve(JobRequest("x")).field, log2_table_size=10), grid_points(16)
    slabs = [(grid_points(9)[:, 2] > low).float() for low in (-0.3, 0.1, -0.1)]
    field = parts = None
    for number, slab in enumerate(slabs):
        changing = Asked(config, number)
        before = Asked(config, 9) if field is None else field
        parts = [changing, before] if parts is None else [changing, *parts]
        field = RegionField(before, changing, slab.view(9, 9, 9))
    assert field is not None and parts is not None
    with torch.no_grad():
        sigmas = field(xyz)[0]
        asked = sum(part.points for part in parts)
        # By the formula, everything of everything.
        w = [trilinear(slab.view(1, 9, 9, 9), xyz)[:, 0] for slab in slabs]
        densities = [part(xyz)[0] for part in parts]
    mixed = densities[-1]
    for weight, density in zip(w, densities[-2::-1], strict=True):
        mixed = (1 - weight) * mixed + weight * density
    torch.testing.assert_close(sigmas, mixed)
    assert asked < 1.6 * len(xyz), "borders are asked twice, nothing else is"


def test_a_region_begins_as_the_part_that_has_the_most_of_it():
    config = replace(resolve(JobRequest("x")).field, log2_table_size=10)
    height = grid_points(9)[:, 2]
    upper, top, lower = ((height > 0).float(), (height > 0.6).float(), (height < 0.1).float())
    first, second = RadianceField(config, 1), RadianceField(config, 2)
    earlier = RegionField(first, second, upper.view(9, 9, 9))
    for region, expected in ((top, second), (lower, first), (upper + lower, first)):
        found = free_within(earlier, region.clamp(0, 1).view(9, 9, 9), config, 3)
        assert found.frozen is earlier and found.field is not expected
        assert torch.equal(found.field.grid.table, expected.grid.table)
        assert all(parameter.requires_grad for parameter in found.field.parameters())
    assert free_within(earlier, upper.view(9, 9, 9), config, 3) is earlier


def test_a_state_says_what_its_numbers_mean():
    config = replace(resolve(JobRequest("x")).field, log2_table_size=10)
    coarse, fine = RadianceField(config, 1), RadianceField(replace(config, max_resolution=256), 2)
    region = (grid_points(9)[:, 2] > 0).float().view(9, 9, 9)
    field, xyz = RegionField(coarse, fine, region), grid_points(6)
    with torch.no_grad():
        assert torch.equal(field(xyz)[0], field_of(field.state_dict(), config)(xyz)[0])
    with pytest.raises(ValueError, match="expected the state of a field of"):
        fine.load_state_dict(coarse.state_dict())


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


# Earlier jobs


def earlier_job(folder: Path, arrays: dict[str, np.ndarray] | None = None) -> tuple[Scene, GenerateConfig]:
    """A job whose shape was pushed a little and saved."""
    start, config = start_of(folder, arrays or figure(), strength=1.0)
    particles = Particles(config, CPU, start)
    push(particles.scenes[0], 4, (1.0, 0.0, 0.0))
    CheckpointStore(folder / "checkpoints").save(
        "shape", 4, particles.tensors(), {"seconds": 1.0}, final=True
    )
    return particles.scenes[0], config


def test_a_job_goes_on_from_another_with_a_fresh_optimizer(tmp_path: Path):
    scene, _ = earlier_job(tmp_path / "old")
    start, config = start_of(
        tmp_path / "new", start="continue", start_job=str(tmp_path / "old"), method="sds",
        overrides={"optimize.num_steps": 7, "optimize.num_particles": 2, "field.steps_per_level": 9},
    )  # fmt: skip
    particles = Particles(config, CPU, start)
    for other in particles.scenes:
        other.field.set_progress(0)
        assert torch.equal(scene.picture(orbit(4, config, CPU), 48), other.picture(orbit(4, config, CPU), 48))
        assert not any("optimizer" in name for name in other.tensors())
    push(particles.scenes[1], 2, (0.0, 1.0, 0.0))
    assert not torch.equal(opacities(particles.scenes[1]), opacities(scene))
    assert torch.equal(opacities(particles.scenes[0]), opacities(scene))


def test_a_job_that_goes_on_keeps_the_region_of_the_earlier_one(tmp_path: Path):
    arrays = figure()
    scene, _ = earlier_job(tmp_path / "old", arrays | {"region": above(arrays, 3.25)})
    start, config = start_of(
        tmp_path / "new", start="continue", start_job=str(tmp_path / "old"), strength=0.5
    )
    first, second = Particles(config, CPU, start), Particles(config, CPU)
    other = first.scenes[0]
    cameras = orbit(4, config, CPU)
    before = other.picture(cameras, 48)
    assert isinstance(other.field, RegionField) and torch.equal(before, scene.picture(cameras, 48))
    push(other, 4, (0.0, 0.0, 1.0))
    assert (other.picture(cameras, 48) - before)[:, :, 36:].abs().max() < 1e-3
    second.load({k: v.clone() for k, v in first.tensors().items()})
    for each in (first, second):
        push(each.scenes[0], 1, (0.0, 0.0, 1.0))
    for key, value in first.tensors().items():
        assert torch.equal(value, second.tensors()[key]), key


def test_the_region_of_an_earlier_job_holds_for_the_surface_and_for_its_place(tmp_path: Path):
    """Over two jobs, each after the one before was deleted."""
    arrays = figure()
    arrays["region"] = above(arrays, 3.25)
    earlier_job(tmp_path / "0", arrays)
    first, config = start_of(tmp_path / "same", arrays, strength=0.5)
    for number in (1, 2):
        old = tmp_path / str(number - 1)
        start, config = start_of(
            tmp_path / str(number), start="continue", start_job=str(old), stages=("geometry",), strength=0.5,
            overrides={"geometry.resolution": 48},
        )  # fmt: skip
        handed_on(JobFolder(tmp_path / str(number)), config, start, CPU)
        shutil.rmtree(old)
    assert start.region is not None and torch.equal(start.region, first.region)
    assert start.placement == first.placement
    free = freedom(start, config, CPU)
    assert free is not None and torch.allclose(free, 0.5 * first.region, atol=1e-3)
    in_place = placing(start, 1.0)(Mesh(first.mesh.verts, first.mesh.faces))
    np.testing.assert_allclose(in_place.verts, arrays["verts"], atol=1e-5)


def test_a_new_region_takes_the_place_of_the_earlier_one(tmp_path: Path):
    """Outside of it everything stays, the earlier region too; and a shape that is not made anew is not touched."""
    arrays = figure()
    scene, _ = earlier_job(tmp_path / "old", arrays | {"region": above(arrays, 3.25)})
    below = {"region": 1 - above(arrays, 3.1)}
    changes = {"start": "continue", "start_job": str(tmp_path / "old"), "strength": 1.0}
    start, config = start_of(tmp_path / "new", arrays | below, **changes)
    other = Scene(config, CPU, 0, start)
    xyz = grid_points(40)
    with torch.no_grad():
        is_free, before = other.field.weights(xyz) > 0, scene.field.density(xyz)
        push(other, 4, (0.0, 0.0, 1.0))
        after = other.field.density(xyz)
    assert torch.equal(before[~is_free], after[~is_free]) and not torch.equal(before[is_free], after[is_free])
    job, config = make_job(tmp_path / "kept", arrays | below, stages=("texture",), **changes)
    kept = handed_on(job, config, prepare_start(job, config, CPU), CPU).scenes[0].field
    assert torch.equal(kept.density(xyz), before)


def test_what_has_begun_needs_the_earlier_job_no_more(tmp_path: Path):
    earlier_job(tmp_path / "old")
    changes = {"start": "continue", "start_job": str(tmp_path / "old")}
    start, config = start_of(tmp_path / "new", **changes)
    particles = Particles(config, CPU, start)
    CheckpointStore(tmp_path / "new" / "checkpoints").save("shape", 0, particles.tensors(), {"seconds": 0.0})
    (tmp_path / "old").rename(tmp_path / "gone")
    start, config = start_of(tmp_path / "new", **changes)
    resumed = Particles(config, CPU, start)
    checkpoint = CheckpointStore(tmp_path / "new" / "checkpoints").newest("shape")
    assert checkpoint is not None
    resumed.load(checkpoint.tensors)
    for each in (particles, resumed):
        push(each.scenes[0], 2, None)
    for key, value in particles.tensors().items():
        assert torch.equal(value, resumed.tensors()[key]), key


@pytest.mark.parametrize(
    ("trouble", "complaint"),
    [
        ("gone", "The earlier job is gone"),
        ("no checkpoint", "has no checkpoint of its shape"),
        ("other size", "log2_table_size 13, this job's 12"),
    ],
)
def test_an_earlier_job_that_cannot_serve_is_one_sentence(trouble: str, complaint: str, tmp_path: Path):
    old = tmp_path / "old"
    if trouble != "gone":
        earlier_job(old)
    if trouble == "no checkpoint":
        (old / "checkpoints").rename(old / "elsewhere")
    overrides = {"field.log2_table_size": 12} if trouble == "other size" else {}
    job, config = make_job(tmp_path / "new", start="continue", start_job=str(old), overrides=overrides)
    with pytest.raises(RequestError, match=complaint) as caught:
        prepare_start(job, config, CPU)
    assert caught.value.hint


def test_a_region_of_an_earlier_result_lies_where_the_result_does(tmp_path: Path):
    scene, _ = earlier_job(tmp_path / "old")
    # The result stands on the origin, a metre high; it was 1.37 units high in the scene.
    arrays = figure()
    low, high = arrays["verts"].min(0), arrays["verts"].max(0)
    base = np.array([*(low + high)[:2] / 2, low[2]], np.float32)
    arrays["verts"] = (arrays["verts"] - base) / (high - low)[2]
    arrays["region"] = above(arrays, 0.6)
    start, config = start_of(
        tmp_path / "new", arrays, start="continue", start_job=str(tmp_path / "old"), strength=1.0
    )
    assert start.placement is not None and start.region is not None
    expected = figure()["verts"]
    placed = Placement.centred(expected, config.start.half_size).to_scene(expected)
    np.testing.assert_allclose(start.placement.to_scene(arrays["verts"]), placed, atol=0.05)
    other = Scene(config, CPU, 0, start)
    assert isinstance(other.field, RegionField) and isinstance(other.field.frozen, RadianceField)
    before = other.picture(orbit(4, config, CPU), 48)
    torch.testing.assert_close(before, scene.picture(orbit(4, config, CPU), 48), atol=1e-4, rtol=0)
    push(other, 4, (0.0, 0.0, 1.0))
    change = (other.picture(orbit(4, config, CPU), 48) - before).abs()
    assert change[:, :, 36:].max() < 1e-3 and change.max() > 0.05
