"""Where an import goes when the active collection cannot take it, and what it is called."""

from __future__ import annotations

import bpy
import pytest

from .objects import add_cube


@pytest.fixture
def done(settings, generate):
    return generate()[0]


@pytest.fixture
def linked(tmp_path):
    """A collection of another file, linked into the scene."""
    collection = bpy.data.collections.new("Set")
    cube = bpy.data.objects.new("Prop", bpy.data.meshes.new("Prop"))
    collection.objects.link(cube)
    bpy.data.libraries.write(str(tmp_path / "set.blend"), {collection})
    bpy.data.objects.remove(cube)
    bpy.data.collections.remove(collection)
    with bpy.data.libraries.load(str(tmp_path / "set.blend"), link=True) as (_, into):
        into.collections = ["Set"]
    collection = bpy.data.collections["Set"]
    bpy.context.scene.collection.children.link(collection)
    return collection


def activate(collection) -> bpy.types.LayerCollection:
    layer = bpy.context.view_layer.layer_collection.children[collection.name]
    bpy.context.view_layer.active_layer_collection = layer
    return layer


def imported(done, addon) -> tuple[bpy.types.Object, list[str]]:
    said = []
    (obj,) = addon("result.scene_import").import_result(done.folder.root, say=said.append)
    assert list(obj.users_collection) == [bpy.context.scene.collection]
    assert obj.visible_get() and bpy.context.object == obj
    assert len(bpy.data.materials) == 1 and len(bpy.data.images) == 1
    return obj, said


def test_a_linked_collection(done, addon, linked):
    activate(linked)
    assert bpy.context.collection == linked
    _, said = imported(done, addon)
    assert said == [
        "The collection 'Set' is linked from another file, so the result is in the Scene Collection."
    ]


def test_an_override(done, addon, linked):
    linked.override_hierarchy_create(bpy.context.scene, bpy.context.view_layer)
    override = next(c for c in bpy.data.collections if c.override_library is not None)
    layer = next(
        layer for layer in bpy.context.view_layer.layer_collection.children if layer.collection == override
    )
    bpy.context.view_layer.active_layer_collection = layer
    _, said = imported(done, addon)
    assert said[0].startswith("The collection 'Set' is an override of one in another file")


@pytest.mark.parametrize("how", ["eye", "viewports", "excluded"])
def test_a_collection_that_is_not_shown(done, addon, how):
    collection = bpy.data.collections.new("Hidden")
    bpy.context.scene.collection.children.link(collection)
    layer = activate(collection)
    if how == "eye":
        layer.hide_viewport = True
    elif how == "viewports":
        collection.hide_viewport = True
    else:
        layer.exclude = True
    imported(done, addon)


def test_a_collection_that_can_take_it(done, addon):
    collection = bpy.data.collections.new("Mine")
    bpy.context.scene.collection.children.link(collection)
    activate(collection)
    (obj,) = addon("result.scene_import").import_result(done.folder.root)
    assert list(obj.users_collection) == [collection]


def test_names_are_of_one_line(settings, generate, addon):
    settings.prompt = "a red bear\nwith a hat\tand a very, very long tail that goes on and on"
    job, _ = generate()
    (obj,) = addon("result.scene_import").import_result(job.folder.root)
    names = [obj.name, obj.data.name, obj.active_material.name, *(image.name for image in bpy.data.images)]
    assert names[0] == "a red bear with a hat and a very, very…"
    assert all(name.isprintable() for name in names)


def test_a_failed_update_keeps_the_earlier_result(done, addon, monkeypatch):
    """What is made for an object that is already there must not be removed with it."""
    obj, _ = imported(done, addon)
    add_cube()

    def fail(*args):
        raise ValueError("late")

    monkeypatch.setattr(addon("result.scene_import"), "_select_only", fail)
    with pytest.raises(ValueError, match="late"):
        addon("result.scene_import").import_result(done.folder.root)
    assert obj.name in bpy.context.scene.objects and len(obj.data.polygons) == 12
    assert obj.active_material is not None and obj.active_material.name in bpy.data.materials
