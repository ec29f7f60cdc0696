"""A finished job, shared by the tests of whole jobs."""

from __future__ import annotations

import pytest

from recdreamer.generate import generate
from recdreamer.presets import resolve

from .small_jobs import Finished, Recorder, job_of


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A job of USD that was run from beginning to end, with two particles. Who changes it takes a copy."""
    folder = tmp_path_factory.mktemp("finished") / "jöb with spaces"
    job, request = job_of(folder, {"optimize.num_particles": 2}, method="usd")
    report = Recorder()
    generate(job, resolve(request), report)
    return job, report
