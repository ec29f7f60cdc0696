"""The measurement for whoever has real weights, on small random models of the same classes."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from recdreamer.shared.protocol import JobRequest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "measure"))
sys.path.insert(0, str(Path(__file__).parents[1] / "catalog"))
import models_on_disk as disk
import real_weights

CUT = {
    "optimize.num_steps": 2, "optimize.render_px": 16, "geometry.num_steps": 1, "geometry.render_px": 16,
    "geometry.resolution": 16, "texture.num_steps": 1, "texture.render_px": 16, "mesh.resolution": 16,
    "mesh.target_faces": 200, "mesh.texture_size_px": 32, "field.num_levels": 2, "field.log2_table_size": 8,
    "field.max_resolution": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("weights")
    request = JobRequest(
        "a red bear", prior=str(disk.sd_folder(folder / "sd")), device="cpu",
        overrides={
            "extractor": str(disk.dinov2_folder(folder / "dino")), "rectifier.drawing.num_samples": 4,
            "rectifier.drawing.num_steps": 2, "rectifier.classifier.template_copies": 1,
        },
    )  # fmt: skip
    found = real_weights.measured(request, folder / "out", 2, CUT)
    assert json.loads((folder / "out" / "report.json").read_text()) == json.loads(json.dumps(found))
    return found


def test_every_part_is_measured(found: dict) -> None:
    parts = ("reading", "estimates", "precision", "job")
    assert [found[name].get("failed") for name in parts] == [None] * 4
    assert found["image_px"] > 0 and found["dtype"] == "torch.float32"
    assert found["reading"]["sides"]["in_all"] == 4 and set(found["reading"]["share read as asked"]) == {
        "front", "back", "right",
    }  # fmt: skip
    assert Path(found["job"]["mesh"]).is_file()


def test_the_two_estimates_are_compared_at_each_timestep(found: dict) -> None:
    assert list(found["estimates"]) == ["100", "300", "500", "700", "900"]
    for row in found["estimates"].values():
        assert math.isfinite(row["norm ratio"]) and row["norm ratio"] > 0 and -1 <= row["cosine"] < 0.9999


def test_float16_is_more_exact_than_bfloat16(found: dict) -> None:
    """Eleven binary digits against eight."""
    assert 0 < found["precision"]["float16"] < found["precision"]["bfloat16"]
