"""Looks at a mesh file of any tool from all sides: does it have one front, and what else says so?"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from recdreamer.cameras import orbit_cameras
from recdreamer.device import choose_device
from recdreamer.evaluation.bench_tables import OracleName
from recdreamer.evaluation.consistency import category_entropy, ring_agreement
from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.inspect_report import write_inspection
from recdreamer.evaluation.measure_result import measure_views
from recdreamer.evaluation.mesh_distance import figure_or_none
from recdreamer.evaluation.mesh_views import ColorAt, colored_views, texture_colors
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.evaluation.orient_anything import load_orient_anything
from recdreamer.evaluation.view_metrics import DIRECTIONS, ClipJudge
from recdreamer.images import write_sheet
from recdreamer.mesh.mesh import Mesh
from recdreamer.paths import given_path
from recdreamer.pose.classifier import ClassifierConfig, PoseClassifier
from recdreamer.pose.features import FeatureExtractor
from recdreamer.pose.templates import are_placed, class_azimuths, load_templates, templates_in
from recdreamer.presets import EMBEDDED_CAMERAS
from recdreamer.shared.protocol import JobFolder, RequestError, write_atomically
from recdreamer.shared.safe_files import printable, read_bounded, reason_of
from recdreamer.start.given_mesh import Unreadable
from recdreamer.start.gltf_file import BaseColor, read_base_colors
from recdreamer.start.mesh_file import GIVE, MAX_FILE_BYTES, Y_UP, beside, read_parts

NUM_VIEWS = 24
QUARTERS_DEG = ((0.0,), (90.0,), (180.0,), (270.0,))
"""Azimuths of POSES."""
VIEW_PX = 128
SIZE = 1.56
"""Longest side of the mesh in scene units: that of the figures of the embedded world."""
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PICTURE_PX = 8192**2
CLAY = 0.7
UNREADABLE_PICTURE = (
    OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


@dataclass(frozen=True)
class ColoredMesh:
    mesh: Mesh
    """Z up, centred, SIZE large."""
    color_at: ColorAt
    is_colored: bool
    """False if the file has no colours that are read: its shape alone is seen."""
    is_lit: bool
    """Whether its colours need light; those of our own results include it."""


@dataclass(frozen=True)
class PoseOracle:
    """A classifier of poses, with the azimuths of its classes."""

    name: str
    labels: tuple[str, ...]
    centres_deg: tuple[tuple[float, ...], ...]
    probs: Callable[[Float[Tensor, "views 3 height width"]], Float[Tensor, "views classes"]]


def inspect_mesh(
    file: Path, out: Path, prompt: str = "", oracle: OracleName = "auto", templates: Path | None = None,
    extractor_name: str = "builtin", clip_name: str = "builtin", device_name: str = "auto",
    orient: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Look at a mesh and write sheet.png, inspection.json and report.html to `out`. Returns what was found.

    Raises RequestError for a file, a folder or a combination that cannot be used, JobError for a missing model.
    """
    device = choose_device(device_name)
    colored = read_colored(file)
    judge = choose_oracle(oracle, prompt, templates, extractor_name, clip_name, device, orient)
    # Half a step off the borders between two poses.
    azimuth_deg = torch.arange(NUM_VIEWS) * (360.0 / NUM_VIEWS) + 180 / NUM_VIEWS
    elevation_deg = torch.full((NUM_VIEWS,), sum(EMBEDDED_CAMERAS.elevation_deg) / 2)
    cameras = orbit_cameras(
        azimuth_deg, elevation_deg, EMBEDDED_CAMERAS.distance[0], EMBEDDED_CAMERAS.fov_y_deg[0]
    )
    views = colored_views(colored.mesh, colored.color_at, cameras, VIEW_PX, colored.is_lit)
    pictures = (views.textured if colored.is_colored else views.clay).to(device)
    extractor = FeatureExtractor(extractor_name).to(device)
    found: dict[str, Any] = {
        "file": printable(file.name), "prompt": prompt, "faces": len(colored.mesh.faces),
        "has_colors": colored.is_colored, "oracle": judge.name if judge else "none",
    }  # fmt: skip
    turned_deg = azimuth_deg
    if judge is not None:
        with torch.no_grad():
            probs = judge.probs(pictures).cpu()
        ring = ring_agreement(probs, judge.centres_deg, azimuth_deg)
        turned_deg = (azimuth_deg + ring.yaw_deg) % 360
        found |= {
            "pose_entropy": category_entropy(probs.mean(0)), "azimuth_agreement": ring.agreement,
            "yaw_deg": ring.yaw_deg, "fronts": ring.fronts,
            "shares": dict(zip(judge.labels, probs.mean(0).tolist(), strict=True)),
            "views": [judge.labels[k] for k in probs.argmax(-1).tolist()],
        }  # fmt: skip
    clip = ClipJudge(prompt, clip_name, device=device) if prompt else None
    found |= measure_views(pictures, turned_deg, extractor, clip)
    found["verdict"] = verdict_of(found)
    out.mkdir(parents=True, exist_ok=True)
    sheet = torch.cat((pictures.cpu()[::2], views.clay[::2]))
    write_sheet(out / "sheet.png", sheet, NUM_VIEWS // 2)
    write_atomically(out / "inspection.json", json.dumps(found, indent=2, ensure_ascii=False))
    write_inspection(out, found, azimuth_deg.tolist(), pictures)
    return found


def verdict_of(found: dict[str, Any]) -> str:
    """One sentence for people."""
    if "fronts" not in found:
        return (
            f"Nobody was asked what is front: the features of front and back agree by {found['opposite_cosine']:.2f}. "
            "Give a prompt, templates or an oracle to know more."
        )
    fronts, agreement = found["fronts"], found["azimuth_agreement"]
    if fronts == -1:
        return "It shows its front on all sides: Janus."
    if fronts == 0:
        return "No side is recognized as its front."
    if fronts > 1:
        return f"{fronts} sides are recognized as its front: Janus, if the oracle is right (agreement {agreement:.2f})."
    if agreement >= 0.8:
        return f"One front, and the sides follow as they should (agreement {agreement:.2f})."
    return f"One front, but its sides do not follow as they should (agreement {agreement:.2f})."


def choose_oracle(
    name: OracleName, prompt: str, templates: Path | None, extractor_name: str, clip_name: str,
    device: torch.device, orient: Path | None = None,
) -> PoseOracle | None:  # fmt: skip
    """Who says which side is seen. `auto`: templates if there are any, Orient Anything if its weights are given, the
    embedded oracle for a prompt of its world, CLIP for any other prompt, nobody without one. Raises RequestError and
    JobError."""
    if name == "auto":
        by_prompt = "embedded" if figure_or_none(prompt) is not None else "clip" if prompt else "none"
        name = "templates" if templates else "orient" if orient else by_prompt
    match name:
        case "none":
            return None
        case "embedded":
            return PoseOracle("embedded oracle", POSES, QUARTERS_DEG, load_oracle(device).pose_probs)
        case "orient":
            if orient is None:
                raise RequestError(
                    "Orient Anything's weights are missing.",
                    "Give its dino_weight.pt as .safetensors with --orient.",
                )
            network = load_orient_anything(orient, device)
            return PoseOracle("Orient Anything", POSES, QUARTERS_DEG, network.pose_probs)
        case "clip":
            if not prompt:
                raise RequestError(
                    "CLIP needs to know what it sees.", "Give --prompt, for example 'a red bear'."
                )
            judge = ClipJudge(prompt, clip_name, device=device)
            return PoseOracle(judge.name, DIRECTIONS, ((0.0,), (90.0, 270.0), (180.0,)), judge.pose_probs)
        case "templates":
            if templates is None:
                raise RequestError("There are no templates to ask.", "Give a folder with --templates.")
            return _of_templates(templates, extractor_name, device)


def _of_templates(folder: Path, extractor_name: str, device: torch.device) -> PoseOracle:
    """The training-free classifier with the pictures of a folder."""
    folder = given_path(folder)
    loaded = load_templates(JobFolder(folder), templates_in(folder), VIEW_PX)
    if not are_placed(loaded):
        raise RequestError(
            "Not all templates say from where they are seen.", "Name them front, right, back and left."
        )
    extractor = FeatureExtractor(extractor_name).to(device)
    classifier = PoseClassifier(extractor, loaded, ClassifierConfig())
    if len(classifier.labels) < 2:
        raise RequestError("All templates show one side.", "Add pictures of other sides.")
    centres = class_azimuths(loaded, classifier.labels).tolist()

    def probs(pictures: Tensor) -> Tensor:
        return torch.cat([classifier(picture[None]).exp() for picture in pictures])

    return PoseOracle("your templates", classifier.labels, tuple((centre,) for centre in centres), probs)


def read_colored(file: Path) -> ColoredMesh:
    """A mesh file with its base colours (glTF; other formats without). Raises RequestError in one sentence."""
    path = given_path(file)
    if not path.is_file():
        raise RequestError(f"There is no mesh {printable(path)}.", GIVE)
    data = read_bounded(path.resolve(), MAX_FILE_BYTES)
    is_gltf = path.suffix.lower() in (".glb", ".gltf")
    try:
        with np.errstate(all="ignore"):
            given = read_parts(path, data)
            colors = read_base_colors(data, beside(path)) if is_gltf else []
            pictures = [_opened(color) for color in colors]
    except Unreadable as error:
        raise RequestError(
            f"The mesh {printable(path.name)} cannot be read: {reason_of(error)}.", GIVE
        ) from error
    parts = [part for part in given.parts if len(part.faces)]
    if not parts:
        raise RequestError(f"The mesh {printable(path.name)} has no faces.", GIVE)
    starts = np.cumsum([0, *(len(part.verts) for part in parts)])
    verts = np.concatenate([part.verts for part in parts]).astype(np.float64)
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts[:-1], strict=True)])
    if path.suffix.lower() in Y_UP:
        verts = verts[:, [0, 2, 1]] * (1, -1, 1)
    used = verts[np.unique(faces)]
    low, high = used.min(0), used.max(0)
    extent = float((high - low).max())
    if not np.isfinite(used).all() or not 0 < extent < 1e30:
        raise RequestError(
            f"The mesh {printable(path.name)} has no extent that can be shown.", "Repair the mesh."
        )
    verts = (verts - (low + high) / 2) * (SIZE / extent)
    materials = np.concatenate(
        [np.full(len(part.faces), -1) if part.materials is None else part.materials for part in parts]
    )
    uvs = np.concatenate(
        [np.zeros((len(part.faces), 3, 2)) if part.uvs is None else np.nan_to_num(part.uvs) for part in parts]
    )

    def color_at(
        hit: Int[np.ndarray, "points"], weights: Float[np.ndarray, "points 3"]
    ) -> Float[np.ndarray, "points 3"]:
        found = np.full((len(hit), 3), CLAY)
        places = np.einsum("nc,ncd->nd", weights, uvs[hit])
        for number, (color, picture) in enumerate(zip(colors, pictures, strict=True)):
            here = materials[hit] == number
            tint = _srgb(np.asarray(color.factor))
            found[here] = tint
            if picture is not None and here.any():
                # A texture repeats beyond [0, 1], as is glTF's default.
                found[here] = texture_colors(picture, places[here] % 1.0) * tint
        return found

    is_colored = bool(colors) and bool((materials >= 0).any())
    is_ours = is_gltf and re.search(rb'"generator": ?"RecDreamer', data[:4096]) is not None
    return ColoredMesh(
        Mesh(verts.astype(np.float32), faces.astype(np.int32)), color_at, is_colored, not is_ours
    )


def _opened(color: BaseColor) -> np.ndarray | None:
    """The picture of a material. Raises Unreadable."""
    if color.picture is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(color.picture), formats=PICTURE_FORMATS) as picture:
                if picture.width * picture.height > MAX_PICTURE_PX:
                    raise Unreadable(f"a texture of it has {picture.width} × {picture.height} pixels")
                return np.asarray(picture.convert("RGB"))
        except Unreadable:
            raise
        except UNREADABLE_PICTURE as error:
            raise Unreadable("a texture of it is damaged, or no PNG, JPEG or WebP") from error


def _srgb(linear: Float[np.ndarray, "channels"]) -> Float[np.ndarray, "channels"]:
    """sRGB of linear values (IEC 61966-2-1).

    >>> _srgb(np.array([0.0, 0.2140411, 1.0])).round(3).tolist()
    [0.0, 0.5, 1.0]
    """
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def default_folder(file: Path) -> Path:
    """Where an inspection is written if nothing else is said: beside the file."""
    return file.with_name(f"{file.stem}-inspection")
