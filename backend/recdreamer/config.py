"""Every setting of a generation, typed, with its unit.

The defaults of all fields, here and in the rooms that define their own settings, are those for Stable Diffusion and USD
(B.3 of the paper). What other methods, the embedded prior and drafts change stands in presets.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from recdreamer.cameras import CameraConfig
from recdreamer.device import Precision
from recdreamer.distillation.guidance_config import GuidanceConfig, RectifierConfig
from recdreamer.distillation.timesteps import Schedule
from recdreamer.field import FieldConfig, OccupancyConfig
from recdreamer.mesh import MeshConfig
from recdreamer.rendering import RenderConfig
from recdreamer.sdf.distance_grid import SOLID
from recdreamer.shared.protocol import Method, PoseMode, Stage
from recdreamer.shared.start_check import HALF_SIZE


@dataclass(frozen=True)
class RegularizerConfig:
    """Weights of the regularizers, relative to a distillation loss summed over latents and averaged over views."""

    sparsity: float = 10.0
    """threestudio, prolificdreamer.yaml: 10."""
    opaque: float = 1000.0
    """Pushes pixels away from half-transparent. threestudio, prolificdreamer.yaml: 1000."""
    opaque_rise: tuple[float, float] = (0.4, 0.4)
    """Shares of the steps between which this weight rises linearly from 0 to its value. threestudio: at once, after
    10,000 of 25,000 steps."""
    entropy: float = 100.0
    """Entropy of the samples' weights. RecDreamer's released code: 100 (ProlificDreamer: 10, and 100 against fog)."""
    entropy_rise: tuple[float, float] = (0.0, 0.0)
    """Like `opaque_rise`. Released code: constant."""
    entropy_samples_per_ray: int = 96
    """Samples of each ray, of all pixels, over which the mean entropy is taken (released code: 64 coarse and 32 fine
    ones), so that its pull does not depend on how many are skipped as empty. 0: over those that are rendered."""
    smoothness: float = 30.0
    """No source has it. At Stable Diffusion's size its gradient is a thousandth of the distillation's: harmless."""
    color_smoothness: float = 10.0
    z_variance: float = 0.0
    """Variance of depth along each ray that hits something (HiFA)."""


@dataclass(frozen=True)
class OptimizeConfig:
    """The first stage: shape and colour by score distillation."""

    num_steps: int = 15_000
    num_particles: int = 1
    """Objects that are made together; the steps are divided among them."""
    num_views: int = 1
    """Cameras per step."""
    render_px: int = 256
    """From the first step to the last (paper, C.6, and the released code). threestudio's VSD renders 64 pixels for the
    first fifth, which would save little: of a step, a picture takes a seventeenth (docs/evaluation.md)."""
    grid_learning_rate: float = 1e-2
    """Rates, here and below: ProlificDreamer's and RecDreamer's released code."""
    network_learning_rate: float = 1e-3
    final_learning_rate: float = 1.0
    """Final share of the learning rates, reached along a cosine; 1 keeps them constant."""
    background: Literal["plain", "learned"] = "learned"
    """`plain`: a random colour behind each view. `learned`: a learned surrounding instead, in half of the views
    (as ProlificDreamer)."""
    background_brightness: tuple[float, float] = (0.0, 1.0)
    """Range of a plain background, sRGB in [0, 1]. threestudio, `random_aug`: any color."""
    background_tint: float = 1.0
    """Largest difference between the channels of a plain background."""
    density_noise: float = 1.0
    """Standard deviation of the noise on densities before their softplus, in training pictures alone: only what stays
    solid in spite of it is seen. ProlificDreamer's and RecDreamer's released code: 1. 0: none."""
    tiny_encoder: str = ""
    """Folder or id of an AutoencoderTiny (TAESD: madebyollin/taesd) that encodes the pictures of this stage; empty uses
    the prior's own encoder. Its latents are a little off, and so are the colors, which the third stage learns anew."""
    checkpoint_every_s: float = 30.0
    preview_every: int = 50
    """Steps between two preview pictures."""


@dataclass(frozen=True)
class GeometryConfig:
    """The second stage: the surface, by score distillation on its normals as in ProlificDreamer's released code."""

    num_steps: int = 15_000
    method: Method = "sds"
    guidance_scale: float = 100.0
    view_prompts: bool = True
    """Words for the camera's viewpoint behind the prompt, whatever the other stages have (released code)."""
    auxiliary_prompt: str = ""
    """Instead of the first stage's: with it, each side would be asked to show the others (released code: none)."""
    schedule: Schedule = "late"
    num_views: int = 1
    render_px: int = 512
    picture: Literal["normals", "shaded"] = "normals"
    """Input of the prior: normals as colours, or the colours so far lit from above, for a prior that was not trained
    on normals."""
    resolution: int = 256
    """Vertices of the grid of distances along the cube."""
    softness: float = 0.0012
    """Distance over which outlines fade, in scene units: about a quarter of a pixel."""
    step_size: float = 0.004
    """Distance between samples near the surface, in scene units."""
    learning_rate: float = 0.01
    """Cells per step, at the start. The surface can travel by 82 cells in all, about as far as in ProlificDreamer's
    released code: 15,000 steps of 0.005, of distances that are cut off at 1."""
    final_learning_rate: float = 0.1
    albedo_learning_rate: float = 0.01
    """For `shaded` pictures: a wrong colour can then be corrected without a wrong shape."""
    albedo_variation: float = 100.0
    """Weight of differences between near points' albedo: without it, colours turn mottled."""
    eikonal: float = 900.0
    """In proportion to the curvature's as where both were tuned, on the embedded prior. This weight and the four around
    it hold at 96 vertices along the cube, and grow with the number of vertices; see `Surface.held`."""
    hessian: float = 400.0
    """Weight of the curvature at the start; see `hessian_loss`."""
    final_hessian: float = 1400.0
    """Weight of the curvature at the end: 10,000 at 256 vertices along the cube, as threestudio's consistency of normals
    (ProlificDreamer: 5,000). Guidance of 100 has gradients some ten times those of the embedded prior."""
    anchor: float = 1.0
    """Weight of the mean squared distance from the start, in cells."""


@dataclass(frozen=True)
class TextureConfig:
    """The third stage: colour on the frozen mesh, by the job's own method (paper, B.3)."""

    num_steps: int = 15_000
    guidance_scale: float = 7.5
    schedule: Schedule = "late"
    num_views: int = 1
    render_px: int = 512
    inherit: bool = True
    """Start from the colours so far; False starts from a new field."""
    field: FieldConfig = FieldConfig(max_resolution=2048)
    """The new field's, where `inherit` is off."""
    copy_steps: int = 150
    """Steps that fit the field to the colours of the second stage; the prior is not evaluated."""
    cached_views: int = 256
    """Number of views whose ray casts are cached."""
    supersampling: int = 2
    """Rays per pixel along each axis."""
    grid_learning_rate: float = 1e-2
    network_learning_rate: float = 1e-3
    final_learning_rate: float = 0.1
    smoothness: float = 10.0
    """Weight of the mean squared difference of near points' colours."""
    smoothing_radius: float = 0.01
    detail_steps: int = 0
    """Extra steps on close-ups of random places, which sharpen the texture. 0 = off, the default: no gain with the
    embedded prior, which was not trained on close-ups, and not measured with Stable Diffusion (try 3,000)."""
    detail_zoom: float = 2.0
    """Magnification of a close-up. At 2, its pixels are about as large as the finest cells of the presets' fields."""
    detail_noise: float = 0.3
    """Share of the timesteps, from the lowest up, that close-ups draw from: low noise sharpens, high noise replaces."""
    detail_prompt: str = "close-up, highly detailed"
    """Appended to the prompt instead of the auxiliary prompt."""
    detail_hold: float = 30_000.0
    """Weight of the mean squared change of close-ups at the resolution of other views: it keeps coarse colours."""


@dataclass(frozen=True)
class StartConfig:
    """The start from a mesh or from an earlier job."""

    resolution: int = 96
    """Vertices of the grid of distances along the cube."""
    half_size: float = HALF_SIZE
    """Half of the mesh's longest side in the scene."""
    hold: float = 3000.0
    """Weight of the pull towards the start at strength 0; it falls linearly to 0 at strength 1."""


StepName = Literal["shape", "geometry", "texture", "close_ups"]
"""The stages of a job, and the close-ups that end the third."""


@dataclass(frozen=True)
class StepConfig:
    """The settings of a distillation step and of the loop around it, the same for every stage."""

    method: Method
    seed: int
    num_steps: int
    num_views: int
    """Cameras per step."""
    cameras: CameraConfig
    guidance: GuidanceConfig
    preview_every: int
    """Steps between two preview pictures."""
    checkpoint_every_s: float
    coarse_cells: int = 0
    """See GenerateConfig."""


@dataclass(frozen=True)
class GenerateConfig:
    """One generation, complete; written to the job folder as config.json."""

    prompt: str
    method: Method
    pose_mode: PoseMode
    seed: int
    prior: str
    extractor: str
    device: str
    height_m: float
    extractor_px: int = 0
    """Side of the extractor's input. 0: as it was trained, 224 for DINOv2, whose 16 × 16 patches are the map of B.1.4.
    Released code: 560, averaged to 16 × 16, for six times the work."""
    precision: Precision = "auto"
    """Of the prior on a GPU. bfloat16 cannot overflow, but float16 is eight times as exact, and VSD and USD follow small
    differences of two estimates (docs/stable-diffusion.md); its gradients are scaled. `single` takes twice the memory
    (released code). `auto`: bfloat16, or float16 on cards without it."""
    processes: int = 1
    """Processes that share the views of a step, each with a GPU or a core. The result is the same within rounding; a
    stage with fewer views in a step is run by one. 0: as many as there are GPUs or cores, up to a process for each view
    of the first stage."""
    coarse_cells: int = 48
    """Cells along a side of the cube for the coarse mesh that is written while a stage runs, beside the preview pictures
    and at a fiftieth of the time at most; it shows parts of a twentieth of the cube. 0: none is written."""
    stages: tuple[str, ...] = get_args(Stage)
    start: StartConfig = StartConfig()
    optimize: OptimizeConfig = OptimizeConfig()
    geometry: GeometryConfig = GeometryConfig()
    texture: TextureConfig = TextureConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    rectifier: RectifierConfig = RectifierConfig()
    regularizers: RegularizerConfig = RegularizerConfig()
    cameras: CameraConfig = CameraConfig()
    field: FieldConfig = FieldConfig()
    occupancy: OccupancyConfig = OccupancyConfig()
    render: RenderConfig = RenderConfig()
    mesh: MeshConfig = MeshConfig()

    def step(self, name: StepName) -> StepConfig:
        """The part of the configuration that a distillation step of one stage needs."""
        own = {"shape": self.optimize, "geometry": self.geometry}.get(name, self.texture)
        method, num_steps, guidance = self.method, own.num_steps, self.guidance
        if not isinstance(own, OptimizeConfig):
            guidance = replace(guidance, guidance_scale=own.guidance_scale, schedule=own.schedule)
        if name == "geometry":
            method = self.geometry.method
            guidance = replace(
                guidance,
                view_prompts=self.geometry.view_prompts,
                auxiliary_prompt=self.geometry.auxiliary_prompt,
            )
        if name == "close_ups":
            # A part of the object has no pose that could be rectified.
            unrectified: dict[Method, Method] = {"usd": "vsd", "usd_sdi": "sdi"}
            method, num_steps = unrectified.get(method, method), self.texture.detail_steps
            guidance = replace(
                guidance,
                schedule="late",
                late_until=self.texture.detail_noise,
                auxiliary_prompt=self.texture.detail_prompt,
            )
        return StepConfig(
            method=method,
            seed=self.seed,
            num_steps=num_steps,
            num_views=own.num_views,
            cameras=self.cameras,
            guidance=guidance,
            preview_every=self.optimize.preview_every,
            coarse_cells=self.coarse_cells,
            checkpoint_every_s=self.optimize.checkpoint_every_s,
        )


def as_json(config: GenerateConfig) -> dict[str, Any]:
    """The configuration as plain values."""
    return dataclasses.asdict(config)


def surface_settings(config: GenerateConfig) -> MeshConfig:
    """The extraction settings for a refined surface: its level is known, and it has creases but no pores.

    Gaps are closed as in a field: a stem thinner than the cells of the grid leaves one.
    """
    return replace(config.mesh, threshold=0.5 * SOLID, fill_pores=False)
