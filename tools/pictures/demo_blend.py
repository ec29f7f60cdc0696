"""A finished job as a .blend and as a turntable picture. Runs in the Python of one of .venv/blender-*.

    .venv/blender-5.2/bin/python tools/pictures/demo_blend.py JOB_FOLDER [--out FOLDER]

Writes model.blend (object, UVs, material, texture packed) and turntable.png (12 azimuths of the mesh as
imported, from the left in reading order, 30 degrees apart, counter-clockwise, the front first).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import bpy
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
NUM_VIEWS, COLUMNS, SIZE_PX = 12, 6, 256
ELEVATION_DEG = 15.0


def addon_module(name: str):
    """A module of the add-on from the checkout; Blender imports it under another name."""
    package = "recdreamer_extension"
    if package not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            package, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        sys.modules[package] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[package])
    return importlib.import_module(f"{package}.addon.{name}")


def write_demo(job_folder: Path, out: Path) -> None:
    """Import the job into an empty file, save it, and render its turntable."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.preferences.filepaths.save_version = 0  # No model.blend1 when it is saved again.
    obj, *_ = addon_module("result.scene_import").import_result(job_folder)
    templates = addon_module("shelf.captures")
    with tempfile.TemporaryDirectory() as folder:
        views = templates.capture_turntable(
            [obj],
            [360 / NUM_VIEWS * index for index in range(NUM_VIEWS)],
            [ELEVATION_DEG],
            bpy.context,
            Path(folder),
            size_px=SIZE_PX,
        )
        pictures = [templates.load_pixels(view.path) for view in views]
    # Pixel rows count from the bottom, so the last row of pictures comes first.
    rows = [
        np.concatenate(pictures[start : start + COLUMNS], axis=1) for start in range(0, NUM_VIEWS, COLUMNS)
    ]
    sheet = np.concatenate(rows[::-1], axis=0)
    alpha = sheet[..., 3:]
    sheet = np.concatenate([sheet[..., :3] * alpha + 0.9 * (1 - alpha), np.ones_like(alpha)], axis=2)
    out.mkdir(parents=True, exist_ok=True)
    templates.save_png(sheet, out / "turntable.png")
    bpy.ops.wm.save_as_mainfile(filepath=str(out / "model.blend"), compress=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_folder", type=Path)
    parser.add_argument("--out", type=Path, help="default: the parent of the job folder")
    arguments = parser.parse_args()
    job_folder = arguments.job_folder.resolve()
    out = (arguments.out or job_folder.parent).resolve()
    try:
        write_demo(job_folder, out)
    # RequestError derives from it; the class itself is known only once the add-on is imported.
    except ValueError as error:
        sys.exit(str(error))
    print(f"{out / 'model.blend'}\n{out / 'turntable.png'}")


if __name__ == "__main__":
    main()
    # Blender prints while it shuts down, and some versions crash there; everything is on the disk.
    sys.stdout.flush()
    os._exit(0)
