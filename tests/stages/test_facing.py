"""Which way an object faces, told from its views, and what is done about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.mesh.mesh import turned
from recdreamer.pose.control import YawPosterior, wanted_classes
from recdreamer.pose.rectifier import Rectifier
from recdreamer.presets import resolve
from recdreamer.shared.protocol import JobFolder, JobRequest
from recdreamer.stages.facing import LEAST_AGREEMENT, lost_sides, read_around, yaw_of, yaw_of_views
from recdreamer.start.earlier_job import written_yaw_deg
from recdreamer.start.mesh_file import Placement

CLASSES = torch.tensor([0.0, 90.0, 180.0, 270.0])
ALL_AROUND = torch.arange(0, 360, 10.0)


@pytest.mark.parametrize("yaw_deg", [0.0, 20.0, 137.0, -90.0])
def test_consistent_views_tell_the_yaw(yaw_deg: float) -> None:
    found, agreement = yaw_of_views(ALL_AROUND, wanted_classes(ALL_AROUND + yaw_deg, CLASSES), CLASSES)
    assert (found - yaw_deg + 180) % 360 - 180 == pytest.approx(0, abs=2)
    assert agreement == pytest.approx(0.9, abs=0.02)


def test_a_wide_front_is_still_a_front_in_the_middle() -> None:
    """Borders that a classifier has in the wrong place on both sides alike do not turn the object."""
    distance = ((ALL_AROUND + 180) % 360 - 180).abs()
    is_front = distance <= 60
    probs = torch.where(is_front[:, None], torch.tensor([1.0, 0, 0, 0]), wanted_classes(ALL_AROUND, CLASSES))
    found, _ = yaw_of_views(ALL_AROUND, probs, CLASSES)
    assert found == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("shown", [[1.0, 0, 0, 0], [0.25] * 4])
def test_one_face_all_around_or_none_faces_nowhere(shown: list[float]) -> None:
    _, agreement = yaw_of_views(ALL_AROUND, torch.tensor(shown).expand(36, 4), CLASSES)
    assert agreement < 0.01 < LEAST_AGREEMENT


class Turned:
    """An object that is turned; its pictures are their own azimuths."""

    def __init__(self, yaw_deg: float, is_one_face: bool = False) -> None:
        self.yaw_deg, self.is_one_face = yaw_deg, is_one_face

    def picture(self, cameras: Cameras, size_px: int, ground: float = 0.8) -> Tensor:
        azimuth_deg = 0 * cameras.azimuth_deg if self.is_one_face else cameras.azimuth_deg + self.yaw_deg
        return (azimuth_deg / 1000)[:, None, None, None].expand(-1, 3, size_px, size_px)


class ByAzimuth:
    labels = ("front", "right", "back", "left")

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return wanted_classes(1000 * images[:, 0, 0, 0], CLASSES).clamp_min(1e-6).log()


def test_the_job_s_own_classifier_says_it_where_it_knows_cameras() -> None:
    config = resolve(JobRequest("a red bear"))
    rectifiers = [Rectifier(ByAzimuth(), "marginal", CLASSES, 10, 100)]
    assert yaw_of(Turned(40.0), rectifiers, config.cameras, 8) == pytest.approx(40, abs=1)
    assert yaw_of(Turned(40.0, is_one_face=True), rectifiers, config.cameras, 8) == 0
    nowhere = [Rectifier(ByAzimuth(), "marginal", None, 10, 100)]
    assert (
        yaw_of(Turned(40.0), nowhere, config.cameras, 8) == 0 == yaw_of(Turned(40.0), [], config.cameras, 8)
    )


class ByExchangedAzimuth(ByAzimuth):
    """Its templates of the sides are exchanged."""

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return super().__call__(images)[:, [0, 3, 2, 1]]


@pytest.mark.parametrize(("are_sides_known", "expected"), [(True, 0.0), (False, 40.0)])
def test_exchanged_sides_do_not_hide_where_the_front_is(are_sides_known: bool, expected: float) -> None:
    config = resolve(JobRequest("a red bear"))
    yaw = YawPosterior(CLASSES, 100, are_sides_known)
    rectifiers = [Rectifier(ByExchangedAzimuth(), "marginal", CLASSES, 10, 100, yaw=yaw)]
    assert yaw_of(Turned(40.0), rectifiers, config.cameras, 8) == pytest.approx(expected, abs=1)


def test_sides_are_lost_where_their_cameras_do_not_see_them() -> None:
    lost = [
        lost_sides(ALL_AROUND, wanted_classes(ALL_AROUND + yaw_deg, CLASSES), CLASSES)
        for yaw_deg in (0.0, 20.0, 90.0, 180.0)
    ]
    assert lost == [0, 0, 1, 1]
    one_face = torch.tensor([1.0, 0, 0, 0]).expand(36, 4)
    assert lost_sides(ALL_AROUND, one_face, CLASSES) == 0.75
    turned_faces = wanted_classes(ALL_AROUND, CLASSES)[:, [0, 0, 2, 0]] * torch.tensor([1.0, 0, 1, 0])
    assert lost_sides(ALL_AROUND, turned_faces, CLASSES) == 0.5
    assert lost_sides(ALL_AROUND, torch.full((36, 4), 0.26), CLASSES) == 0


def test_an_object_is_read_from_all_sides() -> None:
    config = resolve(JobRequest("a red bear"))
    rectifier = Rectifier(ByAzimuth(), "camera", CLASSES, 10, 100)
    azimuths, probs, classes = read_around(Turned(0.0), rectifier, config.cameras, 8)
    assert azimuths.tolist() == pytest.approx(list(range(0, 360, 10))) and classes is CLASSES
    assert lost_sides(azimuths, probs, classes) == 0
    assert lost_sides(*read_around(Turned(180.0), rectifier, config.cameras, 8)) == 1


def test_turning_by_the_yaw_brings_the_front_to_the_front() -> None:
    """The front of an object with yaw ψ is seen from azimuth -ψ; azimuth 0 is -Y."""
    yaw_deg = 50.0
    seen_from = np.deg2rad(-yaw_deg)
    nose = np.array([[np.sin(seen_from), -np.cos(seen_from), 0.3]])
    assert turned(nose, yaw_deg)[0] == pytest.approx([0, -1, 0.3], abs=1e-12)
    verts = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    assert np.array_equal(turned(verts, 0.0), verts.astype(np.float64))


def test_a_turned_placement_goes_there_and_back() -> None:
    placement = replace(Placement.centred(np.eye(3), 0.7), yaw_deg=35.0)
    verts = np.random.default_rng(1).standard_normal((9, 3)).astype(np.float32)
    assert np.abs(placement.to_world(placement.to_scene(verts)) - verts).max() < 1e-5
    assert np.abs(placement.to_scene(verts) - replace(placement, yaw_deg=0.0).to_scene(verts)).max() > 0.1
    expected = turned(verts, -35.0) * placement.scale + placement.offset
    assert np.abs(placement.to_scene(verts) - expected).max() < 1e-5


def test_the_yaw_is_read_from_the_report(tmp_path: Path) -> None:
    job = JobFolder(tmp_path)
    assert written_yaw_deg(job) == 0
    job.result.mkdir()
    report = job.result / "report.json"
    report.write_text(json.dumps({"meshes": [{"yaw_deg": 12.5}]}))
    assert written_yaw_deg(job) == 12.5
    report.write_text(json.dumps({"meshes": [{}]}))
    assert written_yaw_deg(job) == 0
