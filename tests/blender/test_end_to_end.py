"""The main job with the real backend: block-out, templates, Generate, follow, import."""

from __future__ import annotations

import json
from pathlib import Path

import bpy
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BACKEND_PYTHON = ROOT / ".venv/backend/bin/python"
TINY = {
    "optimize.num_steps": 4,
    "geometry.num_steps": 2,
    "geometry.resolution": 24,
    "texture.num_steps": 2,
    "optimize.preview_every": 2,
    "mesh.resolution": 24,
    "mesh.target_faces": 500,
    "mesh.texture_size_px": 128,
}
"""Too few steps for a good result, but every stage runs."""
TIME_LIMIT_S = 400


@pytest.fixture
def real_backend(preferences):
    if not BACKEND_PYTHON.is_file():
        pytest.fail(f"{BACKEND_PYTHON} is missing: set the environments up with `python3 tools/dev.py test`.")
    preferences.backend_python = str(BACKEND_PYTHON)


def test_from_a_block_out_to_a_textured_object(real_backend, block_out, addon, pump_until, settle):
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.quality, settings.height, settings.seed = "a red bear", "quick", 1.5, 3
    assert bpy.ops.recdreamer.capture_turntable() == {"FINISHED"}
    assert len(settings.templates) == 4
    assert bpy.ops.recdreamer.generate(overrides=json.dumps(TINY)) == {"FINISHED"}

    session = addon("session").session
    job = session.shown
    stages = set()

    def is_over():
        stages.add(job.state.stage)
        return job.client is None

    pump_until(is_over, TIME_LIMIT_S)
    assert job.condition == "done", (
        f"{job.state.message} {job.state.hint}\n{job.folder.log.read_text()[-3000:]}"
    )
    assert len(stages) > 1
    assert job.preview is not None and job.preview.is_file()
    assert sum(job.state.pose_distribution.values()) == pytest.approx(1, abs=0.01)
    assert set(job.state.pose_distribution) == {"front", "right", "back", "left"}

    assert bpy.ops.recdreamer.import_result() == {"FINISHED"}
    obj = bpy.context.object
    bpy.context.view_layer.update()
    corners = np.array(obj.bound_box)
    assert obj.dimensions.z == pytest.approx(1.5, rel=1e-3)
    assert corners[:, 2].min() == pytest.approx(0, abs=1e-4), "it stands on its base"
    assert np.allclose((corners.min(0) + corners.max(0))[:2], 0, atol=1e-3), "centered"
    mesh = obj.data
    assert 0 < len(mesh.polygons) <= 600 and len(mesh.vertices) < len(mesh.polygons)
    uvs = np.zeros(2 * len(mesh.loops), np.float32)
    mesh.uv_layers.active.uv.foreach_get("vector", uvs)
    assert uvs.min() >= 0 and uvs.max() <= 1 and uvs.std() > 0.1
    image = next(node.image for node in mesh.materials[0].node_tree.nodes if node.type == "TEX_IMAGE")
    assert tuple(image.size) == (128, 128) and image.packed_file is not None
    assert image.colorspace_settings.name == "sRGB"
    assert obj["recdreamer_job"] == job.id and obj["recdreamer_prompt"] == "a red bear"
    assert (job.folder.result / "model.glb").stat().st_size > 0
