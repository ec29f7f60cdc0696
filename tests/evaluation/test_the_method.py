"""The method works: on a short run of the embedded prior, judged by the oracle, it shows all sides of a bear.

Without the rectifier the same run shows one side nearly all around, which is the disease that the method cures. Runs of
160 steps of two views at 48 pixels, with templates that the prior draws; docs/evaluation.md has whole runs. Entropy and
agreement of 24 views (see `Consistency`), by seed:

    seed   by the camera   marginal    without
    21     not run         .62  .50    .29  .42
    23     .96  .83        .93  .79    .12  .29

The bounds of 0.5 and 0.45 hold for both seeds; seed 23 is run here. A learning rate changed by a hundred-thousandth,
which is more than another processor's rounding, left its marginal form at .93 and .79. With 80 steps of four views,
which take as long, three seeds had .42 to .72 in the marginal form, two of them .70 and .79 by the camera, and .01 and
.29 without.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from recdreamer.cameras import orbit
from recdreamer.evaluation.consistency import Consistency, measure_consistency
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.presets import resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.report import NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest, Method, PoseMode, write_atomically
from recdreamer.stages.guidance import prepare_guide
from recdreamer.stages.shape import shape_stage

CPU, NUM_VIEWS, SEED = torch.device("cpu"), 24, 23
SETTINGS = {
    "optimize.num_steps": 160, "optimize.num_views": 2, "optimize.render_px": 48, "optimize.preview_every": 1000,
}  # fmt: skip
LEAST_ENTROPY, LEAST_AGREEMENT = 0.5, 0.45
"""The same side all around has 0 and 0.25, three sides of four in the right order 0.79 and 0.75."""


def shape_of(folder: Path, method: Method, pose_mode: PoseMode, drawn: Path | None = None) -> Consistency:
    """What the oracle sees around the shape of a short first stage; templates may be those of another job."""
    request = JobRequest(
        "a red bear", method=method, pose_mode=pose_mode, seed=SEED, device="cpu", overrides=SETTINGS
    )
    write_atomically(folder / "job.json", request.to_json())
    if drawn is not None:
        shutil.copytree(drawn / "templates", folder / "templates")
    job, config = JobFolder(folder), resolve(request)
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    guide = prepare_guide(job, config, prior)
    particles, _ = shape_stage(job, config, prior, guide, CPU, NullReport())
    # Half a step away from the borders between two poses, where no answer is right.
    cameras = orbit(NUM_VIEWS, config.cameras, CPU, 180 / NUM_VIEWS)
    probs = load_oracle().pose_probs(particles.scenes[0].picture(cameras, 64))
    return measure_consistency(probs, cameras.azimuth_deg)


def shows_all_sides(found: Consistency) -> bool:
    return found.pose_entropy > LEAST_ENTROPY and found.azimuth_agreement > LEAST_AGREEMENT


@pytest.fixture(scope="module")
def by_camera(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Consistency]:
    folder = tmp_path_factory.mktemp("camera")
    return folder, shape_of(folder, "usd", "camera")


def test_pose_control_by_the_camera_shows_each_side_where_it_belongs(
    by_camera: tuple[Path, Consistency],
) -> None:
    _, found = by_camera
    assert shows_all_sides(found), found
    assert found.agreement_unrotated > LEAST_AGREEMENT, found


def test_the_marginal_form_shows_all_sides_wherever_the_front_is(
    tmp_path: Path, by_camera: tuple[Path, Consistency]
) -> None:
    found = shape_of(tmp_path, "usd", "marginal", by_camera[0])
    assert shows_all_sides(found), found


def test_without_the_rectifier_the_same_run_does_not(tmp_path: Path) -> None:
    found = shape_of(tmp_path, "vsd", "camera")
    assert not shows_all_sides(found), found
