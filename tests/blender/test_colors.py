"""Studios configure the color management: other names of color spaces and views, other primaries. Colors stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest
from mathutils import Color

from .objects import add_cube
from .test_pictures import flat, png

CONFIGS = sorted(Path(__file__).with_name("color_configs").glob("*.ocio"))
MEASURED = "RECDREAMER_TEST_COLORS"
"""Where a Blender with such a configuration, started by the test below, writes what it has measured."""


def as_pixels(material, socket: str) -> bpy.types.Image:
    node = (
        next(n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED")
        .inputs[socket]
        .links[0]
        .from_node
    )
    return node.image if node.type == "TEX_IMAGE" else node.inputs["Color"].links[0].from_node.image


@pytest.fixture
def measured(settings, generate, addon, tmp_path, monkeypatch):
    """Colors by all the ways by which they come in, and what color spaces imported images have."""
    found = {}
    monkeypatch.setattr(addon("shelf.studio"), "SAMPLES", 2)
    (tmp_path / "front.png").write_bytes(png(flat(40, 40, 200, 40, 120)))
    (tmp_path / "back.png").write_bytes(png(flat(40, 40, 51400, 10280, 30840), 16))
    bpy.ops.recdreamer.add_files(directory=str(tmp_path), files=[{"name": "front.png"}, {"name": "back.png"}])
    cube = add_cube()
    material = addon("compat").new_node_material("orange")
    base_color = addon("compat").principled_of(material).inputs["Base Color"]
    orange = (*Color((0.8, 0.2, 0.05)).from_rec709_linear_to_scene_linear(), 1)
    base_color.default_value = material.diffuse_color = orange
    cube.data.materials.append(material)
    for look in ("SOLID", "MATERIAL"):
        bpy.ops.recdreamer.capture_turntable(num_views=2, look=look)
    for index in (0, 1, 2, 4):
        pixels = addon("shelf.pictures").load_pixels(settings.templates[index].path)
        found[f"picture {index}"] = pixels[pixels[..., 3] > 0.9][:, :3].mean(0)
    settings.templates.clear()
    group = cube.vertex_groups.new(name="some")
    group.add([0, 1], 1, "REPLACE")
    settings.start.kind, settings.start.object, settings.start.region = "object", cube, "some"
    job, mesh = generate(normal=True)
    found["viewport color"] = mesh["rgb"].mean(0)
    assert bpy.ops.recdreamer.import_result(job_id=job.id) == {"FINISHED"}
    material = bpy.context.object.active_material
    assert not as_pixels(material, "Base Color").colorspace_settings.is_data
    assert as_pixels(material, "Normal").colorspace_settings.is_data
    settings.start.kind, settings.start.region = "texture", ""
    job, _ = generate(normal=True)
    assert bpy.ops.recdreamer.import_result(job_id=job.id) == {"FINISHED"}
    return {name: [round(255 * float(value), 1) for value in color] for name, color in found.items()}


@pytest.mark.skipif(MEASURED not in os.environ, reason="runs inside of the test below")
def test_colors_are_measured(measured):
    assert bpy.data.images.new("byte", 1, 1).colorspace_settings.name == "sRGB - Texture"
    Path(os.environ[MEASURED]).write_text(json.dumps(measured))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_colors_are_the_same_with_every_configuration(measured, config, tmp_path):
    assert measured["picture 0"] == pytest.approx([200, 40, 120], abs=1)
    assert measured["picture 1"] == pytest.approx([200, 40, 120], abs=1)
    # 0.8, 0.2 and 0.05 of linear light.
    assert measured["viewport color"] == pytest.approx([230.6, 123.6, 63.1], abs=0.5)
    environment = os.environ | {"OCIO": str(config), MEASURED: str(tmp_path / "colors.json")}
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "test_colors_are_measured"]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    others = json.loads((tmp_path / "colors.json").read_text())
    assert others.keys() == measured.keys()
    for name, color in measured.items():
        assert np.allclose(others[name], color, atol=2), (name, others[name], color)
