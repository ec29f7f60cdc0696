"""Train the embedded prior from scratch: python tools/train_prior/run.py --preset cpu --work out/prior.

Stages in order: autoencoder, denoiser with text encoder, extractor, CLIP, oracle, then the folders under
backend/recdreamer/builtin. Every stage is seeded and resumes; --stages chooses among them.

    python tools/train_prior/run.py --preset animals --animals out/animals/animals.npz --work out/animals/prior

trains the world of animals, which needs a GPU and comes in parts: after --minutes, or when it is asked to terminate, it
saves and stops, and the same command goes on. The folder `packed` in --work is what another machine needs to go on.
`--preset rehearsal` trains the same world in Stable Diffusion's sizes, and writes it to `made` in --work.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import animal_presets
import animal_training
import torch
from animal_card import card
from animal_report import export as export_animals
from animal_report import report
from clip_training import IMAGE_MEAN as CLIP_MEAN
from clip_training import IMAGE_STD as CLIP_STD
from clip_training import hat_accuracy, train_clip
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor
from toys import picture_pairs
from transformers import CLIPTokenizer, PreTrainedModel

from recdreamer.evaluation.figurines import COLORS, KINDS, Photos, photograph, pose_class

from captions import HAT, HAT_SHARE, NO_HAT, CaptionTable, build_tokenizer
from denoiser import Denoiser, new_scheduler, train_denoiser
from extractor import IMAGE_MEAN, IMAGE_STD, Estimator, train_extractor
from oracle_training import oracle_accuracy, train_oracle
from vae import encode_all, train_vae

BUILTIN = Path(__file__).parents[2] / "backend" / "recdreamer" / "builtin"
STAGES = ["vae", "denoiser", "extractor", "clip", "oracle", "export"]
BALANCED = {"front": 0.25, "right": 0.25, "back": 0.25, "left": 0.25}


@dataclass(frozen=True)
class Preset:
    """Pictures and steps of each stage; `cpu` fits into two hours on two cores."""

    num_photos: int
    vae: tuple[int, int, float]
    """Steps, batch, learning rate."""
    denoiser: tuple[int, int, float]
    denoiser_ema: float
    extractor: tuple[int, int, float]
    extractor_size: tuple[int, int]
    """Width, layers."""
    clip: tuple[int, int, float]
    oracle: tuple[int, int]


PRESETS = {
    "cpu": Preset(
        8000, (2400, 8, 2e-3), (4000, 32, 1e-3), 0.998, (1500, 32, 1e-3), (64, 4), (1500, 64, 1e-3), (900, 64)
    ),
    "gpu": Preset(
        60_000,
        (7000, 128, 2e-3),
        (12_000, 256, 1e-3),
        0.9995,
        (4000, 256, 1e-3),
        (64, 4),
        (4000, 256, 1e-3),
        (4000, 256),
    ),
    "smoke": Preset(64, (3, 4, 1e-3), (3, 4, 1e-3), 0.9, (3, 8, 1e-3), (32, 2), (3, 8, 1e-3), (3, 8)),
}


def photos_of(
    count: int, seed: int, device: str, shares: dict[str, float] | None = None, hat_share: float = HAT_SHARE
) -> Photos:
    """Seeded pictures as uint8, rendered in chunks."""
    generator = torch.Generator(device=device).manual_seed(seed)
    chunk = 128 if device != "cpu" else 16
    parts = [
        photograph(min(chunk, count - i), generator, device, shares=shares, hat_share=hat_share)
        for i in range(0, count, chunk)
    ]
    images = torch.cat([(part.images * 255).round().byte() for part in parts])
    labels = [
        torch.cat([getattr(part, name) for part in parts]) for name in ("azimuth_deg", "kind", "color", "hat")
    ]
    return Photos(images, *labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=[*PRESETS, *animal_presets.PRESETS], default="cpu")
    parser.add_argument("--work", type=Path, default=Path("out/prior"))
    parser.add_argument("--builtin", type=Path, default=BUILTIN)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--stages", nargs="+", choices=sorted({*STAGES, *animal_training.STAGES}))
    parser.add_argument("--animals", type=Path, help="animals.npz, which animals.py writes")
    parser.add_argument("--minutes", type=float, help="ends a part of the animals' training")
    parser.add_argument("--time-limit", type=float, help="seconds for each of denoiser and extractor")
    parser.add_argument("--compile", action="store_true", help="compile the denoiser while it is trained")
    parser.add_argument("--part-weight", type=float, default=0.5, help="weight of the agreement on parts")
    parser.add_argument("--extractor-size", type=int, nargs=2, default=None, help="width and layers")
    parser.add_argument("--extractor-start", type=Path, help="folder of an extractor to continue from")
    parser.add_argument(
        "--pair-share", type=float, default=0.4, help="share of toys in the extractor's batches"
    )
    options = parser.parse_args()
    if options.preset in animal_presets.PRESETS:
        if options.animals is None or not options.animals.exists():
            parser.error(
                "--preset animals needs --animals FILE; tools/train_prior/animals.py --fetch writes it."
            )
        train_animals(options)
        return
    options.stages = options.stages or STAGES
    preset, device, work = PRESETS[options.preset], options.device, options.work
    width, num_layers = options.extractor_size or preset.extractor_size
    extractor_name = f"extractor_{width}_{num_layers}_{options.part_weight:g}_{options.pair_share:g}"
    if options.extractor_start is not None:
        extractor_name += "_on"  # Its own name, so that it does not resume from the checkpoint of the start.
    (work / "models").mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", flush=True)

    tokenizer = build_tokenizer(work / "tokenizer")
    vae_folder = work / "models" / "vae"
    if {"vae", "denoiser"} & set(options.stages):
        biased = photos_of(preset.num_photos, 101, device)
        say(f"rendered {preset.num_photos} pictures with the biased camera")
    if "vae" in options.stages:
        train_vae(biased.images, *preset.vae, work, seed=11).save_pretrained(vae_folder)
        say("autoencoder done")
    vae = AutoencoderKL.from_pretrained(vae_folder).to(device).eval().requires_grad_(False)

    if "denoiser" in options.stages:
        latents = encode_all(vae, biased.images)
        denoiser = train_denoiser(
            latents, captions_of(biased, tokenizer, 21), tokenizer, *preset.denoiser, preset.denoiser_ema, work, 21,
            options.time_limit, options.compile,
        )  # fmt: skip
        denoiser.unet.save_pretrained(work / "models" / "unet")
        denoiser.text_encoder.save_pretrained(work / "models" / "text_encoder")
        say("denoiser done")

    if {"extractor", "clip", "export"} & set(options.stages):
        denoiser = Denoiser(tokenizer, vae.config.latent_channels)
        denoiser.unet = denoiser.unet.from_pretrained(work / "models" / "unet")
        denoiser.text_encoder = denoiser.text_encoder.from_pretrained(work / "models" / "text_encoder")
        denoiser = denoiser.to(device).eval().requires_grad_(False)

        table = CaptionTable(tokenizer)
        with torch.no_grad():
            text = denoiser.text_encoder(table.tokens.to(device))[0]
        estimate = Estimator(vae, denoiser.unet, text, new_scheduler().alphas_cumprod.to(device))

        if "extractor" in options.stages:
            seen = photos_of(preset.num_photos, 303, device, BALANCED)
            names = list(COLORS)
            plain = [
                table.index[f"a {names[color]} {KINDS[kind]}{f' {HAT}' if hat else ''}"]
                for kind, color, hat in zip(
                    *(x.tolist() for x in (seen.kind, seen.color, seen.hat)), strict=True
                )
            ]
            toy_dice = torch.Generator(device=device).manual_seed(404)
            pairs = picture_pairs(preset.num_photos // 2, toy_dice)
            say(f"rendered {len(pairs[0])} toys, each as a photo and as a block-out")
            student = train_extractor(
                seen.images, torch.tensor(plain, device=device), estimate, width, num_layers, *preset.extractor,
                work, 31, extractor_name, options.part_weight, pairs=pairs, pair_share=options.pair_share,
                start=options.extractor_start, time_limit_s=options.time_limit,
            )  # fmt: skip
            save_model(student.extractor, IMAGE_MEAN, IMAGE_STD, work / "models" / extractor_name)
            say("extractor done")

        if "clip" in options.stages:
            seen = photos_of(preset.num_photos, 707, device, BALANCED, hat_share=0.5)
            clip = train_clip(
                seen.images, captions_of(seen, tokenizer, 51), table.tokens.to(device), tokenizer, estimate,
                *preset.clip, work, 51, time_limit_s=options.time_limit,
            )  # fmt: skip
            save_model(clip, CLIP_MEAN, CLIP_STD, work / "models" / "clip")
            tokenizer.save_pretrained(work / "models" / "clip")
            held_out = photos_of(1000, 808, device, BALANCED, hat_share=0.5)
            texts = tokenizer(
                [f"a red bear {hat}" for hat in (NO_HAT, HAT)], padding="max_length", return_tensors="pt"
            )
            right = hat_accuracy(clip, held_out.images, held_out.hat, texts.input_ids.to(device))
            say(f"CLIP done, tells hats on held-out pictures in {right:.3f}")

    if "oracle" in options.stages:  # has its own pictures, so that it is independent of the rest
        # Hats in half of the pictures, so that the oracle has no bias.
        seen, held_out = (
            photos_of(count, seed, device, BALANCED, hat_share=0.5)
            for count, seed in ((preset.num_photos, 505), (1000, 606))
        )
        oracle = train_oracle(seen, *preset.oracle, work, seed=41)
        say(f"oracle done, held-out accuracy {oracle_accuracy(oracle, held_out)}")
        save_file(
            {k: v.contiguous().cpu() for k, v in oracle.state_dict().items()},
            work / "models" / "oracle.safetensors",
        )

    if "export" in options.stages:
        export(work, vae.cpu(), denoiser.cpu(), tokenizer, work / "models" / extractor_name, options.builtin)
        say(f"written to {options.builtin}")


def train_animals(options: argparse.Namespace) -> None:
    """One part of the animals' training."""
    preset, stages = animal_presets.PRESETS[options.preset], options.stages or animal_training.STAGES
    training = animal_training.Training(
        preset, options.animals, options.work, options.device, options.minutes
    )
    training.run(stages)
    if "report" in stages:
        report(training)
    if "export" in stages:
        folder = options.builtin
        if folder == BUILTIN:
            folder = BUILTIN / "animals" if options.preset == "animals" else options.work / "made"
        export_animals(training, folder)
        (folder / "MODEL_CARD.md").write_text(card(training, folder), encoding="utf-8")


def captions_of(photos: Photos, tokenizer: CLIPTokenizer, seed: int, versions: int = 8) -> Tensor:
    """(versions, pictures) rows of the caption table, drawn beforehand, so that no step waits for the host."""
    table, words = CaptionTable(tokenizer), torch.Generator().manual_seed(seed)
    labels = (photos.kind, photos.color, photos.hat, pose_class(photos.azimuth_deg))
    drawn = [table.draw(*(label.cpu() for label in labels), words) for _ in range(versions)]
    return torch.stack(drawn).to(photos.images.device)


def save_model(model: PreTrainedModel, mean: tuple[float, ...], std: tuple[float, ...], folder: Path) -> None:
    """The model with the preprocessing that it was trained with."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "BitImageProcessor", "image_mean": mean, "image_std": std,
                    "size": {"height": 64, "width": 64}, "do_normalize": True, "do_rescale": True,
                    "do_resize": True}, indent=2)
    )  # fmt: skip


def export(work: Path, vae, denoiser: Denoiser, tokenizer, extractor: Path, builtin: Path) -> None:
    """The pipeline folder, the extractor, CLIP and the oracle, as they ship."""
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=denoiser.text_encoder, tokenizer=tokenizer, unet=denoiser.unet,
        scheduler=new_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    shutil.rmtree(builtin / "prior", ignore_errors=True)
    pipeline.save_pretrained(builtin / "prior")
    for config in (builtin / "prior").rglob("*.json"):
        values = json.loads(config.read_text(encoding="utf-8"))
        # Training leaves the name of its own folder behind.
        if isinstance(values, dict) and values.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(values, indent=2), encoding="utf-8")
    for name, trained in (("extractor", extractor), ("clip", work / "models" / "clip")):
        shutil.rmtree(builtin / name, ignore_errors=True)
        shutil.copytree(trained, builtin / name)
    (builtin / "oracle").mkdir(parents=True, exist_ok=True)
    shutil.copy(work / "models" / "oracle.safetensors", builtin / "oracle" / "model.safetensors")


if __name__ == "__main__":
    main()
