"""The coarse mesh of a running job in the scene: one object at the place of the result, which leaves nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json

import bpy
import numpy as np
import pytest

from .objects import add_cube

NAME = "RecDreamer Preview"


@pytest.fixture
def start(settings, addon, pump_until):
    """Start a long job and wait until its mesh is shown; returns the job."""

    def start(steps=3000, shown=True, **overrides):
        assert bpy.ops.recdreamer.generate(
            overrides=json.dumps({"coarse": True, "steps": steps} | overrides)
        ) == {"FINISHED"}
        job = addon("session").session.shown
        pump_until(lambda: job.state.step > 3 and (not shown or NAME in bpy.data.objects))
        return job

    return start


@pytest.fixture
def end(pump_until):
    def end(job):
        bpy.ops.recdreamer.cancel(job_id=job.id)
        pump_until(lambda: job.client is None)

    return end


def world_box(obj):
    bpy.context.view_layer.update()
    world = np.array([obj.matrix_world @ v.co for v in obj.data.vertices])
    return world.min(0), world.max(0)


def of_ours():
    return [
        one.name
        for kind in ("objects", "meshes", "materials")
        for one in getattr(bpy.data, kind)
        if one.name.startswith(NAME)
    ]


def test_one_object_renewed_in_place_and_gone_at_the_end(start, end, settings, pump_until):
    settings.height = 1.8
    bpy.context.scene.cursor.location = (3, 4, 5)
    job = start()
    obj = bpy.data.objects[NAME]
    assert obj.name in bpy.context.scene.objects and obj["recdreamer_preview_of"] == job.id
    low, high = world_box(obj)
    assert np.allclose((low + high)[:2] / 2, (3, 4), atol=1e-3) and low[2] == pytest.approx(5)
    assert high[2] - low[2] == pytest.approx(1.8, abs=1e-3), "of the height that was asked for"
    uid, mesh = obj.session_uid, obj.data
    stamp = (job.folder.root / "previews/coarse.npz").stat().st_mtime_ns
    before = [tuple(v.co) for v in mesh.vertices]
    bpy.context.scene.cursor.location.x = 7
    pump_until(lambda: abs(obj.location.x - 7) < 1e-3)
    assert obj.session_uid == uid and obj.data == mesh and len(mesh.polygons) == 12 and before
    assert (job.folder.root / "previews/coarse.npz").stat().st_mtime_ns != stamp
    colors = np.empty(4 * len(mesh.vertices), np.float32)
    mesh.color_attributes["Color"].data.foreach_get("color_srgb", colors)
    assert np.allclose(colors[:4], (200 / 255, 40 / 255, 30 / 255, 1), atol=0.01)
    assert len(of_ours()) == 3
    end(job)
    assert of_ours() == []


def test_it_is_no_part_of_the_artists_work(start, end, addon, view):
    """Not rendered, selected, captured, or stood beside; no asset; and the view layer's active object stays."""
    cube = add_cube((9, 9, 9))
    job = start()
    obj = bpy.data.objects[NAME]
    assert obj.hide_render and obj.hide_select and not obj.select_get() and obj.asset_data is None
    assert bpy.context.object == cube and bpy.context.selected_objects == [cube]
    with view():
        assert obj not in addon("shelf.captures").visible(bpy.context.view_layer.objects, bpy.context)
    boxes = addon("result.target").boxes_of(bpy.context, lambda one: True)
    assert len(boxes) == 1
    end(job)


def test_it_is_never_saved_and_comes_back(start, end, tmp_path, pump_until):
    job = start()
    path = str(tmp_path / "scene.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    (tmp_path / "copy.blend").write_bytes((tmp_path / "scene.blend").read_bytes())
    path = str(tmp_path / "copy.blend")
    with bpy.data.libraries.load(path) as (there, _):
        assert NAME not in there.objects and NAME not in there.meshes and NAME not in there.materials
    pump_until(lambda: NAME in bpy.data.objects)
    end(job)


def test_a_new_file_during_the_job(start, end, pump_until):
    job = start()
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    pump_until(lambda: NAME in bpy.data.objects)
    end(job)
    assert of_ours() == []


def test_the_switch(start, end, preferences, draw, pump_until, addon):
    preferences.live_mesh = False
    job = start(shown=False)
    assert of_ours() == [] and "live_mesh" in draw().props
    preferences.live_mesh = True
    pump_until(lambda: NAME in bpy.data.objects)
    preferences.live_mesh = False
    addon("session").pump()
    assert of_ours() == []
    end(job)


def test_the_import_takes_its_place(start, settle):
    job = start(steps=60)
    settle()
    assert job.condition == "done" and of_ours() == []
    assert bpy.ops.recdreamer.import_result(job_id=job.id) == {"FINISHED"}
    assert [obj.name for obj in bpy.data.objects] == ["a red bear"]
    assert tuple(bpy.context.object.location) == (0, 0, 0), "it did not stand beside the preview"


def test_deleted_by_the_artist_it_comes_with_the_next_mesh_and_renamed_it_is_kept(start, end, pump_until):
    job = start()
    bpy.data.objects.remove(bpy.data.objects[NAME])
    pump_until(lambda: NAME in bpy.data.objects)
    kept = bpy.data.objects[NAME]
    kept.name = kept.data.name = "keep"
    pump_until(lambda: NAME in bpy.data.objects)
    assert bpy.data.objects[NAME] != kept
    end(job)
    assert [obj.name for obj in bpy.data.objects] == ["keep"]


def test_a_better_version_is_shown_where_the_earlier_one_is(imported, addon, end, pump_until, settings):
    obj, draft = imported
    obj.location, obj.rotation_euler.z = (4, 5, 6), 0.5
    settings.method = "vsd"
    request = draft.request
    session = addon("session").session
    origin = addon("jobs.origin")
    better = session.registry.create(
        dataclasses.replace(request, overrides={"coarse": True, "steps": 3000}),
        [],
        {origin.ORIGIN: origin.Origin("retry", draft.id).to_json().encode()},
    )
    bpy.ops.recdreamer.resume(job_id=better.id)
    pump_until(lambda: NAME in bpy.data.objects)
    bpy.context.view_layer.update()
    assert np.allclose(bpy.data.objects[NAME].matrix_world, obj.matrix_world, atol=1e-5)
    end(better)


def test_nothing_is_shown_for_a_painting(settings, start, end):
    settings.start.kind, settings.start.object = "texture", add_cube()
    job = start(shown=False)
    assert of_ours() == []
    end(job)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays | {"faces": arrays["faces"] + 8},
        lambda arrays: arrays | {"faces": -arrays["faces"] - 1},
        lambda arrays: arrays | {"verts": arrays["verts"] * np.float32(np.nan)},
        lambda arrays: arrays | {"verts": arrays["verts"] * np.float32(1e9)},
        lambda arrays: arrays | {"verts": arrays["verts"] * np.float32(0)},
        lambda arrays: arrays | {"verts": arrays["verts"][:0], "rgb": arrays["rgb"][:0]},
        lambda arrays: arrays | {"rgb": arrays["rgb"].astype(float)},
        lambda arrays: arrays | {"rgb": arrays["rgb"][:3]},
        lambda arrays: {name: arrays[name] for name in ("verts", "faces")},
        lambda arrays: arrays | {"faces": np.zeros((30_000, 3), np.int32)},
    ],
)
def test_a_strangers_mesh_is_not_shown(imported, addon, change):
    _, job = imported
    live = addon("result.live_mesh")
    path = job.folder.root / "previews/coarse.npz"
    verts = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)] * 2, np.float32)
    good = {
        "verts": verts,
        "faces": np.array([(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)]),
        "rgb": np.zeros((8, 3), np.uint8),
    }
    np.savez(path, **good)
    assert live.read_coarse(job)["verts"][:, 2].max() == pytest.approx(1.8)
    np.savez(path, **change(good))
    with pytest.raises(addon("operators.jobs").RequestError):
        live.read_coarse(job)


def test_a_damaged_mesh_is_looked_at_once(start, end, addon, monkeypatch):
    job = start()
    live, looks = addon("result.live_mesh"), []
    path = job.folder.root / "previews/coarse.npz"
    monkeypatch.setattr(live, "_stamp", lambda job: 7)
    original = live.read_coarse
    monkeypatch.setattr(live, "read_coarse", lambda job: looks.append(1) or original(job))
    monkeypatch.setattr(addon("jobs.coarse_mesh"), "read_npz", lambda *_: {})
    assert path.exists()
    for _ in range(5):
        live.update()
    assert len(looks) == 1
    end(job)


def test_a_large_mesh_is_read_in_one_tick_and_shown_in_the_next(start, end, addon, monkeypatch):
    """Of four thousand triangles, the most that the worker writes. A tick without news reads nothing."""
    job = start()
    live, size = addon("result.live_mesh"), 45
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, size)] * 2), -1).reshape(-1, 2)
    verts = np.column_stack((grid, np.linspace(0, 1, len(grid)))).astype(np.float32)
    corner = (np.arange(size - 1)[:, None] * size + np.arange(size - 1)).ravel()
    halves = ((0, 1, size), (1, size + 1, size))
    faces = np.concatenate([np.stack([corner + step for step in half], 1) for half in halves])
    path = job.folder.root / "previews/big.npz"
    rgb = np.zeros((len(verts), 3), np.uint8)
    np.savez(path, verts=verts, faces=faces.astype(np.int32), rgb=rgb)
    stamps, reads = itertools.count(1), []
    monkeypatch.setattr(addon("jobs.coarse_mesh"), "COARSE_MESH", "previews/big.npz")
    monkeypatch.setattr(live, "_stamp", lambda job: next(stamps))
    read = live.read_coarse
    monkeypatch.setattr(live, "read_coarse", lambda job: reads.append(1) or read(job))

    shows = [live.update() for _ in range(20)]
    assert len(bpy.data.objects[NAME].data.polygons) == len(faces) > 3800
    assert sum(shows) >= 9 and not any(one and other for one, other in itertools.pairwise(shows))
    assert abs(len(reads) - sum(shows)) <= 1, "no tick does both"
    monkeypatch.setattr(live, "_stamp", lambda job: 1000)
    for _ in range(4):
        live.update()
    reads.clear()
    assert not any(live.update() for _ in range(20)) and not reads
    end(job)


def test_it_is_gone_before_anything_is_undone_or_redone(start, end, pump_until):
    """Blender frees what is in no undo step, and crashed where something that it had kept still pointed to it."""
    bpy.ops.ed.undo_push(message="Before")
    bpy.context.scene.recdreamer.seed = 7
    bpy.ops.ed.undo_push(message="Seed")
    job = start()
    there = []

    def look(*_) -> None:
        evaluated = [obj.name for obj in bpy.context.view_layer.depsgraph.objects]
        there.append(of_ours() + [name for name in evaluated if name == NAME])

    for name in ("undo_pre", "redo_pre"):
        handlers = getattr(bpy.app.handlers, name)
        handlers.append(look)  # After ours.
        assert NAME in bpy.data.objects
        bpy.context.view_layer.update()  # As a window does when it draws.
        (bpy.ops.ed.undo if name == "undo_pre" else bpy.ops.ed.redo)()
        handlers.remove(look)
        pump_until(lambda: NAME in bpy.data.objects)
    assert there == [[], []] and bpy.context.scene.recdreamer.seed == 7
    assert job.client is not None, "undo stops no job"
    end(job)
    assert of_ours() == []
