"""Every metric of a result, from pictures around it and, in the embedded world, from its surface."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from recdreamer.cameras import orbit
from recdreamer.config import GenerateConfig
from recdreamer.evaluation.animal_oracle import oracle_of
from recdreamer.evaluation.consistency import category_entropy, measure_consistency
from recdreamer.evaluation.figurines import KINDS, POSES
from recdreamer.evaluation.frechet import EmbeddedFeatures
from recdreamer.evaluation.head_features import count_on_head
from recdreamer.evaluation.janus_score import JanusScore, count_features
from recdreamer.evaluation.mesh_distance import (
    best_yaw,
    compare_surfaces,
    figure_bounds,
    figure_or_none,
    fitted_to,
    mesh_surface,
    true_surface,
)
from recdreamer.evaluation.mesh_views import true_views
from recdreamer.evaluation.oracle import Oracle
from recdreamer.evaluation.view_metrics import (
    ClipJudge,
    best_view,
    clip_score,
    distance_up_to_yaw,
    neighbor_cosine,
    opposite_cosine,
)
from recdreamer.evaluation.visual_hull import hull_mesh
from recdreamer.images import write_sheet
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.mesh.extract import extract_mesh
from recdreamer.mesh.level import find_surface
from recdreamer.mesh.mesh import Mesh
from recdreamer.models.radiance import Particles, Scene
from recdreamer.pose.features import FeatureExtractor
from recdreamer.presets import EMBEDDED_CAMERAS
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.report import JobError
from recdreamer.shared.protocol import PREVIEW_SUFFIXES, JobFolder
from recdreamer.shared.worlds import DEFAULT_WORLD, World, world_of
from recdreamer.stages.guidance import prepare_classifier

NUM_VIEWS = 24
VIEWS_PX = {"figurines": 64, "animals": 128, None: 224}
"""Side of the pictures in the embedded worlds, and elsewhere."""
SURFACE_POINTS = 50_000
KEPT_POINTS = 20_000
"""Of a run's surface, in surface.npz: about 100 kB."""
CLIP = {"figurines": "builtin", "animals": "clip", None: "clip"}


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of the run on a GPU, and on a CPU that of the process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def measure_result(
    job: JobFolder, config: GenerateConfig, prior: DiffusionPrior, yaw_deg: float
) -> dict[str, Any]:
    """Measure the first particle of a job's first stage, turned by its yaw. Also writes result/contact-sheet.png, and
    views.png with all views in a row, poses.json with the poses over the steps, and in the embedded world surface.npz
    with points of the surface into the job folder.

    In the embedded world the oracle reads the poses; elsewhere the training-free classifier does, with the job's
    templates or those that the prior draws. Raises JobError if nothing has been optimized yet.
    """
    world, device = world_of(config.prior), prior.device
    name = world and world.name
    scene, *others = _scenes(job, config, device)
    # Half a step away from the borders between two poses, where no answer is right.
    first_deg = 180 / NUM_VIEWS
    # Turning the object one way is turning the cameras the other way.
    cameras = orbit(NUM_VIEWS, config.cameras, device, first_deg - yaw_deg)
    # One at a time outside of the embedded worlds: all at once would need gigabytes.
    turns = (
        [cameras] if world else [orbit(1, config.cameras, device, float(at)) for at in cameras.azimuth_deg]
    )
    pictures = torch.cat([scene.picture(some, VIEWS_PX[name]) for some in turns])
    azimuth_deg = orbit(NUM_VIEWS, config.cameras, device, first_deg).azimuth_deg
    job.result.mkdir(parents=True, exist_ok=True)
    write_sheet(
        job.result / "contact-sheet.png",
        pictures[::2],
        NUM_VIEWS // 2,
        enlarge=2 if name == "figurines" else 1,
    )
    write_sheet(job.root / "views.png", pictures, NUM_VIEWS)
    extractor = FeatureExtractor(config.extractor, config.extractor_px).to(device)
    clip = _clip(config.prompt, CLIP[name], device)
    found = measure_views(pictures, azimuth_deg, extractor, clip)
    if world is not None:
        found |= _with_truth(job, config, world, scene, pictures, azimuth_deg, extractor, device)
        found |= _of_particles([pictures, *(other.picture(cameras, VIEWS_PX[name]) for other in others)],
                               azimuth_deg, world, job)  # fmt: skip
        write_pose_trace(job, device, world)
        return found
    classifier, *_ = prepare_classifier(job, config, prior)
    with torch.no_grad():
        probs = torch.cat([classifier(picture[None]).exp() for picture in pictures])
    return found | {"judge": "pose classifier"} | classified(probs, classifier.labels, azimuth_deg)


def _scenes(job: JobFolder, config: GenerateConfig, device: torch.device) -> list[Scene]:
    """One of each particle."""
    checkpoint = CheckpointStore(job.checkpoints).newest("shape")
    if checkpoint is None:
        raise JobError("evaluate", f"{job.root} has no checkpoint.", "Run the job first.")
    particles = Particles(config, device)
    particles.load({name: tensor.to(device) for name, tensor in checkpoint.tensors.items()})
    for scene in particles.scenes:
        scene.field.set_progress(checkpoint.step)
    return particles.scenes


def _of_particles(
    views: list[Float[Tensor, "views 3 height width"]], azimuth_deg: Float[Tensor, "views"], world: World, job: JobFolder
) -> dict[str, Any]:  # fmt: skip
    """Whether each of several particles is consistent, or only all together (paper, Fig. 6). Writes a contact sheet
    with a row for each; {} for a single particle."""
    if len(views) == 1:
        return {}
    oracle = oracle_of(world, views[0].device)
    probs = [oracle.pose_probs(pictures) for pictures in views]
    each = [measure_consistency(of_one, azimuth_deg) for of_one in probs]
    shown = torch.cat([pictures[::2] for pictures in views])
    enlarge = 2 if world.name == "figurines" else 1
    write_sheet(job.result / "contact-sheet.png", shown, NUM_VIEWS // 2, enlarge=enlarge)
    return {
        "particles": [one.as_dict() for one in each],
        "entropy_together": category_entropy(torch.cat(probs).mean(0)),
        "entropy_of_each": sum(one.pose_entropy for one in each) / len(each),
        "entropy_of_worst": min(one.pose_entropy for one in each),
        "agreement_of_worst": min(one.azimuth_agreement for one in each),
    }


def _clip(prompt: str, name: str, device: torch.device) -> ClipJudge | None:
    """CLIP where it is on the machine."""
    try:
        return ClipJudge(prompt, name, device=device)
    except JobError:
        return None


def measure_views(
    pictures: Float[Tensor, "views 3 height width"],
    azimuth_deg: Float[Tensor, "views"],
    extractor: FeatureExtractor,
    clip: ClipJudge | None,
) -> dict[str, Any]:
    """What needs no truth: the metrics of the paper by CLIP, and the field's."""
    features = EmbeddedFeatures(extractor)(pictures)
    found: dict[str, Any] = {
        "opposite_cosine": opposite_cosine(features, azimuth_deg.cpu()),
        "neighbor_cosine": neighbor_cosine(features),
    }
    if clip is None:
        return found
    shares, fit = clip.pose_probs(pictures).mean(0), clip.fit(pictures)
    return found | {
        "clip": clip.name,
        "clip_entropy": category_entropy(shares),
        "clip_entropy_nats": category_entropy(shares, "nats"),
        "clip_score": clip_score(fit),
        "best_view": best_view(fit),
        "opposite_clip_cosine": opposite_cosine(clip.features(pictures), azimuth_deg),
    }


def classified(
    probs: Float[Tensor, "views classes"], labels: tuple[str, ...], azimuth_deg: Float[Tensor, "views"]
) -> dict[str, Any]:
    """Consistency by a classifier's probabilities: in full if its classes are the four sides, else the entropies."""
    shares = probs.mean(0)
    entropies = {
        "pose_entropy": category_entropy(shares),
        "pose_entropy_nats": category_entropy(shares, "nats"),
        "pose_entropy_printed": category_entropy(shares, "printed"),
    }
    if set(labels) != set(POSES):
        return entropies | {"shares": dict(zip(labels, shares.tolist(), strict=True))}
    in_order = probs[:, [labels.index(pose) for pose in POSES]]
    found = measure_consistency(in_order, azimuth_deg).as_dict() | entropies
    return found | count_features(in_order).as_dict()


def _with_truth(
    job: JobFolder, config: GenerateConfig, world: World, scene: Scene, pictures: Tensor, azimuth_deg: Tensor,
    extractor: FeatureExtractor, device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """What the embedded world adds: the oracle's poses, and the distance from the true figure."""
    oracle = oracle_of(world, device)
    probs = oracle.pose_probs(pictures)
    found: dict[str, Any] = {"judge": "oracle"} | classified(probs, POSES, azimuth_deg)
    figure = figure_or_none(config.prompt)
    if figure is None:
        return found
    if "hat" in config.prompt.lower().split() and isinstance(oracle, Oracle):
        found["hat_share"] = float((oracle.hat_probs(pictures) > 0.5).float().mean())
    cameras = orbit(NUM_VIEWS, EMBEDDED_CAMERAS, torch.device("cpu"), 180 / NUM_VIEWS)
    true = true_views(figure, cameras, pictures.shape[-1]).to(device)
    found |= {f"views_{name}": value for name, value in distance_up_to_yaw(extractor, pictures, true).items()}
    mesh = _mesh_or_none(scene, config, device)
    if mesh is None:
        surface_path(job).unlink(missing_ok=True)  # Of an attempt before.
        return found | {"no_surface": True}
    return found | measure_surface(job, mesh, config.prompt, probs)


def _mesh_or_none(scene: Scene, config: GenerateConfig, device: torch.device) -> Mesh | None:
    """The surface of the field; None if it has none."""
    try:
        level = find_surface(scene.field.density, config.mesh, device=device)
        return extract_mesh(scene.field.density, config.mesh, level=level, device=device)
    except JobError:
        return None


def measure_surface(
    job: JobFolder, mesh: Mesh, prompt: str, probs: Float[Tensor, "views poses"]
) -> dict[str, Any]:
    """Chamfer, F-score, normals and R with ears, at the yaw that fits the prompt's figure best; lengths as in
    `mesh_distance`. Writes surface.npz, with points from which `recounted` counts again."""
    figure = figure_or_none(prompt)
    assert figure is not None, "The prompt names no figure."
    lo, hi = figure_bounds(figure)
    yaw_deg = best_yaw(mesh, figure)
    surface = mesh_surface(fitted_to(mesh, yaw_deg, lo, hi), None, SURFACE_POINTS)
    distance = compare_surfaces(surface, true_surface(figure, SURFACE_POINTS), float(hi[2] - lo[2]))
    np.savez_compressed(surface_path(job), points=surface.points[:KEPT_POINTS].astype(np.float16))
    return {
        "field_chamfer": distance.chamfer,
        "field_f_score": distance.f_score,
        "field_normals": distance.normal_consistency,
        "field_yaw_deg": yaw_deg,
        **janus_score_of(job, prompt, probs).as_dict(),
    }


def surface_path(job: JobFolder) -> Path:
    return job.root / "surface.npz"


def janus_score_of(job: JobFolder, prompt: str, probs: Float[Tensor, "views poses"]) -> JanusScore:
    """R of a run in the embedded world, with ears if the run has kept points of its surface."""
    if figure_or_none(prompt) is None or not surface_path(job).exists():
        return count_features(probs.cpu())
    with np.load(surface_path(job), allow_pickle=False) as kept:
        return _score_with_ears(prompt, kept["points"].astype(np.float64), probs)


def _score_with_ears(
    prompt: str, points: Float[np.ndarray, "points 3"], probs: Float[Tensor, "views poses"]
) -> JanusScore:
    """Of points in the frame of the prompt's figure. What that figure itself shows is counted alike: a hat hides a
    crest."""
    figure, kind = figure_or_none(prompt), _kind_of(prompt)
    assert figure is not None, "The prompt names no figure."
    true = true_surface(figure, KEPT_POINTS).points
    on_head = (count_on_head(points, figure, kind), count_on_head(true, figure, kind))
    return count_features(probs.cpu(), kind, on_head)


def _kind_of(prompt: str) -> str:
    return next(kind for kind in KINDS if kind in prompt.lower().split())


def recounted(job: JobFolder, prompt: str, world: World) -> dict[str, Any] | None:
    """R and success of a finished run counted again from what it has kept, as this version counts.

    Faces and backs are read from its pictures. Ears are counted on the points of its surface, or, in runs of earlier
    versions, which have none, on the visual hull of the pictures; `ears_from` says which. None without the pictures.
    """
    path, figure = job.root / "views.png", figure_or_none(prompt)
    if not path.exists() or figure is None:
        return None
    pictures = split_row(path, NUM_VIEWS)
    probs = oracle_of(world).pose_probs(pictures)
    if surface_path(job).exists():
        return janus_score_of(job, prompt, probs).as_dict() | {"ears_from": "surface"}
    try:
        mesh = hull_mesh(pictures, orbit(NUM_VIEWS, EMBEDDED_CAMERAS, pictures.device, 180 / NUM_VIEWS))
    except JobError:  # The pictures show nothing.
        return None
    lo, hi = figure_bounds(figure)
    points = mesh_surface(fitted_to(mesh, best_yaw(mesh, figure), lo, hi), None, KEPT_POINTS).points
    return _score_with_ears(prompt, points, probs).as_dict() | {"ears_from": "pictures"}


def write_pose_trace(job: JobFolder, device: torch.device, world: World = DEFAULT_WORLD) -> None:
    """Write poses.json: the oracle's shares of the poses in each preview of the first stage, with its step."""
    oracle, trace = oracle_of(world, device), []
    for path in sorted(job.previews.glob("shape-*")):
        if path.suffix not in PREVIEW_SUFFIXES:
            continue
        views = split_row(path, 4).to(device)
        shares = oracle.pose_probs(views).mean(0)
        trace.append({"step": int(path.stem.split("-")[1]), **dict(zip(POSES, shares.tolist(), strict=True))})
    (job.root / "poses.json").write_text(json.dumps(trace))


def split_row(path: Path, count: int) -> Float[Tensor, "count 3 size size"]:
    """Square pictures that stand side by side in the upper row of a sheet."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
    side = pixels.shape[1] // count
    row = pixels[:side].permute(2, 0, 1).float() / 255
    return torch.stack(row.split(side, dim=2)[:count])
