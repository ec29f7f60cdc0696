"""Block-outs of the four kinds, as an artist makes them in a few minutes, captured as turntables with the add-on's code.

    .venv/blender-5.2/bin/python tools/pictures/blockouts.py --out out/blockouts

OUT/LOOK/KIND-COLOR-FACE then holds front.png … and templates.json, for all of LOOK solid, material and rendered, COLOR
grey and the figure's own, and FACE `face` or `faceless`. Those of two more designs, made without regard to the first,
end in `-b` (boxes only) and `-c`: what has been adjusted on the first can be tried on them.

    python3 tools/measure/sample_runs.py --templates "out/blockouts/solid/{kind}-grey-face"
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

COLORS = {
    "red": (0.80, 0.14, 0.10),
    "green": (0.16, 0.60, 0.20),
    "blue": (0.15, 0.30, 0.80),
    "yellow": (0.92, 0.78, 0.15),
    "purple": (0.50, 0.20, 0.68),
    "teal": (0.10, 0.58, 0.60),
}
"""sRGB, chosen by eye, so not exactly those of the embedded world."""
OWN_COLOR = {"bear": "red", "bird": "blue", "robot": "yellow", "rabbit": "purple"}
LOOKS = ("solid", "material", "rendered")
FACES = ("face", "faceless")
DARK, LIGHT = (0.08, 0.08, 0.08), (0.93, 0.93, 0.90)
AZIMUTHS_DEG, ELEVATION_DEG = (0.0, 90.0, 180.0, 270.0), 10.0
"""The Turntable's own defaults."""

Part = tuple[str, tuple[float, float, float], tuple[float, float, float], float]
"""Shape, centre, half size along each axis, pitch in degrees; with x > 0 also for its mirror image."""


@dataclass(frozen=True)
class Blockout:
    """A figure facing -Y: the body has one colour, and only the face has more detail than the outline."""

    body: Sequence[Part]
    dark: Sequence[Part]
    """Of the face."""
    light: Sequence[Part] = ()
    """Of the face."""


# No bellies, packs or patterns: the prior adds these. Feet and a bird's tail are part of the outline; a tuft of
# a tail would be a mark on the back, so the rabbits have none.
DESIGNS: dict[str, dict[str, Blockout]] = {
    "a": {
        "bear": Blockout(
            body=[
                ("ball", (0, 0, -0.28), (0.40, 0.37, 0.43), 0),
                ("ball", (0, -0.02, 0.40), (0.36, 0.33, 0.33), 0),
                ("ball", (0.26, 0, 0.70), (0.13, 0.09, 0.13), 0),
                ("ball", (0.45, -0.04, -0.14), (0.11, 0.12, 0.27), 0),
                ("ball", (0.20, -0.07, -0.70), (0.17, 0.22, 0.13), 0),
            ],
            dark=[
                ("ball", (0, -0.46, 0.36), (0.07, 0.05, 0.05), 0),
                ("ball", (0.14, -0.30, 0.51), (0.055, 0.05, 0.06), 0),
            ],
            light=[("ball", (0, -0.31, 0.31), (0.17, 0.15, 0.14), 0)],
        ),
        "bird": Blockout(
            body=[
                ("ball", (0, 0.02, -0.22), (0.36, 0.39, 0.42), 0),
                ("ball", (0, -0.07, 0.38), (0.28, 0.28, 0.27), 0),
                ("ball", (0.37, 0.06, -0.20), (0.06, 0.25, 0.29), 0),
                ("box", (0, 0.50, -0.30), (0.13, 0.26, 0.04), 25),
                ("ball", (0.14, -0.10, -0.68), (0.10, 0.18, 0.06), 0),
            ],
            dark=[("ball", (0.12, -0.31, 0.45), (0.05, 0.045, 0.05), 0)],
            light=[("cone", (0, -0.47, 0.34), (0.09, 0.08, 0.17), 90)],
        ),
        "robot": Blockout(
            body=[
                ("box", (0, 0, -0.22), (0.36, 0.25, 0.32), 0),
                ("box", (0, 0, 0.36), (0.28, 0.24, 0.20), 0),
                ("cylinder", (0.46, 0, -0.24), (0.09, 0.09, 0.30), 0),
                ("box", (0.18, 0, -0.68), (0.12, 0.15, 0.14), 0),
                ("cylinder", (0, 0, 0.64), (0.03, 0.03, 0.09), 0),
                ("ball", (0, 0, 0.76), (0.06, 0.06, 0.06), 0),
            ],
            dark=[("box", (0, -0.24, 0.39), (0.21, 0.03, 0.10), 0)],
            light=[("ball", (0.10, -0.27, 0.39), (0.05, 0.03, 0.05), 0)],
        ),
        "rabbit": Blockout(
            body=[
                ("ball", (0, 0.02, -0.34), (0.34, 0.33, 0.39), 0),
                ("ball", (0, -0.04, 0.16), (0.29, 0.27, 0.26), 0),
                ("ball", (0.14, 0.02, 0.56), (0.08, 0.06, 0.29), 0),
                ("ball", (0.32, -0.10, -0.24), (0.09, 0.11, 0.18), 0),
                ("ball", (0.17, -0.12, -0.69), (0.12, 0.26, 0.09), 0),
            ],
            dark=[
                ("ball", (0.13, -0.26, 0.24), (0.05, 0.05, 0.06), 0),
                ("ball", (0, -0.31, 0.12), (0.05, 0.04, 0.04), 0),
            ],
        ),
    },
    "b": {
        "bear": Blockout(
            body=[
                ("box", (0, 0, -0.28), (0.33, 0.26, 0.34), 0),
                ("box", (0, -0.03, 0.34), (0.31, 0.27, 0.26), 0),
                ("box", (0.24, 0, 0.66), (0.09, 0.06, 0.08), 0),
                ("box", (0.42, -0.02, -0.16), (0.08, 0.10, 0.26), 0),
                ("box", (0.18, -0.06, -0.72), (0.13, 0.19, 0.10), 0),
            ],
            dark=[
                ("box", (0, -0.47, 0.30), (0.06, 0.02, 0.04), 0),
                ("box", (0.14, -0.31, 0.46), (0.045, 0.02, 0.055), 0),
            ],
            light=[("box", (0, -0.37, 0.25), (0.15, 0.09, 0.10), 0)],
        ),
        "bird": Blockout(
            body=[
                ("box", (0, 0.04, -0.22), (0.30, 0.36, 0.36), -15),
                ("box", (0, -0.12, 0.34), (0.23, 0.24, 0.22), 0),
                ("box", (0.34, 0.10, -0.20), (0.04, 0.26, 0.24), -15),
                ("box", (0, 0.52, -0.38), (0.16, 0.24, 0.03), 20),
                ("box", (0.13, -0.10, -0.68), (0.09, 0.17, 0.04), 0),
            ],
            dark=[("box", (0.13, -0.37, 0.42), (0.04, 0.02, 0.05), 0)],
            light=[("box", (0, -0.48, 0.30), (0.07, 0.14, 0.05), 0)],
        ),
        "robot": Blockout(
            body=[
                ("box", (0, 0, -0.14), (0.28, 0.20, 0.26), 0),
                ("box", (0, 0, 0.42), (0.33, 0.26, 0.26), 0),
                ("box", (0.36, 0, -0.18), (0.06, 0.08, 0.26), 0),
                ("box", (0.14, 0, -0.58), (0.08, 0.10, 0.22), 0),
                ("box", (0.16, 0, 0.74), (0.02, 0.02, 0.08), 0),
            ],
            dark=[
                ("box", (0.14, -0.27, 0.48), (0.07, 0.02, 0.07), 0),
                ("box", (0, -0.27, 0.28), (0.15, 0.02, 0.03), 0),
            ],
        ),
        "rabbit": Blockout(
            body=[
                ("box", (0, 0.04, -0.38), (0.28, 0.28, 0.32), 0),
                ("box", (0, -0.06, 0.12), (0.24, 0.24, 0.22), 0),
                ("box", (0.12, 0.02, 0.58), (0.07, 0.04, 0.26), 0),
                ("box", (0.15, -0.28, -0.30), (0.07, 0.06, 0.16), 0),
                ("box", (0.16, -0.12, -0.72), (0.10, 0.26, 0.06), 0),
            ],
            dark=[("box", (0.12, -0.31, 0.20), (0.04, 0.02, 0.05), 0)],
            light=[
                ("box", (0, -0.33, 0.06), (0.10, 0.04, 0.06), 0),
                ("box", (0, -0.32, -0.04), (0.05, 0.02, 0.05), 0),
            ],
        ),
    },
    "c": {
        "bear": Blockout(
            body=[
                ("cylinder", (0, 0, -0.34), (0.30, 0.28, 0.30), 0),
                ("ball", (0, 0, 0.30), (0.44, 0.40, 0.40), 0),
                ("cylinder", (0.34, 0, 0.66), (0.12, 0.12, 0.04), 90),
                ("cylinder", (0.38, -0.10, -0.22), (0.09, 0.09, 0.22), 35),
                ("cylinder", (0.16, -0.02, -0.72), (0.13, 0.15, 0.10), 0),
            ],
            dark=[
                ("cone", (0, -0.43, 0.24), (0.08, 0.06, 0.06), 90),
                ("ball", (0.17, -0.36, 0.40), (0.05, 0.04, 0.05), 0),
            ],
        ),
        "bird": Blockout(
            body=[
                ("ball", (0, 0.04, -0.10), (0.42, 0.46, 0.52), 0),
                ("ball", (0, -0.14, 0.46), (0.22, 0.22, 0.22), 0),
                ("cone", (0.42, 0.10, -0.18), (0.06, 0.18, 0.30), 180),
                ("cone", (0, 0.56, -0.24), (0.16, 0.05, 0.24), 70),
                ("cylinder", (0.14, 0, -0.68), (0.03, 0.03, 0.12), 0),
                ("cylinder", (0.14, -0.05, -0.80), (0.09, 0.14, 0.02), 0),
            ],
            dark=[
                ("cone", (0, -0.42, 0.43), (0.06, 0.06, 0.12), 90),
                ("ball", (0.11, -0.31, 0.54), (0.04, 0.04, 0.04), 0),
            ],
        ),
        "robot": Blockout(
            body=[
                ("cylinder", (0, 0, -0.20), (0.32, 0.27, 0.32), 0),
                ("cylinder", (0, 0, 0.24), (0.12, 0.12, 0.12), 0),
                ("ball", (0, 0, 0.46), (0.27, 0.25, 0.24), 0),
                ("ball", (0.38, 0, 0.02), (0.10, 0.10, 0.10), 0),
                ("box", (0.42, -0.04, -0.26), (0.06, 0.07, 0.22), 0),
                ("cylinder", (0.15, 0, -0.64), (0.09, 0.09, 0.16), 0),
                ("box", (0.15, -0.06, -0.82), (0.12, 0.19, 0.05), 0),
            ],
            dark=[("cylinder", (0, -0.25, 0.30), (0.10, 0.02, 0.03), 0)],
            light=[("ball", (0.11, -0.20, 0.50), (0.07, 0.06, 0.07), 0)],
        ),
        "rabbit": Blockout(
            body=[
                ("cone", (0, 0.02, -0.26), (0.38, 0.36, 0.50), 0),
                ("ball", (0, 0, 0.20), (0.25, 0.24, 0.24), 0),
                ("cone", (0.11, 0.02, 0.62), (0.08, 0.05, 0.32), 0),
                ("ball", (0.18, -0.18, -0.74), (0.11, 0.22, 0.07), 0),
            ],
            dark=[
                ("cone", (0, -0.26, 0.15), (0.05, 0.04, 0.04), 90),
                ("ball", (0.10, -0.21, 0.27), (0.045, 0.04, 0.06), 0),
            ],
        ),
    },
}


def parts_of(blockout: Blockout, color: str, has_face: bool) -> Iterator[tuple]:
    """The parts for `add_part`, with the mirrored ones. Grey is the colour of an object without a material."""
    painted = [(part, COLORS.get(color)) for part in blockout.body]
    if has_face:
        painted += [(part, DARK) for part in blockout.dark] + [(part, LIGHT) for part in blockout.light]
    for (shape, (x, y, z), radii, pitch_deg), rgb in painted:
        for side in (1, -1) if x > 0 else (1,):
            yield shape, (side * x, y, z), radii, math.radians(pitch_deg), rgb


def light_scene() -> None:
    """A sky and a sun over the artist's left shoulder, for renders of the scene itself."""
    import bpy
    from demo_blend import addon_module

    scene = bpy.context.scene
    # EEVEE needs a window's graphics context.
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples = "CPU", 16
    scene.world = addon_module("compat").new_node_world("sky")
    background = next(node for node in scene.world.node_tree.nodes if node.type == "BACKGROUND")
    background.inputs["Color"].default_value = (0.8, 0.9, 1.0, 1.0)
    background.inputs["Strength"].default_value = 0.6
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy = 3.0
    sun.rotation_euler = (math.radians(40), 0, math.radians(-35))
    bpy.context.collection.objects.link(sun)


def capture(blockout: Blockout, color: str, has_face: bool, look: str, size_px: int, folder: Path) -> None:
    """Build a block-out in an empty file; write its turntable, and the templates.json of a job."""
    import bpy
    from demo_blend import addon_module
    from figurine_templates import add_part, keep_turntable, show

    templates = addon_module("shelf.captures")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if look == "rendered":
        light_scene()
    objects = [add_part(*part) for part in parts_of(blockout, color, has_face)]
    show(objects)
    with tempfile.TemporaryDirectory() as scratch:
        views = templates.capture_turntable(
            objects, AZIMUTHS_DEG, [ELEVATION_DEG], bpy.context, Path(scratch),
            look=look.upper(), size_px=size_px,
        )  # fmt: skip
        keep_turntable(views, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/blockouts"))
    parser.add_argument("--looks", nargs="+", default=list(LOOKS), choices=LOOKS)
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=DESIGNS)
    parser.add_argument(
        "--all-colors", action="store_true", help="all six colours instead of one for each kind"
    )
    parser.add_argument(
        "--size-px",
        type=int,
        default=512,
        help="default: that of the add-on; 256 is faster and enough for a job",
    )
    options = parser.parse_args()
    for look, design, kind, face in product(options.looks, options.designs, OWN_COLOR, FACES):
        suffix = "" if design == "a" else f"-{design}"
        for color in ("grey", *(COLORS if options.all_colors else [OWN_COLOR[kind]])):
            folder = options.out / look / f"{kind}-{color}-{face}{suffix}"
            # Written last.
            if not (folder / "templates.json").exists():
                capture(DESIGNS[design][kind], color, face == "face", look, options.size_px, folder)


if __name__ == "__main__":
    main()
    # Some versions of Blender hang or crash while they shut down; everything is on the disk.
    sys.stdout.flush()
    os._exit(0)
