"""Whole jobs that take seconds, a report that remembers, and what a finished job holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from recdreamer.report import NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically

SMALL = {
    "optimize.num_steps": 3,
    "optimize.num_views": 2,
    "optimize.render_px": 32,
    "optimize.preview_every": 2,
    "geometry.num_steps": 2,
    "geometry.num_views": 1,
    "geometry.render_px": 32,
    "geometry.resolution": 24,
    "geometry.learning_rate": 0.1,
    "texture.num_steps": 2,
    "texture.num_views": 1,
    "texture.render_px": 32,
    "mesh.resolution": 24,
    "mesh.target_faces": 400,
    "mesh.texture_size_px": 64,
}


class Recorder(NullReport):
    """A report that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.told: dict[str, list[tuple[int, int]]] = {}
        """(step, total) of each stage, as they came."""
        self.spans: list[tuple[float, float]] = []
        self.previews: list[Path] = []
        self.distributions: list[dict[str, float]] = []

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None:
        self.stages.append(name)
        self.told[name] = []
        if span:
            self.spans.append(span)

    def progress(self, step: int, total: int) -> None:
        assert 0 <= step <= total
        self.told[self.stages[-1]].append((step, total))

    def preview(self, path: Path) -> None:
        self.previews.append(path)

    def pose_distribution(self, probs: dict[str, float]) -> None:
        self.distributions.append(probs)


def job_of(folder: Path, overrides: dict | None = None, **changes) -> tuple[JobFolder, JobRequest]:
    """A small job; of SDS, which needs no templates to be drawn, where nothing else is said."""
    request = JobRequest(
        "a red bear",
        device="cpu",
        height_m=0.5,
        overrides=SMALL | (overrides or {}),
        **{"method": "sds"} | changes,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "job.json", request.to_json())
    return JobFolder(folder), request


Finished = tuple[JobFolder, Recorder]


def copy_of(finished: Finished, folder: Path) -> JobFolder:
    return JobFolder(Path(shutil.copytree(finished[0].root, folder)))


def mesh_of(job: JobFolder) -> dict[str, np.ndarray]:
    return dict(np.load(job.result / "mesh.npz"))


def albedo_of(job: JobFolder) -> np.ndarray:
    with Image.open(job.result / "albedo.png") as image:
        return np.asarray(image.convert("RGB")) / 255
