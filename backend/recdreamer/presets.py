"""From a request to its configuration.

Each function below is one answer to where a value comes from, in this order: the defaults of the fields are those for
Stable Diffusion (see config.py); `as_published` sets what the method's publication has; `embedded` what the embedded
prior needs instead, `animals` what is different for the world of animals; the quality cuts the work (`quick`, `within`);
the overrides of a request come last.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from recdreamer.cameras import CameraConfig
from recdreamer.config import GenerateConfig, GeometryConfig, OptimizeConfig, RegularizerConfig, TextureConfig
from recdreamer.distillation.guidance_config import RectifierConfig
from recdreamer.field import FieldConfig
from recdreamer.mesh import MeshConfig
from recdreamer.pose.draw import DrawConfig
from recdreamer.prior.prompts import ViewConfig
from recdreamer.rendering import RenderConfig
from recdreamer.shared.protocol import JobRequest, Quality, RequestError
from recdreamer.shared.safe_files import printable, reason_of
from recdreamer.shared.worlds import world_of

VIEW_PROMPT_METHODS = ("perp_neg", "debiased_sds", "consdreamer")
"""The methods that consist of words for the view."""
BUILTIN_VIEWS = ViewConfig(
    front="from front view", right="facing left", back="from back view", left="facing right",
    overhead="from front view", front_width_deg=90.0,
)  # fmt: skip
"""From its right, the figure is seen facing left."""
WIDE_VIEWS = ViewConfig(front_width_deg=90.0)
"""threestudio's own front and back (45 degrees to either side), which its SDS, Debiased-SDS, Perp-Neg and SDI keep; its
VSD, and what runs on that, ESD and SDS-Bridge, has the 60 degrees of ProlificDreamer."""
PARTICLES_INTERVALS = 10
"""n_i for several particles (paper, B.3)."""

SCHEDULE_SHARES: dict[Quality, float] = {"quick": 0.06, "standard": 0.35, "final": 1.0}
"""Of the published steps that a job with Stable Diffusion takes: so that an H200 needs about 4, 19 and 48 minutes
(docs/performance.md). What is lost by fewer steps has not been seen with real weights."""
DRAFT_DRAWING = DrawConfig(num_samples=8, num_steps=25)
"""With Stable Diffusion; as many pictures as for a job would take half of a draft's time."""

EMBEDDED_DRAWING = DrawConfig(
    side="facing left", left="", right="", num_samples=8, guidance_scale=3.0, num_steps=25
)
"""The priors that ship obey these words."""
ANIMAL_DRAWING = replace(
    EMBEDDED_DRAWING, side="from side view", left="facing left", right="facing right", num_samples=16
)
"""The animals' prior obeys words for left and right no better than Stable Diffusion does."""
EMBEDDED_FIELD = FieldConfig(
    num_levels=8, log2_table_size=16, max_resolution=128, hidden_width=32, blob_density=5.0, blob_radius=0.5
)
"""At the finest level about two cells per pixel of a 64-pixel picture of the cube."""
EMBEDDED_CAMERAS = CameraConfig(elevation_deg=(2.0, 18.0), distance=(4.0, 4.0), fov_y_deg=(30.0, 30.0))
"""Those of the prior's training pictures."""
ANIMAL_CAMERAS = CameraConfig(elevation_deg=(0.0, 25.0), distance=(3.0, 3.5), fov_y_deg=(30.0, 30.0))
"""Those of the animals' pictures, as far as they frame the whole scene."""
EMBEDDED_RENDER = RenderConfig(step_size=0.04)
"""About a pixel of a 64-pixel picture of the cube."""
EMBEDDED_MESH = MeshConfig(resolution=128, texture_size_px=1024)

RENAMED = {
    "optimize.ground": "optimize.background_brightness",
    "optimize.ground_tint": "optimize.background_tint",
}
"""Settings by the names that they have in the requests of earlier versions."""
REMOVED = {"guidance.compile"}
"""Settings of earlier versions that changed the speed alone."""

Steps = TypeVar("Steps", OptimizeConfig, GeometryConfig, TextureConfig)


BOUNDS: dict[str, tuple[int, int]] = {
    "processes": (0, 64),
    "num_views": (1, 1024), "num_particles": (1, 65536), "render_px": (1, 8192), "preview_every": (1, 10**9),
    "resolution": (2, 2048), "texture_size_px": (1, 16384), "cached_views": (1, 65536), "supersampling": (1, 16),
    "bake_samples": (1, 64), "num_levels": (1, 32), "log2_table_size": (1, 26), "max_resolution": (1, 2**20),
    "base_resolution": (1, 1024), "features_per_level": (1, 16), "hidden_width": (1, 1024), "interval": (1, 10**9),
    "num_intervals": (1, 1000), "lora_rank": (1, 1024), "lora_every": (1, 10**9), "segment_samples": (1, 1024),
    "padding_px": (0, 1024), "smoothing_steps": (0, 10**6), "template_copies": (0, 1024), "query_copies": (0, 1024),
    "extractor_px": (0, 4096), "coarse_cells": (0, 256),
}  # fmt: skip
"""Of whole numbers, by the last part of their names, so that no job fails by them much later."""
MAX_NUMBER = 10**9
"""Of all other numbers. No whole number is negative."""


def resolve(request: JobRequest) -> GenerateConfig:
    """The configuration of a request. Raises RequestError for overrides that do not exist or do not fit."""
    world = world_of(request.prior)
    if world is None:
        config = stable_diffusion(request)
    elif world.name == "animals":
        config = animals(request)
    else:
        config = embedded(request)
    if world is None and request.kind == "object":
        config = within(config, SCHEDULE_SHARES[request.quality])
    if request.quality == "quick":
        config = quick(config) if world else draft(config)
    particles = request.overrides.get("optimize.num_particles", 1)
    if world is None and config.method in ("usd", "usd_sdi") and type(particles) is int and particles > 1:
        config = replace(config, guidance=replace(config.guidance, num_intervals=PARTICLES_INTERVALS))
    for name, value in request.overrides.items():
        if name in REMOVED:
            continue
        config = _with(config, RENAMED.get(name, name).split("."), name, value)
    _check_detail(config.texture)
    return config


def stable_diffusion(request: JobRequest) -> GenerateConfig:
    """Stable Diffusion, and any other prior that is not the embedded one."""
    config = GenerateConfig(
        prompt=request.prompt.strip(),
        method=request.method,
        pose_mode=request.pose_mode,
        seed=request.seed,
        prior=request.prior,
        extractor="facebook/dinov2-with-registers-small",
        device=request.device,
        height_m=request.height_m,
        stages=request.stages_to_run,
    )
    return as_published(config)


def as_published(config: GenerateConfig) -> GenerateConfig:
    """The settings that the configuration's method was published with, as far as this field has its parts.

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
        case "sdi":
            # Its 7.5 multiplies as above; its timesteps fall steadily, as those of the back-and-forth schedule do.
            guidance = replace(guidance, guidance_scale=8.5, view_prompts=True, views=WIDE_VIEWS)
            optimize = replace(optimize, num_steps=10_000)
        case "usd_sdi":
            guidance = replace(
                guidance, guidance_scale=8.5, auxiliary_prompt="from side view, from back view"
            )
            optimize = replace(optimize, num_steps=10_000)
        case "sds" | "debiased_sds" | "consdreamer":
            # Its 100 multiplies (eps_text - eps_empty) on top of eps_text.
            guidance = replace(
                guidance, guidance_scale=101.0, view_prompts=True, schedule="uniform", views=WIDE_VIEWS
            )
            optimize = replace(optimize, num_steps=10_000, render_px=64)
        case "perp_neg":
            guidance = replace(
                guidance, guidance_scale=100.0, view_prompts=True, schedule="uniform", views=WIDE_VIEWS
            )
            optimize = replace(optimize, num_steps=10_000, render_px=64)
    texture = replace(config.texture, guidance_scale=guidance.guidance_scale)
    return replace(config, guidance=guidance, optimize=optimize, texture=texture)


def embedded(request: JobRequest) -> GenerateConfig:
    """The embedded prior: 64-pixel pictures of one object, from the cameras that it was trained on."""
    config = stable_diffusion(request)
    return replace(
        config,
        extractor="builtin",
        optimize=OptimizeConfig(
            num_steps=500, num_views=4, render_px=64, grid_learning_rate=3e-2, network_learning_rate=3e-3,
            final_learning_rate=0.05, background="plain", background_brightness=(0.45, 1.0),
            background_tint=0.2, density_noise=0.0, preview_every=25,
        ),
        # This prior has never seen normals. Its steps are cheap, and the cells of the grid are as fine as its pixels:
        # where the first stage is round or pitted, the surface has to move by five cells or more.
        geometry=GeometryConfig(
            num_steps=200, num_views=4, render_px=64, guidance_scale=3.0, picture="shaded", schedule="uniform",
            view_prompts=config.method in VIEW_PROMPT_METHODS,
            resolution=96, softness=0.008, step_size=0.02, learning_rate=1.0, eikonal=50.0, hessian=10.0,
            final_hessian=80.0, anchor=0.0,
        ),
        # The texture starts with the albedo of the surface, which is close to the final one already.
        texture=TextureConfig(
            num_steps=50, num_views=4, render_px=64, guidance_scale=3.0,
            field=EMBEDDED_FIELD, grid_learning_rate=1e-2, cached_views=128, smoothness=100.0, smoothing_radius=0.03,
            detail_prompt="",
        ),
        # View prompts are nearly always obeyed, which leaves no bias to correct: only the methods that consist of view
        # prompts use them. Below t = 750 the clean estimate has a pose already: with the paper's two intervals the first
        # phase draws from t = 500 on, and drafts settle on a pose before the rectifier has chosen one.
        guidance=replace(
            config.guidance, guidance_scale=3.0, auxiliary_prompt="", schedule="back_and_forth", num_intervals=4,
            view_prompts=config.method in VIEW_PROMPT_METHODS, views=BUILTIN_VIEWS,
            lora_rank=8, lora_learning_rate=1e-3, lora_warmup_steps=20,
            clip_limits=(0.5, 2.0), bridge_source="", bridge_weight=3.0,
            inversion_scale=-1.0,
        ),
        rectifier=RectifierConfig(
            weight=300.0, n_ema=30, attribute_classifier="builtin", drawing=EMBEDDED_DRAWING, lost_sides=0.5,
        ),
        regularizers=RegularizerConfig(
            sparsity=10.0, opaque=1000.0, opaque_rise=(0.0, 1.0), entropy=30.0, entropy_rise=(0.0, 1.0),
            entropy_samples_per_ray=0, smoothness=100.0, color_smoothness=100.0,
        ),
        cameras=EMBEDDED_CAMERAS,
        field=EMBEDDED_FIELD,
        render=EMBEDDED_RENDER,
        mesh=EMBEDDED_MESH,
    )  # fmt: skip


def animals(request: JobRequest) -> GenerateConfig:
    """The world of animals: as the figurines, but from its own cameras, and judged by its own extractor.

    Its attribute classifier is the one for Stable Diffusion: this world has none.
    """
    config = embedded(request)
    return replace(
        config,
        extractor="animals",
        cameras=ANIMAL_CAMERAS,
        rectifier=replace(
            config.rectifier,
            attribute_classifier=RectifierConfig().attribute_classifier,
            drawing=ANIMAL_DRAWING,
        ),
    )


def quick(config: GenerateConfig) -> GenerateConfig:
    """A draft in a third of the time, with a coarser mesh.

    Views are cut before steps: a schedule cut to a third leaves no time for the details.
    """
    return with_coarse_mesh(
        replace(
            config,
            optimize=_shortened(config.optimize),
            geometry=_shortened(config.geometry),
            texture=_shortened(config.texture),
        )
    )


def _shortened(stage: Steps) -> Steps:
    """A third of the work of a stage."""
    num_views, share = (stage.num_views // 2, 2 / 3) if stage.num_views > 1 else (1, 1 / 3)
    return replace(stage, num_views=num_views, num_steps=round(share * stage.num_steps))


def within(config: GenerateConfig, share: float) -> GenerateConfig:
    """A share of the published steps of each stage; the branch warms up as much sooner, and the surface can travel as
    far, in longer steps."""
    if share == 1.0:
        return config
    steps = lambda count: max(1, round(share * count))  # noqa: E731
    optimize, geometry, texture, guidance = config.optimize, config.geometry, config.texture, config.guidance
    return replace(
        config,
        optimize=replace(optimize, num_steps=steps(optimize.num_steps)),
        geometry=replace(
            geometry, num_steps=steps(geometry.num_steps), learning_rate=geometry.learning_rate / share
        ),
        texture=replace(texture, num_steps=steps(texture.num_steps)),
        guidance=replace(guidance, lora_warmup_steps=steps(guidance.lora_warmup_steps)),
    )


def draft(config: GenerateConfig) -> GenerateConfig:
    """What else a draft with Stable Diffusion leaves out."""
    return with_coarse_mesh(replace(config, rectifier=replace(config.rectifier, drawing=DRAFT_DRAWING)))


def with_coarse_mesh(config: GenerateConfig) -> GenerateConfig:
    """The mesh of a draft."""
    mesh = replace(config.mesh, resolution=96, target_faces=5000, texture_size_px=512, bake_samples=1)
    return replace(config, mesh=mesh)


def _check_detail(texture: TextureConfig) -> None:
    if texture.detail_zoom < 1:
        raise RequestError(
            f"texture.detail_zoom is {texture.detail_zoom}: a close-up cannot be smaller than the view.",
            "Give 1 or more, for example 2.",
        )
    if not 0.03 <= texture.detail_noise <= 1:
        raise RequestError(
            f"texture.detail_noise is {texture.detail_noise}, which leaves no timesteps to draw from.",
            "Give a share from 0.03 to 1, for example 0.3.",
        )


def _with(config: Any, path: list[str], name: str, value: Any) -> Any:
    """A copy of a nested dataclass with one field replaced. Raises RequestError for a wrong name or type."""
    known = _names(config)
    if path[0] not in known:
        raise RequestError(
            f"There is no setting '{printable(name)[:100]}'.",
            f"The settings here are: {', '.join(known) or 'none'}.",
        )
    if len(path) > 1:
        return replace(config, **{path[0]: _with(getattr(config, path[0]), path[1:], name, value)})
    kind = get_type_hints(type(config))[path[0]]
    try:
        _check_bounds(path[0], value)
        return replace(config, **{path[0]: _converted(value, kind)})
    except (TypeError, ValueError, ArithmeticError) as error:
        raise RequestError(
            f"{printable(repr(value))[:80]} does not fit the setting {name!r} ({reason_of(error)}).",
            f"Give {_described(kind)}.",
        ) from error


def _check_bounds(name: str, value: Any) -> None:
    """Raise ValueError for numbers that no job can have."""
    for item in value if isinstance(value, list | tuple) else (value,):
        low, high = BOUNDS.get(name, (0, MAX_NUMBER)) if type(item) is int else (-MAX_NUMBER, MAX_NUMBER)
        if isinstance(item, int | float) and not low <= item <= high:
            raise ValueError(f"it must be from {low} to {high}")


def _described(kind: Any) -> str:
    """A type of a setting in words."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return words.get(kind, f"a value like {str(kind).replace('typing.', '')}")


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
        inner = get_args(kind)
        if not isinstance(value, list | tuple):
            raise TypeError("expected a list")
        if inner[-1] is not ... and len(value) != len(inner):
            raise ValueError(f"expected {len(inner)} values")
        return tuple(_converted(item, inner[0]) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and not (
        isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    ):
        raise TypeError(f"expected {kind.__name__}")
    return value
