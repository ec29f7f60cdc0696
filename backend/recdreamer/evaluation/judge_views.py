"""Evaluates a finished job of the embedded world with the oracle, and writes a contact sheet."""

from __future__ import annotations

from recdreamer.cameras import orbit
from recdreamer.device import choose_device
from recdreamer.evaluation.animal_oracle import oracle_of
from recdreamer.evaluation.consistency import Consistency, measure_consistency
from recdreamer.evaluation.job_report import add_to_report
from recdreamer.images import write_sheet
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.models.radiance import Particles
from recdreamer.presets import resolve
from recdreamer.report import JobError
from recdreamer.shared.protocol import JobFolder
from recdreamer.shared.worlds import DEFAULT_WORLD, world_of
from recdreamer.start.earlier_job import written_yaw_deg

NUM_VIEWS = 24


def judge_job(job: JobFolder, yaw_deg: float | None = None) -> Consistency:
    """Render 24 views of the job's first particle, ask the oracle, and add the results to result/report.json.

    The object is turned as in its mesh: by the yaw that the job has found, or by `yaw_deg`. Also writes
    result/contact-sheet.png. Raises JobError if nothing has been optimized yet.
    """
    config = resolve(job.read_request())
    device = choose_device(config.device)
    checkpoint = CheckpointStore(job.checkpoints).newest("shape")
    if checkpoint is None:
        raise JobError("evaluate", f"{job.root} has no checkpoint.", "Run the job first.")
    particles = Particles(config, device)
    particles.load({name: tensor.to(device) for name, tensor in checkpoint.tensors.items()})
    scene = particles.scenes[0]
    scene.field.set_progress(checkpoint.step)
    # Half a step away from the borders between two poses, where no answer is right.
    first_deg = 180 / NUM_VIEWS
    yaw_deg = written_yaw_deg(job) if yaw_deg is None else yaw_deg
    # Turning the object one way is turning the cameras the other way.
    world = world_of(config.prior) or DEFAULT_WORLD
    size_px = 128 if world.name == "animals" else 64
    pictures = scene.picture(orbit(NUM_VIEWS, config.cameras, device, first_deg - yaw_deg), size_px)
    azimuth_deg = orbit(NUM_VIEWS, config.cameras, device, first_deg).azimuth_deg
    found = measure_consistency(oracle_of(world, device).pose_probs(pictures), azimuth_deg)
    job.result.mkdir(parents=True, exist_ok=True)
    write_sheet(job.result / "contact-sheet.png", pictures[::2], NUM_VIEWS // 2, enlarge=2)
    add_to_report(job, "oracle", found.as_dict())
    return found
