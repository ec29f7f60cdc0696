"""What is measured of a result, on figures whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recdreamer.cameras import orbit
from recdreamer.evaluation.figurines import POSES, pose_class
from recdreamer.evaluation.measure_result import (
    classified,
    measure_surface,
    measure_views,
    peak_memory_gib,
    recounted,
    surface_path,
    write_pose_trace,
)
from recdreamer.evaluation.mesh_views import sheet_cameras, true_views
from recdreamer.evaluation.view_metrics import ClipJudge
from recdreamer.images import write_sheet
from recdreamer.pose.features import FeatureExtractor
from recdreamer.presets import EMBEDDED_CAMERAS
from recdreamer.shared.protocol import JobFolder
from recdreamer.shared.worlds import WORLDS

from .known_meshes import figure_of, read

AZIMUTHS = 7.5 + torch.arange(24) * 15.0


def one_hot(classes: torch.Tensor, count: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes, count).float()


def test_the_true_surface_has_no_feature_too_many(bear_folder: Path, tmp_path: Path) -> None:
    mesh, _ = read(bear_folder)
    found = measure_surface(JobFolder(tmp_path), mesh, "a red bear", one_hot(pose_class(AZIMUTHS)))
    assert found["field_chamfer"] < 0.01 and found["field_f_score"] > 0.97 and found["field_normals"] > 0.9
    assert found["janus_score"] == 0 and found["success"] == 1
    assert [count["name"] for count in found["counts"]] == ["faces", "packs", "ears"]


def test_a_run_is_counted_again_from_what_it_has_kept(bear_folder: Path, tmp_path: Path) -> None:
    """The same R as when it was measured, and that of other ears once these are in the kept points."""
    job, world = JobFolder(tmp_path), WORLDS["figurines"]
    cameras = orbit(24, EMBEDDED_CAMERAS, torch.device("cpu"), 7.5)
    write_sheet(tmp_path / "views.png", true_views(figure_of("a red bear"), cameras, 64), 24)
    by_pictures = recounted(job, "a red bear", world)
    assert by_pictures is not None and by_pictures["ears_from"] == "pictures" and by_pictures["success"] == 1
    assert recounted(JobFolder(tmp_path / "none"), "a red bear", world) is None
    mesh, _ = read(bear_folder)
    measured = measure_surface(job, mesh, "a red bear", one_hot(pose_class(AZIMUTHS)))
    assert surface_path(job).stat().st_size < 150_000
    found = recounted(job, "a red bear", world)
    assert found is not None and found.pop("ears_from") == "surface" and found["success"] == 1
    assert found == {key: measured[key] for key in found}
    points = np.load(surface_path(job))["points"]
    np.savez_compressed(surface_path(job), points=points[(points[:, 0] < 0.1) | (points[:, 2] < 0.6)])
    found = recounted(job, "a red bear", world)
    assert found is not None and found["janus_score"] == 0.5
    assert found["counts"][-1] == {"name": "ears", "found": 1, "expected": 2, "penalty": 0.5}


def test_classes_are_put_in_order_and_other_classes_have_entropies_alone() -> None:
    probs = one_hot(pose_class(AZIMUTHS))
    mixed = ("back", "left", "front", "right")
    found = classified(probs[:, [POSES.index(pose) for pose in mixed]], mixed, AZIMUTHS)
    assert found["agreement_unrotated"] == 1 and found["janus_score"] == 0
    assert found["pose_entropy"] == pytest.approx(1) and found["pose_entropy_printed"] == pytest.approx(
        -1.3863 / 4, abs=1e-4
    )
    three = classified(one_hot(pose_class(AZIMUTHS) % 3, 3), ("a", "b", "c"), AZIMUTHS)
    assert set(three) == {"pose_entropy", "pose_entropy_nats", "pose_entropy_printed", "shares"}


def test_views_are_measured_with_and_without_clip() -> None:
    pictures = true_views(figure_of("a red bear"), sheet_cameras(), 64)
    azimuth_deg, extractor = torch.arange(12) * 30.0, FeatureExtractor("builtin")
    bare = measure_views(pictures, azimuth_deg, extractor, None)
    assert (
        set(bare) == {"opposite_cosine", "neighbor_cosine"}
        and bare["opposite_cosine"] < bare["neighbor_cosine"]
    )
    full = measure_views(pictures, azimuth_deg, extractor, ClipJudge("a red bear"))
    assert full["clip"] == "embedded CLIP" and full["clip_score"] >= 1 - full["best_view"]
    assert full["clip_entropy_nats"] == pytest.approx(full["clip_entropy"] * 1.0986, abs=1e-3)


def test_poses_are_read_from_the_previews(tmp_path: Path) -> None:
    job = JobFolder(tmp_path)
    job.previews.mkdir()
    turntable = true_views(figure_of("a red bear"), sheet_cameras(4), 96)
    write_sheet(job.previews / "shape-000025.png", turntable, 4)
    write_sheet(job.previews / "shape-000100.jpg", turntable[[2, 2, 2, 2]], 4)
    (job.previews / "shape-000100.txt").write_text("no picture")
    write_pose_trace(job, torch.device("cpu"))
    first, last = json.loads((tmp_path / "poses.json").read_text())
    assert (first["step"], last["step"]) == (25, 100)
    assert all(first[pose] == pytest.approx(0.25, abs=0.05) for pose in POSES) and last["back"] > 0.9


def test_a_process_has_used_some_memory() -> None:
    assert 0.05 < peak_memory_gib(torch.device("cpu")) < 64
