"""What came of the training of the animals' prior: sheets and measures, and the models as they ship."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from animal_photos import at_once
from animal_training import Training
from diffusers import StableDiffusionPipeline
from parts import log, unpack
from safetensors.torch import save_file
from torch import Tensor

from recdreamer.evaluation.animal_oracle import SIZE_PX as ORACLE_PX
from recdreamer.evaluation.animal_oracle import AnimalOracle, pose_probs_of
from recdreamer.evaluation.animals import POSES
from recdreamer.images import write_sheet
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.shared.worlds import described

from captions import AUXILIARY
from denoiser import new_scheduler
from extractor import IMAGE_MEAN, IMAGE_STD

VIEW_PHRASES = ("from front view", "facing left", "facing right", "from back view", AUXILIARY)


def report(training: Training) -> None:
    """Sheets of reconstructions and samples; the samples as the oracle sees them, with and without view words."""
    vae = training.hardened_vae()
    if vae is None:
        return
    size_px = training.preset.size_px
    photos = training.photos(training.pictured, 2 * len(training.pictured), 909, size_px)
    images = photos.images.to(training.device).float() / 255
    with torch.no_grad():
        decoded = torch.cat(
            [(vae.decode(vae.encode(2 * part - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
             for part in images.split(at_once(size_px))]
        )  # fmt: skip
    error = (decoded - images).square().mean((1, 2, 3))
    log(training.work, part="vae", decibels=round(-10 * error.log10().mean().item(), 2))
    # Four pairs in a row where the pictures are large.
    num_columns = max(4, 12 * 128 // max(size_px, 128)) // 2 * 2
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[: 4 * num_columns]
    pairs = torch.stack((images[rows], decoded[rows]), 1).flatten(0, 1)
    (training.work / "sheets").mkdir(exist_ok=True)
    write_sheet(training.work / "sheets" / "vae.png", pairs.cpu(), num_columns)

    denoiser = training.denoiser()
    if denoiser is None:
        return
    prior = DiffusionPrior(
        denoiser.unet, vae, training.tokenizer, denoiser.text_encoder,
        NoiseSchedule(new_scheduler().alphas_cumprod.to(training.device), "v_prediction"), size_px,
    )  # fmt: skip
    oracle = training.new_oracle().eval().requires_grad_(False)
    known = unpack(training.work, "oracle", training.device)
    if known is not None:
        oracle.load_state_dict(known[0])
    looks = training.pictured.repeat_interleave(training.preset.samples_per_look)
    renders = training.photos(training.pictured, len(looks), 912, ORACLE_PX)
    log(training.work, part="denoiser", phrase="renders, which limit what follows",
        **_judged(training, oracle, renders.images.cpu().float() / 255, renders.look))  # fmt: skip
    for scale in (1.0, 3.0):
        samples = _sampled(training, prior, looks, "", scale)
        real = training.photos(training.pictured, len(looks), 910, ORACLE_PX)
        other = training.photos(training.pictured, len(looks), 911, ORACLE_PX)
        features = [_features(oracle, part) for part in (samples, real.images, other.images)]
        log(training.work, part="denoiser", guidance=scale, phrase="", **_judged(training, oracle, samples, looks),
            frechet=round(frechet(*features[:2]), 3),
            frechet_of_renders=round(frechet(*features[1:]), 3))  # fmt: skip
        name = training.work / "sheets" / f"samples-cfg{scale:g}.png"
        write_sheet(name, samples.unflatten(0, (len(training.pictured), -1))[:, :2].flatten(0, 1), 14)
    few = training.pictured.repeat_interleave(max(1, training.preset.samples_per_look // 3))
    for phrase in VIEW_PHRASES:
        samples = _sampled(training, prior, few, f", {phrase}", 3.0)
        log(
            training.work,
            part="denoiser",
            guidance=3.0,
            phrase=phrase,
            **_judged(training, oracle, samples, few),
        )


def _sampled(training: Training, prior: DiffusionPrior, looks: Tensor, phrase: str, scale: float) -> Tensor:
    """Samples of the prior, in the size that the oracle reads."""
    generator = torch.Generator(training.device).manual_seed(1)
    prompts = [described(*training.zoo.looks[look]) + phrase for look in looks.tolist()]
    few, parts = 4 * at_once(training.preset.size_px), []
    for i in range(0, len(prompts), few):
        with training.mixed():
            sample = prior.sample(prompts[i : i + few], generator, scale, at_once=few)
        parts.append(F.interpolate(sample.float(), (ORACLE_PX,) * 2, mode="bilinear", antialias=True).cpu())
    return torch.cat(parts)


@torch.no_grad()
def _judged(training: Training, oracle: AnimalOracle, samples: Tensor, looks: Tensor) -> dict[str, object]:
    parts = zip(*(oracle(chunk.to(training.device)) for chunk in samples.split(256)), strict=True)
    azimuth, kind, coat = (torch.cat(part).cpu() for part in parts)
    is_kind, is_coat = kind.argmax(-1) == training.kind[looks], coat.argmax(-1) == training.coat[looks]
    poses = torch.bincount(pose_probs_of(azimuth.softmax(-1)).argmax(-1), minlength=len(POSES)) / len(looks)
    right, is_known = (is_kind & is_coat).float(), torch.isin(looks, training.judged)
    by_look = {
        described(*training.zoo.looks[look]): round(right[looks == look].mean().item(), 2)
        for look in looks[is_known].unique().tolist()
    }
    worst = dict(sorted(by_look.items(), key=lambda item: item[1])[:8])
    return {
        "pictures": len(looks), "kind": round(is_kind.float().mean().item(), 4),
        "coat": round(is_coat.float().mean().item(), 4), "both": round(right.mean().item(), 4),
        "both_of_known_coats": round(right[is_known].mean().item(), 4),
        "poses": dict(zip(POSES, [round(share, 3) for share in poses.tolist()], strict=True)), "worst": worst,
    }  # fmt: skip


def export(training: Training, folder: Path) -> None:
    """All models as they ship, in half precision."""
    vae, denoiser = training.hardened_vae(), training.denoiser()
    if vae is None or denoiser is None:
        raise SystemExit("There is nothing to export yet: the autoencoder or the denoiser is missing.")
    denoiser.unet.register_to_config(sample_size=training.preset.size_px // 8)
    pipeline = StableDiffusionPipeline(
        vae=vae.half(), text_encoder=denoiser.text_encoder.half(), tokenizer=training.tokenizer,
        unet=denoiser.unet.half(), scheduler=new_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    shutil.rmtree(folder / "prior", ignore_errors=True)
    pipeline.save_pretrained(folder / "prior")
    student = unpack(training.work, "extractor", "cpu")
    if student is not None:
        shutil.rmtree(folder / "extractor", ignore_errors=True)
        model, seen_px = training.new_student(), training.preset.extractor_px
        model.load_state_dict(_as_named(student[0], model.state_dict()))
        model.extractor.half().save_pretrained(folder / "extractor")
        (folder / "extractor" / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "BitImageProcessor", "image_mean": IMAGE_MEAN,
                        "image_std": IMAGE_STD, "size": {"height": seen_px, "width": seen_px},
                        "do_normalize": True, "do_rescale": True, "do_resize": True}, indent=2)
        )  # fmt: skip
    oracle = unpack(training.work, "oracle", "cpu")
    if oracle is not None:
        (folder / "oracle").mkdir(parents=True, exist_ok=True)
        weights = {name: values.half() for name, values in oracle[0].items()}
        save_file(weights, folder / "oracle" / "model.safetensors")


_ATTENTION = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def _as_named(weights: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Weights of an extractor by the names of this version of transformers: 5.23 has others than 5.17."""
    known = set(wanted)
    for old, new in (*_ATTENTION.items(), *((new, old) for old, new in _ATTENTION.items())):
        weights = {key if key in known else key.replace(old, new): values for key, values in weights.items()}
    return weights


@torch.no_grad()
def _features(oracle: AnimalOracle, images: Tensor) -> Tensor:
    device, scale = next(oracle.parameters()).device, 255 if images.dtype == torch.uint8 else 1
    return torch.cat(
        [oracle.trunk(2 * part.to(device).float() / scale - 1).cpu() for part in images.split(256)]
    )


def frechet(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017).

    >>> points = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
    >>> round(frechet(points, points), 4), round(frechet(points, points + 2), 3)
    (0.0, 12.0)
    """
    means = [features.double().mean(0) for features in (first, second)]
    covariances = [features.double().T.cov() for features in (first, second)]
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0).sqrt().sum()
    traces = covariances[0].trace() + covariances[1].trace() - 2 * cross
    return ((means[0] - means[1]).square().sum() + traces).item()
