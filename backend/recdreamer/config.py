"""Every choice of a generation, typed, with its unit, and the presets that make a request concrete."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from recdreamer.cameras import CameraConfig
from recdreamer.distillation.methods import GuidanceConfig, RectifierConfig
from recdreamer.distillation.timesteps import Schedule
from recdreamer.field import FieldConfig, OccupancyConfig
from recdreamer.mesh import MeshConfig
from recdreamer.prior.prompts import ViewConfig
from recdreamer.protocol import BUILTIN_PRIOR, JobRequest, Method, PoseMode, RequestError, Stage
from recdreamer.rendering import RenderConfig

BUILTIN_VIEWS = ViewConfig(
    front="from front view", right="facing left", back="from back view", left="facing right",
    overhead="from front view", front_width_deg=90.0,
)  # fmt: skip
"""Who stands to the right of a figure sees it face left."""


@dataclass(frozen=True)
class RegularizerConfig:
    """Weights of the regularisers, against a distillation loss that is summed over latents and averaged over views."""

    sparsity: float = 10.0
    opaque: float = 10.0
    """Reached linearly at the end; pushes pixels to either side of half-transparent."""
    entropy: float = 10.0
    """Of the samples' weights, reached linearly at the end."""
    smoothness: float = 30.0
    color_smoothness: float = 10.0
    z_variance: float = 0.0
    """Of depth along each ray that hits something (HiFA)."""


@dataclass(frozen=True)
class OptimizeConfig:
    """The first stage: shape and colour by score distillation."""

    num_steps: int = 15_000
    num_particles: int = 1
    """Objects that are made together; the steps are shared out among them."""
    num_views: int = 1
    """Cameras per step."""
    render_px: int = 256
    grid_learning_rate: float = 1e-2
    network_learning_rate: float = 1e-3
    final_learning_rate: float = 1.0
    """Share of the learning rates that is left at the end, reached along a cosine; 1 keeps them constant."""
    background: Literal["plain", "learned"] = "learned"
    """`plain`: a random ground behind each view. `learned`: a learned surrounding instead, in half of the views
    (as ProlificDreamer)."""
    ground: tuple[float, float] = (0.4, 1.0)
    """Brightness of a plain random ground."""
    ground_tint: float = 0.1
    checkpoint_every_s: float = 30.0
    preview_every: int = 50
    """Steps between two preview pictures."""


@dataclass(frozen=True)
class GeometryConfig:
    """The second stage: the surface by score distillation on its normals, as ProlificDreamer's released code."""

    num_steps: int = 15_000
    method: Method = "sds"
    guidance_scale: float = 100.0
    schedule: Schedule = "late"
    num_views: int = 1
    render_px: int = 512
    picture: Literal["normals", "shaded"] = "normals"
    """What the prior is shown: normals as colours, or the colours so far in a light from above, for a prior that has
    never seen normals."""
    resolution: int = 256
    """Vertices of the grid of distances along the cube."""
    softness: float = 0.0012
    """Distance over which an outline fades, in scene units: about a quarter of a pixel."""
    step_size: float = 0.004
    """Distance between samples near the surface, in scene units."""
    learning_rate: float = 0.1
    """Cells per step at first."""
    final_learning_rate: float = 0.1
    albedo_learning_rate: float = 0.01
    """Of a picture that is `shaded`; what is only a wrong colour needs no wrong shape then."""
    albedo_variation: float = 100.0
    """Weight of the differences of the albedo: without it colours turn mottled."""
    eikonal: float = 100.0
    hessian: float = 30.0
    """Weight of the curvature at first; see `hessian_loss`."""
    final_hessian: float = 100.0
    """The same at the end."""
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
    """Go on from the colours so far; False begins with a field of its own."""
    field: FieldConfig = FieldConfig(num_levels=16, log2_table_size=19, max_resolution=2048, hidden_width=64)
    """Of its own field."""
    copy_steps: int = 150
    """Steps by which the field takes on the colours that the second stage has learnt; they ask no prior."""
    cached_views: int = 256
    """Views whose ray casts are kept."""
    supersampling: int = 2
    """Rays per pixel along each axis."""
    grid_learning_rate: float = 1e-2
    network_learning_rate: float = 1e-3
    final_learning_rate: float = 0.1
    smoothness: float = 10.0
    """Weight of the mean squared difference of near points' colours."""
    smoothing_radius: float = 0.01
    detail_steps: int = 0
    """Steps that follow, in which close-ups of random places sharpen what is there; 0 leaves them out. Off: they do not
    help the embedded prior, which has never seen close-ups, and are not measured with Stable Diffusion (try 3,000)."""
    detail_zoom: float = 2.0
    """How much larger things are in a close-up. At 2 its pixels are about the finest cells of the presets' fields."""
    detail_noise: float = 0.3
    """Share of the timesteps, from the lowest on, that close-ups draw from: little noise sharpens, much replaces."""
    detail_prompt: str = "close-up, highly detailed"
    """Appended to the prompt instead of the auxiliary prompt."""
    detail_hold: float = 30_000.0
    """Weight of the mean squared change of close-ups that are as coarse as other pictures: coarse colours stay."""


@dataclass(frozen=True)
class StartConfig:
    """How a job begins that starts from a mesh or from an earlier job."""

    resolution: int = 96
    """Vertices of the grid of distances along the cube."""
    half_size: float = 0.75
    """Half of the mesh's longest side in the scene, about that of the embedded world's figures."""
    hold: float = 3000.0
    """Weight of the pull towards the start at strength 0; it falls linearly to nothing at strength 1."""


Steps = TypeVar("Steps", OptimizeConfig, GeometryConfig, TextureConfig)


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
    stages: tuple[str, ...] = get_args(Stage)
    start: StartConfig = StartConfig()
    optimize: OptimizeConfig = OptimizeConfig()
    geometry: GeometryConfig = GeometryConfig()
    texture: TextureConfig = TextureConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    rectifier: RectifierConfig = RectifierConfig()
    regularizers: RegularizerConfig = RegularizerConfig()
    cameras: CameraConfig = field(
        default_factory=lambda: CameraConfig(
            elevation_deg=(-10.0, 45.0), distance=(2.6, 3.4), fov_y_deg=(40.0, 50.0)
        )
    )
    field: FieldConfig = FieldConfig(num_levels=16, log2_table_size=19, max_resolution=1024, hidden_width=64)
    occupancy: OccupancyConfig = OccupancyConfig()
    render: RenderConfig = RenderConfig(step_size=0.01)
    mesh: MeshConfig = MeshConfig(resolution=256, texture_size_px=2048)


def of_geometry(config: GenerateConfig) -> GenerateConfig:
    """The configuration by which a step of the second stage runs."""
    own = config.geometry
    return _of_stage(replace(config, method=own.method), own)


def of_texture(config: GenerateConfig) -> GenerateConfig:
    """The configuration by which a step of the third stage runs."""
    return _of_stage(config, config.texture)


def of_detail(config: GenerateConfig) -> GenerateConfig:
    """The configuration by which a close-up runs: a part of the object has no pose that could be rectified."""
    own = config.texture
    config = _of_stage(replace(config, method="vsd" if config.method == "usd" else config.method), own)
    return replace(
        config,
        optimize=replace(config.optimize, num_steps=own.detail_steps),
        guidance=replace(
            config.guidance, schedule="late", late_until=own.detail_noise, auxiliary_prompt=own.detail_prompt
        ),
    )


def _of_stage(config: GenerateConfig, own: GeometryConfig | TextureConfig) -> GenerateConfig:
    return replace(
        config,
        optimize=replace(
            config.optimize, num_steps=own.num_steps, num_views=own.num_views, render_px=own.render_px
        ),
        guidance=replace(config.guidance, guidance_scale=own.guidance_scale, schedule=own.schedule),
    )


def resolve(request: JobRequest) -> GenerateConfig:
    """The configuration of a request: the preset of its prior and quality, then its overrides."""
    config = GenerateConfig(
        prompt=request.prompt.strip(),
        method=request.method,
        pose_mode=request.pose_mode,
        seed=request.seed,
        prior=request.prior,
        extractor="builtin" if request.prior == BUILTIN_PRIOR else "facebook/dinov2-with-registers-small",
        device=request.device,
        height_m=request.height_m,
        stages=request.own_stages,
    )
    config = _as_cited(config)
    if request.prior == BUILTIN_PRIOR:
        config = _fitted_to_builtin(config)
    if request.quality == "quick":
        config = _quick(config)
    for name, value in request.overrides.items():
        config = _with(config, name.split("."), name, value)
    _check_detail(config.texture)
    return config


def _check_detail(texture: TextureConfig) -> None:
    if texture.detail_zoom < 1:
        raise RequestError(
            f"texture.detail_zoom is {texture.detail_zoom}: a close-up shows things larger, not smaller.",
            "Give a number from 1 on, for example 2.",
        )
    if not 0.03 <= texture.detail_noise <= 1:
        raise RequestError(
            f"texture.detail_noise is {texture.detail_noise}, which leaves no timesteps to draw from.",
            "Give a share from 0.03 to 1, for example 0.3.",
        )


def _as_cited(config: GenerateConfig) -> GenerateConfig:
    """The configuration in which each method was published, as far as this field has its parts.

    USD: paper, B.3. VSD: ProlificDreamer's released code. ESD: the same with its λ. The others: threestudio, by which
    the paper ran them, with its guidance scales in diffusers' convention.
    """
    guidance, optimize = config.guidance, config.optimize
    match config.method:
        case "usd":
            # Released code's auxiliary prompt; B.3 has the same words.
            guidance = replace(guidance, auxiliary_prompt="from side view, from back view")
        case "vsd" | "esd":
            guidance = replace(guidance, view_prompts=True, schedule="annealed")
            optimize = replace(optimize, num_steps=25_000)
        case "sds_bridge":
            guidance = replace(guidance, guidance_scale=100.0, view_prompts=True, schedule="annealed")
            optimize = replace(optimize, num_steps=25_000)
        case "sds" | "debiased_sds":
            # Its 100 multiplies (eps_text - eps_empty) on top of eps_text.
            guidance = replace(guidance, guidance_scale=101.0, view_prompts=True, schedule="uniform")
            optimize = replace(optimize, num_steps=10_000, render_px=64)
        case "perp_neg":
            guidance = replace(guidance, guidance_scale=100.0, view_prompts=True, schedule="uniform")
            optimize = replace(optimize, num_steps=10_000, render_px=64)
    texture = replace(config.texture, guidance_scale=guidance.guidance_scale)
    return replace(config, guidance=guidance, optimize=optimize, texture=texture)


def _fitted_to_builtin(config: GenerateConfig) -> GenerateConfig:
    """64-pixel pictures of one object from the cameras that the embedded prior was shown."""
    return replace(
        config,
        optimize=OptimizeConfig(
            num_steps=500, num_views=4, render_px=64, grid_learning_rate=3e-2, network_learning_rate=3e-3,
            final_learning_rate=0.05, background="plain", ground=(0.45, 1.0), ground_tint=0.2, preview_every=25,
        ),
        # It has never seen normals. Its steps are cheap, and the shell's cells are as fine as its pixels: where the first
        # stage is round or pitted the surface has far to go, five cells and more.
        geometry=GeometryConfig(
            num_steps=200, num_views=4, render_px=64, guidance_scale=3.0, picture="shaded", schedule="uniform",
            resolution=96, softness=0.008, step_size=0.02, learning_rate=1.0, eikonal=50.0, hessian=10.0,
            final_hessian=80.0, anchor=0.0,
        ),
        # It begins with the albedo of the surface, which is near the end already.
        texture=TextureConfig(
            num_steps=50, num_views=4, render_px=64, guidance_scale=3.0,
            field=FieldConfig(), grid_learning_rate=1e-2, cached_views=128, smoothness=100.0, smoothing_radius=0.03,
            detail_prompt="",
        ),
        # Its words for a view are obeyed nearly always, which leaves no bias to correct: only methods that are made of
        # such words have them. Below t = 750 its estimate has a pose already: with the paper's two intervals the first
        # phase draws from t = 500 on, and drafts settle on a pose before the rectifier has chosen one.
        guidance=replace(
            config.guidance, guidance_scale=3.0, auxiliary_prompt="", schedule="back_and_forth", num_intervals=4,
            view_prompts=config.method in ("perp_neg", "debiased_sds"), views=BUILTIN_VIEWS,
            lora_rank=8, lora_learning_rate=1e-3, lora_warmup_steps=20,
            clip_limits=(0.5, 2.0), bridge_source="", bridge_weight=3.0,
        ),
        rectifier=RectifierConfig(weight=300.0, n_ema=30, attribute_classifier="builtin"),
        regularizers=RegularizerConfig(
            sparsity=10.0, opaque=1000.0, entropy=30.0, smoothness=100.0, color_smoothness=100.0
        ),
        cameras=CameraConfig(elevation_deg=(2.0, 18.0), distance=(4.0, 4.0), fov_y_deg=(30.0, 30.0)),
        field=FieldConfig(),
        render=RenderConfig(),
        mesh=MeshConfig(),
    )  # fmt: skip


def _quick(config: GenerateConfig) -> GenerateConfig:
    """A draft in a third of the time, of a coarser mesh.

    Fewer views are saved before steps: a schedule cut to a third leaves no time for the details.
    """
    return replace(
        config,
        optimize=_shortened(config.optimize),
        geometry=_shortened(config.geometry),
        texture=_shortened(config.texture),
        mesh=replace(config.mesh, resolution=96, target_faces=5000, texture_size_px=512, bake_samples=1),
    )


def _shortened(stage: Steps) -> Steps:
    """A third of the work of a stage."""
    num_views, share = (stage.num_views // 2, 2 / 3) if stage.num_views > 1 else (1, 1 / 3)
    return replace(stage, num_views=num_views, num_steps=round(share * stage.num_steps))


def _with(config: Any, path: list[str], name: str, value: Any) -> Any:
    """A copy of a nested dataclass with one field replaced. Raises RequestError for a wrong name or type."""
    known = _names(config)
    if path[0] not in known:
        raise RequestError(f"There is no setting {name!r}.", f"Here there are: {', '.join(known) or 'none'}.")
    if len(path) > 1:
        return replace(config, **{path[0]: _with(getattr(config, path[0]), path[1:], name, value)})
    kind = get_type_hints(type(config))[path[0]]
    try:
        return replace(config, **{path[0]: _converted(value, kind)})
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{value!r} does not fit the setting {name!r} ({error}).", f"Give a {kind}."
        ) from error


def _names(config: Any) -> list[str]:
    return [f.name for f in fields(config)] if is_dataclass(config) else []


def _converted(value: Any, kind: Any) -> Any:
    """`value` as JSON has it, in the type that the field asks for."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"choose one of {', '.join(map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is dict:
        return {str(key): _converted(item, get_args(kind)[1]) for key, item in dict(value).items()}
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return tuple(_converted(item, inner) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and not (
        isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    ):
        raise TypeError(f"expected {kind.__name__}")
    return value


def as_json(config: GenerateConfig) -> dict[str, Any]:
    """The configuration as plain values."""
    return dataclasses.asdict(config)
