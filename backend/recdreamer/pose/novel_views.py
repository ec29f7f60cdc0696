"""Templates from one picture: its other sides by a model of the Zero-1-to-3 type, if the user has one.

The method is Liu et al., "Zero-1-to-3: Zero-shot One Image to 3D Object", 2023. The model's inputs follow the
original repository (cvlab-columbia/zero123: ldm/data/simple.py for training, gradio_new.py for use) and the two
pipeline formats in which its weights are distributed: `clip_camera_projection` (bennyguo and ashawkey
zero123-xl-diffusers) and `cc_projection` (kxic/zero123-xl, diffusers' community pipeline).

Stable Zero123 has the same folder layout, but its fourth pose number is a different angle: its views would be wrong,
and nothing in its folder identifies it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from recdreamer.cameras import angle_difference
from recdreamer.images import write_picture
from recdreamer.pose.gallery import Sample, write_gallery
from recdreamer.pose.templates import BACKGROUND, PoseTemplate
from recdreamer.prior.diffusion import freeze, guided
from recdreamer.prior.loading import Preprocessing, loading
from recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, RequestError, Template

TRAINED_PX = 256
"""Side of the pictures that the model was trained on; some conversions claim 512."""
OBJECT_SHARE = 200 / 256
"""Longer side of the object relative to the picture's, as the authors frame it."""
POSE_NUMBERS = 4
_PROJECTIONS = {"clip_camera_projection": "proj", "cc_projection": "projection"}
"""Folder of the projection in either pipeline, and its layer's name."""


@dataclass
class NovelViews:
    """A frozen Zero-1-to-3 model: from a picture and a camera movement to another picture."""

    # Loose types, because diffusers' and transformers' own annotations are wrong.
    unet: Any
    """A UNet2DConditionModel that takes noisy latents, followed by those of the picture."""
    vae: Any
    """An AutoencoderKL."""
    image_encoder: Any
    """A CLIPVisionModelWithProjection."""
    prepare: Preprocessing
    """Preprocessing for the image encoder."""
    projection: nn.Linear
    """From the picture's embedding and the pose to the unet's context; float32, because angles need it."""
    scheduler: Any
    """A DDIMScheduler."""

    @staticmethod
    def load(folder: Path, device: torch.device | str, dtype: torch.dtype) -> NovelViews:
        """Load a pipeline folder: only safetensors, without running its code or downloading anything.

        Raises JobError("novel_views", …) if it is not such a model.
        """
        hint = (
            "Choose a folder of zero123-xl in diffusers' format, with model_index.json and safetensors files."
        )
        with loading("novel_views", str(folder), "a Zero-1-to-3 model", hint):
            # Checked first, because a loader that misses a folder takes its name for an id on the Hub.
            for name in (
                "model_index.json",
                "unet",
                "vae",
                "image_encoder",
                "feature_extractor",
                "scheduler",
            ):
                if not (folder / name).exists():
                    raise ValueError(f"it has no {name}")
            variant = _variant(folder)
            options: Any = {
                "dtype": dtype, "variant": variant, "local_files_only": True, "use_safetensors": True,
            }  # fmt: skip
            unet = UNet2DConditionModel.from_pretrained(folder / "unet", **options)
            vae = AutoencoderKL.from_pretrained(folder / "vae", **options)
            encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", **options)
            # As in the pipelines, overriding old files.
            scheduler = DDIMScheduler.from_pretrained(
                folder / "scheduler", local_files_only=True, clip_sample=False, steps_offset=1
            )
            model = NovelViews(
                unet, vae, encoder, Preprocessing(folder / "feature_extractor", "bicubic"),
                _load_projection(folder, variant), scheduler,
            )  # fmt: skip
            model._check_fit()
        for part in (model.unet, model.vae, model.image_encoder, model.prepare, model.projection):
            freeze(part, device)
        return model

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def image_px(self) -> int:
        """Side of the square views."""
        return min(TRAINED_PX, self.unet.config.sample_size * self._px_per_latent)

    @torch.no_grad()
    def views(
        self,
        image: Float[Tensor, "3 s s"],
        azimuths_deg: Sequence[float],
        generator: torch.Generator,
        *,
        elevation_deg: float = 0.0,
        from_azimuth_deg: float = 0.0,
        from_elevation_deg: float = 0.0,
        guidance_scale: float = 3.0,
        num_steps: int = 50,
        tick: Callable[[int, int], object] | None = None,
    ) -> Float[Tensor, "views 3 size size"]:
        """Views of the object in `image` from cameras at these azimuths; both in [0, 1], on white.

        `image` was taken from `from_azimuth_deg`, `from_elevation_deg` and is framed (see `framed`). Sampled by
        DDIM (eta 0); the generator gives the initial noise. `tick(step, num_steps)` is called after each step.
        Raises RequestError if the model does not have that many steps.
        """
        if not 1 <= num_steps <= self.scheduler.config["num_train_timesteps"]:
            raise RequestError(f"The model cannot take {num_steps} steps.", "Use 50 steps.")
        pose = pose_vectors(azimuths_deg, elevation_deg, from_azimuth_deg, from_elevation_deg)
        context = self._context(image, pose.to(self.device))
        image_latents = self._image_latents(image).expand(len(pose), -1, -1, -1)
        noise = torch.randn(image_latents.shape, generator=generator, device=generator.device)
        latents = noise.to(self.device)
        self.scheduler.set_timesteps(num_steps, device=self.device)
        for step, t in enumerate(self.scheduler.timesteps):
            output = self._output(latents, t, image_latents, context, guidance_scale)
            latents = self.scheduler.step(output, t, latents, return_dict=False)[0]
            if tick is not None:
                tick(step + 1, num_steps)
        decoded = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def _output(
        self,
        latents_t: Float[Tensor, "views c h w"],
        t: Int[Tensor, ""],
        image_latents: Float[Tensor, "views c h w"],
        context: Float[Tensor, "views 1 width"],
        guidance_scale: float,
    ) -> Float[Tensor, "views c h w"]:
        """The unet's output with classifier-free guidance; the unconditional input has zeros for picture and pose."""

        def ask(
            beside: Float[Tensor, "views c h w"], attended: Float[Tensor, "views 1 width"]
        ) -> Float[Tensor, "views c h w"]:
            both = torch.cat([latents_t, beside], dim=1).to(self.unet.dtype)
            return self.unet(both, t, attended.to(self.unet.dtype)).sample.float()

        conditional = ask(image_latents, context)
        if guidance_scale == 1:
            return conditional
        nothing = ask(torch.zeros_like(image_latents), torch.zeros_like(context))
        return guided(conditional, nothing, guidance_scale)

    def _image_latents(self, image: Float[Tensor, "3 s s"]) -> Float[Tensor, "1 c h w"]:
        """Latents of the picture without the autoencoder's scaling factor, as in the model's training."""
        images = nn.functional.interpolate(
            image[None].to(self.device),
            (self.image_px, self.image_px),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        return self.vae.encode((2 * images - 1).to(self.vae.dtype)).latent_dist.mean.float()

    def _context(
        self, image: Float[Tensor, "3 s s"], pose: Float[Tensor, "views 4"]
    ) -> Float[Tensor, "views 1 width"]:
        """The unet's context: one token per view, from the picture's embedding and the pose."""
        pixels = self.prepare(image[None].to(self.device)).to(self.image_encoder.dtype)
        embedding = self.image_encoder(pixels).image_embeds.float().expand(len(pose), -1)
        return self.projection(torch.cat([embedding, pose], dim=-1))[:, None]

    @property
    def _px_per_latent(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def _check_fit(self) -> None:
        """Raises ValueError if the parts do not form a Zero-1-to-3 model."""
        takes, latent = self.unet.config.in_channels, self.vae.config.latent_channels
        if takes != 2 * latent:
            raise ValueError(f"its unet takes {takes} channels, not twice the {latent} of its vae")
        wanted = (
            self.image_encoder.config.projection_dim + POSE_NUMBERS,
            self.unet.config.cross_attention_dim,
        )
        found = (self.projection.in_features, self.projection.out_features)
        if found != wanted:
            raise ValueError(
                f"its projection of poses maps {found[0]} to {found[1]}, not {wanted[0]} to {wanted[1]}"
            )


def pose_vectors(
    azimuths_deg: Sequence[float], elevation_deg: float, from_azimuth_deg: float, from_elevation_deg: float
) -> Float[Tensor, "views 4"]:
    """Camera movement in the model's terms; the only place where our angles become its angles.

    [polar difference in radians, sin and cos of the azimuth difference, difference of the distance]. The model
    counts azimuth as we do, counter-clockwise seen from above: it was trained on cameras in Blender's world with
    atan2(y, x), so from front (-Y) to right (+X) is +90°. Its polar angle is measured down from the zenith: moving
    up is negative. The distance stays.

    From the front to the right, and 90° up:

    >>> pose_vectors([90.0], 0.0, 0.0, 0.0).round().int().tolist()
    [[0, 1, 0, 0]]
    >>> round(pose_vectors([0.0], 90.0, 0.0, 0.0)[0, 0].item(), 4)
    -1.5708
    """
    turn = torch.deg2rad(torch.tensor([float(azimuth) - from_azimuth_deg for azimuth in azimuths_deg]))
    polar = torch.deg2rad(torch.full_like(turn, from_elevation_deg - elevation_deg))
    return torch.stack([polar, turn.sin(), turn.cos(), torch.zeros_like(turn)], dim=-1)


def framed(picture: PoseTemplate) -> Float[Tensor, "3 size size"]:
    """The picture framed as in the model's training: the object centred, of the usual size, on white.

    Without alpha the extent of the object is unknown, and the picture is returned unchanged: cut the object out first.
    """
    if picture.mask is None:
        return picture.image
    image = (picture.image + (1 - BACKGROUND) * (1 - picture.mask)).clamp(0, 1)
    shown = picture.mask[0] > 0.5
    if not bool(shown.any()):
        return image
    rows, columns = shown.any(1).nonzero()[:, 0], shown.any(0).nonzero()[:, 0]
    image = image[:, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    size = picture.image.shape[-1]
    scale = OBJECT_SHARE * size / max(image.shape[-2:])
    height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
    image = nn.functional.interpolate(
        image[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
    left, top = (size - width) // 2, (size - height) // 2
    padding = (left, size - width - left, top, size - height - top)
    return nn.functional.pad(image, padding, value=1.0)


def write_views(
    folder: Path,
    model: NovelViews,
    picture: PoseTemplate,
    generator: torch.Generator,
    *,
    elevation_deg: float = 0.0,
    guidance_scale: float = 3.0,
    num_steps: int = 50,
    tick: Callable[[int, int], object] | None = None,
) -> tuple[Template, ...]:
    """Write one template picture for each of front, right, back and left: front-0.png …, and gallery.json.

    `picture` was taken from its azimuth, or from the front if it has none; if that is one of the four, the picture
    itself is used for that side, framed like the others. Load it at about 512 px, because it is cropped. All cameras
    are at `elevation_deg`, that of the picture. The gallery is written last, so that a reader who finds it finds all
    pictures. Raises whatever `views` raises.
    """
    image = framed(picture)
    taken_deg = picture.azimuth_deg if picture.azimuth_deg is not None else CLASS_AZIMUTHS_DEG["front"]
    drawn = [
        label
        for label, azimuth in CLASS_AZIMUTHS_DEG.items()
        if abs(angle_difference(azimuth, taken_deg)) >= 0.5
    ]
    views = model.views(
        image, [CLASS_AZIMUTHS_DEG[label] for label in drawn], generator,
        elevation_deg=elevation_deg, from_azimuth_deg=taken_deg, from_elevation_deg=elevation_deg,
        guidance_scale=guidance_scale, num_steps=num_steps, tick=tick,
    )  # fmt: skip
    pictures = dict(zip(drawn, views, strict=True))
    folder.mkdir(exist_ok=True)
    templates, samples = [], []
    for label, azimuth_deg in CLASS_AZIMUTHS_DEG.items():
        name = f"{label}-0.png"
        write_picture(folder / name, pictures.get(label, image))
        source = "novel_view" if label in pictures else "file"
        templates.append(Template(label, name, source, azimuth_deg, elevation_deg))
        samples.append(Sample(name, label, 1.0, azimuth_deg, elevation_deg))
    write_gallery(folder, samples)
    return tuple(templates)


def _variant(folder: Path) -> str | None:
    """Middle part of the file names: "fp16" if there are only half-precision weights."""
    half, full = (folder / "unet" / _file_name(variant) for variant in ("fp16", None))
    return "fp16" if half.exists() and not full.exists() else None


def _file_name(variant: str | None) -> str:
    return "diffusion_pytorch_model" + (f".{variant}" if variant else "") + ".safetensors"


def _load_projection(folder: Path, variant: str | None) -> nn.Linear:
    """The linear layer that both pipelines add. Raises ValueError, OSError or KeyError without it."""
    for part, layer in _PROJECTIONS.items():
        if (folder / part).is_dir():
            path = folder / part / _file_name(variant)
            if not path.exists():
                raise ValueError(f"{part} has no {path.name}")
            tensors = load_file(path)
            weight, bias = tensors[f"{layer}.weight"].float(), tensors[f"{layer}.bias"].float()
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            linear.load_state_dict({"weight": weight, "bias": bias})
            return linear
    raise ValueError("it has no clip_camera_projection")
