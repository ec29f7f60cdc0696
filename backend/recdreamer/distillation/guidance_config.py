"""Settings of the guidance: the prompt and method, and the rectification of the pose distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from recdreamer.distillation.gradients import Clamp
from recdreamer.distillation.perp_neg import PerpNegSchedule
from recdreamer.distillation.timesteps import Schedule
from recdreamer.pose.classifier import ClassifierConfig
from recdreamer.pose.draw import DrawConfig
from recdreamer.prior.prompts import ViewConfig


@dataclass(frozen=True)
class GuidanceConfig:
    """Prompts, schedule and strength of the guidance by the prior."""

    guidance_scale: float = 7.5
    """Classifier-free guidance in diffusers' convention (see `guided`)."""
    auxiliary_prompt: str = ""
    """Appended to the prompt so that the prior draws other poses at all (paper, B.3)."""
    view_prompts: bool = False
    """Append words for the camera's viewpoint to the prompt."""
    views: ViewConfig = ViewConfig()
    schedule: Schedule = "back_and_forth"
    num_intervals: int = 2
    """n_i of the back-and-forth schedule."""
    anneal_at: float = 0.2
    """Share of the steps after which `annealed` halves the highest timestep."""
    late_until: float = 0.5
    """Upper end of the timesteps that `late` draws from, as a share of all."""
    lora_rank: int = 4
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that the branch adapts, by the end of their name."""
    lora_learning_rate: float = 1e-4
    lora_warmup_steps: int = 500
    lora_every: int = 1
    """Steps per training step of the branch."""
    entropy_weight: float = 0.5
    """λ of ESD."""
    clip_limits: tuple[float, float] = (2.0, 8.0)
    """Bounds on the entries of Debiased-SDS's gradient, at the first and the last step."""
    masked_lm: str = ""
    """Masked language model that debiases the prompt (Debiased-SDS: bert-base-uncased); empty = no debiasing."""
    debias_words: tuple[str, ...] = ()
    """Words that prompt debiasing may remove; none means all."""
    perp_neg_schedule: PerpNegSchedule = "threestudio"
    perp_neg_strength: float = 2.0
    """Weight of the negatives in the `original` schedule."""
    bridge_from: float = 0.8
    """Share of the steps after which SDS-Bridge moves from SDS to its second stage (20,000 of 25,000)."""
    bridge_source: str = (
        "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
    )
    """Description of the renders in the second stage, appended to the prompt."""
    bridge_weight: float = 1.0
    view_strength: float = 1.0
    """w of ConsDreamer: how much of a view's own part of the embedding is added."""
    inversion_steps: int = 10
    """Steps of DDIM inversion of SDI; 0 leaves the noise random, which is SDS."""
    inversion_scale: float = -6.5
    """Guidance scale of SDI's inversion (released: -7.5, which multiplies (eps_text - eps_empty) on top of eps_text)."""
    checkpointing: bool = False
    """Recompute the activations of the U-Net and of the autoencoder instead of keeping them: less memory, more time."""
    views_at_once: int = 0
    """Views that the prior sees at once; a step with more goes through them one after another, with the same result.
    Fewer take less memory and more time. 0: all."""


@dataclass(frozen=True)
class RectifierConfig:
    """Rectification of the distribution of poses or of another attribute."""

    pose: bool = True
    """Rectify the pose; False leaves it to the prior."""
    attribute: dict[str, str] = field(default_factory=dict)
    """Classes of another attribute to rectify, each with its text for CLIP (paper, Fig. 15)."""
    attribute_target: dict[str, float] = field(default_factory=dict)
    """f(c) of the attribute, like `target`."""
    attribute_classifier: str = "openai/clip-vit-base-patch32"
    """`builtin`, or a folder or id of a CLIP model or of an image classifier whose own classes `attribute` names."""

    weight: float = 16_384.0
    """Factor on the rectifier's gradient. Eq. 13 has factor 1; the released code uses the number of latent entries
    (16,384 for Stable Diffusion), so the clamp is nearly always active. docs/evaluation.md compares with 1."""
    clamp: Clamp = "cap"
    clamp_limit: float = 1.0
    """Largest norm, relative to the denoiser's."""
    jacobian: bool = True
    """Differentiate the clean estimate through the U-Net; False treats the noise estimate as constant."""
    separate_pass: bool = False
    """Fresh noise and a separate forward pass, as in the released code; False shares both with VSD (Alg. 1)."""
    estimate: Literal["clean", "noisy"] = "clean"
    """Input of the classifier: the clean estimate, or x_t itself (ablation of p(c|x_t, y), Sec. 4.4)."""
    estimate_guidance: float = 1.0
    """Classifier-free guidance of the clean estimate. 1: the estimate for the prompt alone, which is the mean of what the
    picture may have been, and is read as well or better; and one row of the backward pass less. The released code takes
    that of the prior's term, 7.5; the two gradients have little in common (docs/stable-diffusion.md)."""
    marginal: Literal["running", "sampled"] = "running"
    """p̄: tracked during optimization, or fixed from pictures drawn beforehand (ablation of p(c|y), Sec. 4.4)."""
    marginal_samples: int = 64
    """Number of pictures for the fixed marginal."""
    target: dict[str, float] = field(default_factory=dict)
    """f(c) by class, normalized later; empty is uniform, a single class is pose control (C.5)."""
    yaw: Literal["inferred", "free"] = "inferred"
    """Target of the marginal form: `inferred` asks each camera for the class that it should see, given the object's
    yaw as estimated from the views so far (`YawPosterior`); `free` asks all cameras for the same f(c), as the paper."""
    yaw_memory: int = 400
    """Number of latest samples that carry 90 % of the weight in the yaw estimate. An object that shows one side all
    around has no yaw, and the estimate wanders: with 100, two blue birds of five could not follow it."""
    lost_sides: float = 0.0
    """Under pose control, share of the sides that are not seen where they are asked for, half through the first stage,
    from which the object begins again once, with other random numbers. 0: never."""
    lazy_steps: int = 0
    """Initial steps that track the marginal but rectify nothing (released code: lazy_activation)."""
    num_intervals: int = 10
    """n_t: number of timestep intervals, each with its own marginal."""
    n_ema: int = 100
    """Number of latest samples that carry 90 % of the weight in a marginal."""
    classifier: ClassifierConfig = ClassifierConfig()
    drawing: DrawConfig = DrawConfig()
    """Of templates that the prior draws itself."""
    anchor: bool = True
    """Check templates from other sources against the prior's own pictures, and replace those that do not fit by the
    prior's; False uses them unchecked (paper)."""
    tiny_decoder: str = ""
    """Folder or id of an AutoencoderTiny (TAESD: madebyollin/taesd) that decodes for the classifier; empty uses
    the prior's own decoder, which at Stable Diffusion's size costs more than the classifier."""
