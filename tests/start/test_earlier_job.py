"""Starting from an earlier job: its field and its regions, and what is said when it cannot serve."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recdreamer.cameras import orbit
from recdreamer.config import GenerateConfig
from recdreamer.field import RadianceField
from recdreamer.field.grid_values import grid_points
from recdreamer.field.region_field import RegionField
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.mesh import Mesh
from recdreamer.models.radiance import Particles, Scene
from recdreamer.shared.protocol import JobFolder, RequestError
from recdreamer.stages.geometry import freedom
from recdreamer.stages.shape import skipped_shape
from recdreamer.stages.texture import texture_field
from recdreamer.stages.workpiece import placing
from recdreamer.start.mesh_file import Placement
from recdreamer.start.prepare import prepare_start

from .starts import CPU, above, figure, make_job, opacities, push, start_of


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
        assert torch.equal(
            scene.picture(orbit(4, config.cameras, CPU), 48), other.picture(orbit(4, config.cameras, CPU), 48)
        )
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
    cameras = orbit(4, config.cameras, CPU)
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
        skipped_shape(JobFolder(tmp_path / str(number)), config, start, CPU)
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
    kept = skipped_shape(job, config, prepare_start(job, config, CPU), CPU).scenes[0].field
    assert torch.equal(kept.density(xyz), before)


@pytest.mark.parametrize("brought", ["no region", "all of it"])
def test_a_mesh_of_which_everything_may_change_lifts_the_region_of_the_earlier_job(brought, tmp_path: Path):
    arrays = figure()
    scene, _ = earlier_job(tmp_path / "old", arrays | {"region": above(arrays, 3.25)})
    everything = {} if brought == "no region" else {"region": np.ones(len(arrays["verts"]), np.float32)}
    start, config = start_of(
        tmp_path / "new", arrays | everything, start="continue", start_job=str(tmp_path / "old"), strength=1.0
    )
    assert start.region is None and start.placement is None
    other, xyz = Scene(config, CPU, 0, start), grid_points(40)
    with torch.no_grad():
        was_free, before = scene.field.weights(xyz) > 0, other.field.density(xyz)
    push(other, 4, (0.0, 0.0, 1.0))
    after = other.field.density(xyz)
    assert not torch.equal(before[~was_free], after[~was_free])
    field = texture_field(config, start, scene.field, 0)
    assert isinstance(field, RadianceField) and all(p.requires_grad for p in field.parameters())
    again = Particles(config, CPU)
    again.load(Particles(config, CPU, start).tensors())


def test_a_skipped_shape_is_that_of_the_first_run(tmp_path: Path):
    job, config = make_job(tmp_path, figure(), stages=("texture",))
    first = skipped_shape(job, config, prepare_start(job, config, CPU), CPU)
    push(first.scenes[0], 2, (1.0, 0.0, 0.0))
    store = CheckpointStore(job.checkpoints)
    store.save("shape", 0, first.tensors(), {"seconds": 0.0}, final=True)
    again = skipped_shape(job, config, prepare_start(job, config, CPU), CPU)
    for key, value in first.tensors().items():
        assert torch.equal(value, again.tensors()[key]), key


def test_what_began_within_a_region_is_painted_there_however_it_is_computed(tmp_path: Path):
    """Anew, on another device, it differs in the last bits."""
    arrays = figure()
    start, config = start_of(tmp_path, arrays | {"region": above(arrays, 3.25)})
    field = start.make_fields(config.field, 0)[0]
    assert start.region is not None
    anew = replace(start, region=start.region * (1 - 1e-6))
    assert texture_field(config, anew, field, 0) is field


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
    before = other.picture(orbit(4, config.cameras, CPU), 48)
    torch.testing.assert_close(before, scene.picture(orbit(4, config.cameras, CPU), 48), atol=1e-4, rtol=0)
    push(other, 4, (0.0, 0.0, 1.0))
    change = (other.picture(orbit(4, config.cameras, CPU), 48) - before).abs()
    assert change[:, :, 36:].max() < 1e-3 and change.max() > 0.05
