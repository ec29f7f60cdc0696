"""What guides a step: what the prior is asked for, and how the distribution of poses is rectified."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from recdreamer.distillation.gradients import Clamp
from recdreamer.distillation.perp_neg import PerpNegSchedule
from recdreamer.distillation.timesteps import Schedule
from recdreamer.pose.classifier import ClassifierConfig
from recdreamer.prior.prompts import ViewConfig


@dataclass(frozen=True)
class GuidanceConfig:
    """What the prior is asked for, and how strongly."""

    guidance_scale: float = 7.5
    """Classifier-free guidance in diffusers' convention (threestudio's SDS means one more by the same number)."""
    auxiliary_prompt: str = ""
    """Appended to the prompt so that other poses have a share at all (paper, B.3)."""
    view_prompts: bool = False
    """Put the camera's view into words."""
    views: ViewConfig = ViewConfig()
    schedule: Schedule = "back_and_forth"
    num_intervals: int = 2
    """n_i of the back-and-forth schedule."""
    anneal_at: float = 0.2
    """Share of the steps after which `annealed` halves the highest timestep."""
    late_until: float = 0.5
    """Share of the timesteps, from the lowest on, that `late` draws from."""
    lora_rank: int = 4
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that the branch may change, by the end of their name."""
    lora_learning_rate: float = 1e-4
    lora_warmup_steps: int = 500
    lora_every: int = 1
    """Steps between two training steps of the branch."""
    entropy_weight: float = 0.5
    """λ of ESD."""
    clip_limits: tuple[float, float] = (2.0, 8.0)
    """Bounds on the entries of Debiased-SDS's gradient, at the first and the last step."""
    masked_lm: str = ""
    """Masked language model that debiases the prompt (Debiased-SDS: bert-base-uncased); empty leaves the prompt."""
    debias_words: tuple[str, ...] = ()
    """Words that prompt debiasing may leave out; none means all."""
    perp_neg_schedule: PerpNegSchedule = "threestudio"
    perp_neg_strength: float = 2.0
    """Of the original schedule."""
    bridge_from: float = 0.8
    """Share of the steps after which SDS-Bridge goes on from SDS to its second stage (20,000 of 25,000)."""
    bridge_source: str = (
        "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
    )
    """What the renders are taken for in the second stage, appended to the prompt."""
    bridge_weight: float = 1.0
    checkpointing: bool = False
    """Compute the U-Net's activations twice instead of keeping them: less memory, more time."""
    compile: bool = False
    """Compile the U-Net first (minutes, once a run); for Linux with a GPU."""


@dataclass(frozen=True)
class RectifierConfig:
    """How the distribution of poses, or of another attribute, is rectified."""

    pose: bool = True
    """Rectify the pose; False leaves it to the prior."""
    attribute: dict[str, str] = field(default_factory=dict)
    """Classes of another attribute that is rectified, each with the words that CLIP knows it by (paper, Fig. 15)."""
    attribute_target: dict[str, float] = field(default_factory=dict)
    """f(c) of the attribute, as `target`."""
    attribute_classifier: str = "openai/clip-vit-base-patch32"
    """`builtin`, or a folder or id of a CLIP model, or of an image classifier whose own classes `attribute` names."""

    weight: float = 16_384.0
    """Factor on the rectifier's gradient. Eq. 13 prints 1; the released code multiplies by the number of latent
    entries, here those of Stable Diffusion, so that the cap decides. docs/evaluation.md has what 1 does."""
    clamp: Clamp = "cap"
    clamp_limit: float = 1.0
    """Largest norm in units of the denoiser's."""
    jacobian: bool = True
    """Differentiate the clean estimate through the U-Net; False takes the noise estimate as constant."""
    separate_pass: bool = False
    """Fresh noise and a forward of its own, as the released code; False shares x_t and the forward (Alg. 1)."""
    estimate: Literal["clean", "noisy"] = "clean"
    """Picture that the classifier sees: the clean estimate, or x_t itself (ablation of p(c|x_t, y), Sec. 4.4)."""
    marginal: Literal["running", "sampled"] = "running"
    """p̄: followed while optimizing, or fixed by pictures drawn beforehand (ablation of p(c|y), Sec. 4.4)."""
    marginal_samples: int = 64
    """Pictures that are drawn for the fixed marginal."""
    target: dict[str, float] = field(default_factory=dict)
    """f(c) by class, in any unit; empty is uniform, a single class is pose control (C.5)."""
    yaw: Literal["inferred", "free"] = "inferred"
    """Target of the marginal form: `inferred` asks each camera for the class that should be there once the views
    tell how the object is turned (`YawPosterior`); `free` asks all cameras for the same f(c), as the paper."""
    yaw_memory: int = 100
    """Samples that make up 90 % of what is known about that."""
    lazy_steps: int = 0
    """First steps, in which the marginal is followed and nothing rectified (released code: lazy_activation)."""
    num_intervals: int = 10
    """n_t: intervals of timesteps with a marginal of their own."""
    n_ema: int = 100
    """Samples that make up 90 % of a marginal."""
    classifier: ClassifierConfig = ClassifierConfig()
    anchor: bool = True
    """Compare templates from elsewhere with what the prior draws, and let its own pictures stand in where they do not
    fit; False takes them as they are (paper)."""
    tiny_decoder: str = ""
    """Folder or id of an AutoencoderTiny (TAESD: madebyollin/taesd) that decodes for the classifier; empty takes
    the prior's own decoder, which costs more than the classifier itself at Stable Diffusion's size."""
