"""The 2D validation as a job (paper, App. E): pictures, numbers, and the oracle's count of poses."""

from __future__ import annotations

import io
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.config import as_json
from recdreamer.device import choose_device, choose_dtype
from recdreamer.evaluation.animal_oracle import oracle_of
from recdreamer.evaluation.consistency import category_entropy
from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.oracle import Oracle
from recdreamer.images import write_sheet
from recdreamer.presets import resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.report import JobError, Report
from recdreamer.shared.json_values import read_json
from recdreamer.shared.protocol import JobFolder, JobRequest, RequestError, write_atomically
from recdreamer.shared.worlds import DEFAULT_WORLD, World, world_of
from recdreamer.stages.guidance import prepare_guide, prepare_rectifiers
from recdreamer.stages.particles_2d import PoseObserver, Snapshot, check_config, is_due, particle_stage

NUM_SHEETS = 10
MIN_PICTURE_PX = 128


def particles_job(job: JobFolder, request: JobRequest, report: Report) -> None:
    """Run or resume the particles. Writes sheets/, trace.json, particles.png, marginal.png and result/report.json.

    Raises RequestError, JobError, Cancelled and Paused.
    """
    config = resolve(request)
    check_config(config)
    _new_figure()  # Fail now rather than after an hour.
    device = choose_device(config.device)
    write_atomically(job.root / "config.json", json.dumps(as_json(config), indent=2, ensure_ascii=False))
    report.stage("prepare", 0, 2, (0.0, 0.03))
    torch.manual_seed(config.seed)
    prior = DiffusionPrior.load(config.prior, device, choose_dtype(config.prior, device, config.precision))
    guide = prepare_guide(job, config, prior)
    rectifiers = guide.rectifiers or prepare_rectifiers(job, config, prior)
    observer = PoseObserver(guide, rectifiers[0].classifier, config.rectifier)
    world = world_of(config.prior)
    album = Album(job, config.optimize.num_steps, world, report)

    report.stage("particles", 1, 2, (0.03, 1.0))
    particles, seconds = particle_stage(job, config, prior, guide, observer, report, album.add)
    pictures, num_steps = particles.pictures(), config.optimize.num_steps
    write_square_sheet(job.root / "particles.png", pictures)
    draw_marginal(album.trace, job.root / "marginal.png", f"{config.method}: {config.prompt}")
    result = {
        "prompt": config.prompt,
        "method": config.method,
        "seed": config.seed,
        "particles": len(pictures),
        "steps": num_steps,
        "seconds": seconds,
        "seconds_per_step": seconds / num_steps,
        "device": str(device),
        "marginal": dict(zip(observer.classifier.labels, observer.marginal.overall().tolist(), strict=True)),
        "oracle": poses_of(pictures, world) if world else None,
    }
    job.result.mkdir(exist_ok=True)
    write_atomically(job.result / "report.json", json.dumps(result, indent=2, ensure_ascii=False))


class Album:
    """trace.json and the sheets of a run, continued from its checkpoint after an interruption."""

    def __init__(self, job: JobFolder, num_steps: int, world: World | None, report: Report) -> None:
        self.job, self.num_steps, self.world, self.report = job, num_steps, world, report
        self.path = job.root / "trace.json"
        self.trace: dict[str, Any] = {"labels": [], "records": []}
        with suppress(RequestError, TypeError, KeyError):  # Missing or damaged, it begins anew.
            trace = read_json(self.path)
            records = [record for record in trace["records"] if type(record["step"]) is int]
            self.trace = {"labels": list(trace["labels"]), "records": records}

    def add(self, sight: Snapshot) -> None:
        record: dict[str, Any] = {
            "step": sight.step,
            "marginal": sight.marginal.tolist(),
            "mean_marginal": sight.mean_marginal.tolist(),
        }
        if self.world:
            record["oracle"] = poses_of(sight.pictures, self.world)
        # A killed run has recorded more steps than its checkpoint has, and repeats them.
        earlier = [known for known in self.trace["records"] if known["step"] < sight.step]
        self.trace = {"labels": list(sight.labels), "records": [*earlier, record]}
        write_atomically(self.path, json.dumps(self.trace))
        if is_due(sight.step, self.num_steps, NUM_SHEETS):
            path = self.job.root / "sheets" / f"step-{sight.step:06d}.png"
            path.parent.mkdir(exist_ok=True)
            write_square_sheet(path, sight.pictures)
            self.report.preview(path)


def poses_of(
    pictures: Float[Tensor, "particles 3 height width"], world: World = DEFAULT_WORLD
) -> dict[str, Any]:
    """The answers of a world's oracle: number and share of pictures of each pose, entropy of the shares over ln 4, and
    the hats of figurines."""
    oracle = oracle_of(world, pictures.device)
    probs = oracle.pose_probs(pictures)
    shares, counts = probs.mean(0), probs.argmax(-1).bincount(minlength=len(POSES))
    return {
        "counts": dict(zip(POSES, counts.tolist(), strict=True)),
        "shares": dict(zip(POSES, shares.tolist(), strict=True)),
        "pose_entropy": category_entropy(shares),
    } | ({"hats": int((oracle.hat_probs(pictures) > 0.5).sum())} if isinstance(oracle, Oracle) else {})


def write_square_sheet(path: Path, pictures: Float[Tensor, "particles 3 height width"]) -> None:
    """All pictures in a square grid, each enlarged to at least MIN_PICTURE_PX."""
    columns, enlarge = math.ceil(math.sqrt(len(pictures))), math.ceil(MIN_PICTURE_PX / pictures.shape[-1])
    write_sheet(path, pictures, columns, enlarge)


def draw_marginal(trace: dict[str, Any], path: Path, title: str) -> None:
    """Plot p̄_t(c|y) over the intervals of timesteps, at the end and on average (Fig. 14), and over the steps."""
    labels, last = trace["labels"], trace["records"][-1]
    figure = _new_figure(figsize=(12, 3.2), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, key, name in zip(
        panels, ("marginal", "mean_marginal"), (f"step {last['step']}", "mean over the steps"), strict=False
    ):
        shares = torch.tensor(last[key])
        below = torch.zeros(len(shares))
        for label, share in zip(labels, shares.T, strict=True):
            axes.bar(range(1, len(shares) + 1), share.tolist(), 0.85, below.tolist(), label=label)
            below = below + share
        for k in range(1, len(labels)):
            axes.axhline(k / len(labels), color="black", linewidth=0.7, linestyle=":")
        axes.set(title=name, xlabel="interval of timesteps, from low to high noise", ylim=(0, 1))
    panels[0].set_ylabel("p̄(c|y)")
    over_steps = torch.tensor([record["marginal"] for record in trace["records"]]).mean(1)
    steps = [record["step"] for record in trace["records"]]
    for label, shares in zip(labels, over_steps.T.tolist(), strict=True):
        panels[2].plot(steps, shares, label=label)
    panels[2].axhline(1 / len(labels), color="black", linewidth=0.7, linestyle=":")
    panels[2].set(title="mean over the intervals", xlabel="step")
    panels[2].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    write_atomically(path, data.getvalue())


def _new_figure(**settings: Any) -> Any:
    """A figure without a display. Raises JobError if Matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise JobError(
            "install",
            "Matplotlib, which draws the figures, is not installed.",
            "Install the backend with this extra: pip install './backend[figures]'.",
        ) from error
    return Figure(**settings)
