"""Makes templates of figurines in all the ways of an artist: viewport, turntable, sketch. Two steps, two environments.

    .venv/backend/bin/python tools/pictures/figurine_templates.py --out out/templates
    .venv/blender-5.2/bin/python tools/pictures/figurine_templates.py --out out/templates

The first writes parts.json and the sketches, the second builds the figures in Blender and captures them with the
add-on's own code. Then OUT/SOURCE/PROMPT holds front.png, right.png …, and of a turntable its cameras in
templates.json, for `tools/measure/compare_methods.py --templates OUT/SOURCE`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

FIGURES = (("bear", "red"), ("bird", "blue"), ("robot", "yellow"), ("rabbit", "purple"))
BY_HAND_DEG = {"front": (6.0, 14.0), "right": (83.0, 9.0), "back": (187.0, 17.0), "left": (275.0, 12.0)}
"""Azimuth and elevation of views that an artist has turned by hand, slightly off the axes."""


def slug(kind: str, color: str) -> str:
    return f"a-{color}-{kind}"


def write_parts(out: Path) -> None:
    """Write the figures as lists of parts, and sketches of them by an unsteady hand."""
    import torch

    from recdreamer.cameras import orbit_cameras
    from recdreamer.evaluation.figurines import COLORS, KINDS, Figurines
    from recdreamer.evaluation.sketches import draw_sketches
    from recdreamer.images import write_picture

    parts = {}
    for kind, color in FIGURES:
        row = torch.zeros(3, dtype=torch.long)
        figures = Figurines.of(row + KINDS.index(kind), row + list(COLORS).index(color))
        parts[slug(kind, color)] = {
            name: getattr(figures, name)[0].tolist()
            for name in ("centers", "radii", "pitch_rad", "is_box", "colors")
        }
        cameras = orbit_cameras(torch.tensor([0.0, 90.0, 180.0]), torch.full((3,), 8.0), 4.0, 30.0)
        sketches = draw_sketches(figures, cameras, 128, torch.Generator().manual_seed(5))
        for label, sketch in zip(("front", "right", "back"), sketches, strict=True):
            write_picture(out / "sketch" / slug(kind, color) / f"{label}-sketch.png", sketch)
    out.mkdir(parents=True, exist_ok=True)
    (out / "parts.json").write_text(json.dumps(parts))


def capture(out: Path) -> None:
    """Build each figure in an empty file and capture it."""
    import bpy
    from demo_blend import addon_module

    templates = addon_module("shelf.captures")
    for name, parts in json.loads((out / "parts.json").read_text()).items():
        bpy.ops.wm.read_factory_settings(use_empty=True)
        objects = build(parts)
        with tempfile.TemporaryDirectory() as scratch:
            for count in (4, 3, 6):
                azimuths = [360 / count * index for index in range(count)]
                views = templates.capture_turntable(objects, azimuths, [10.0], bpy.context, Path(scratch))
                keep_turntable(views, out / ("turntable" if count == 4 else f"turntable-{count}") / name)
            for label, (azimuth_deg, elevation_deg) in BY_HAND_DEG.items():
                data = bpy.data.cameras.new(label)
                data.angle = math.radians(35)
                camera = bpy.data.objects.new(label, data)
                camera.matrix_world = templates.orbit_c2w(
                    azimuth_deg, elevation_deg, 4.0, templates.Vector((0, 0, 0))
                )
                bpy.context.collection.objects.link(camera)
                bpy.context.scene.camera = camera
                bpy.context.view_layer.update()
                view = templates.capture_view(bpy.context, Path(scratch))
                keep(view.path, out / "viewport" / name, label)


def keep(picture: Path, folder: Path, label: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, folder / f"{label}.png")


def keep_turntable(views: Sequence, folder: Path) -> None:
    """Write the pictures of a turntable, and their description for a job as templates.json."""
    from demo_blend import addon_module

    describe, found = addon_module("describe"), []
    for view in views:
        label = describe.turntable_label(view.azimuth_deg)
        keep(view.path, folder, label)
        template = addon_module("properties").Template(
            label, f"{label}.png", "turntable", view.azimuth_deg, view.elevation_deg
        )
        found.append(asdict(template))
    (folder / "templates.json").write_text(json.dumps(found, indent=2))


def build(parts: dict[str, list]) -> list:
    """The parts of a figure that have a size."""
    made = [
        add_part("box" if is_box else "ball", center, radii, pitch_rad, color)
        for center, radii, pitch_rad, is_box, color in zip(*parts.values(), strict=True)
        if radii[0]
    ]
    show(made)
    return made


def add_part(
    shape: str,
    center: Sequence[float],
    radii: Sequence[float],
    pitch_rad: float,
    color: Sequence[float] | None,
):
    """An object of the scene: a ball, box, cylinder or cone (apex up), turned about X.

    It has a material of this colour (sRGB) for every way of shading; None leaves it without one, as Blender adds it.
    """
    import bpy
    from demo_blend import addon_module

    match shape:
        case "ball":
            bpy.ops.mesh.primitive_uv_sphere_add(segments=48, ring_count=24)
            bpy.ops.object.shade_smooth()
        case "box":
            bpy.ops.mesh.primitive_cube_add(size=2)
        case "cylinder":
            bpy.ops.mesh.primitive_cylinder_add(vertices=48)
        case "cone":
            bpy.ops.mesh.primitive_cone_add(vertices=48)
    obj = bpy.context.object
    obj.location, obj.scale, obj.rotation_euler.x = center, radii, pitch_rad
    if color is not None:
        linear = (*(channel**2.2 for channel in color), 1.0)  # As Blender stores colours.
        material = addon_module("compat").new_node_material("part")
        material.diffuse_color = linear
        shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
        shader.inputs["Base Color"].default_value = linear
        obj.data.materials.append(material)
    return obj


def show(objects: list) -> None:
    """Make the scene ready for a capture of all of these objects."""
    import bpy

    for obj in objects:
        obj.select_set(False)  # Otherwise only the selection would be captured.
    bpy.context.view_layer.update()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/templates"))
    options = parser.parse_args()
    if importlib.util.find_spec("bpy") is None:
        write_parts(options.out)
    else:
        capture(options.out)
        sys.stdout.flush()
        os._exit(0)
