"""Measure the embedded prior on its own samples and write its card: python tools/train_prior/card.py.

The oracle reads pose, kind and colour off samples drawn with and without view phrases.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from recdreamer.evaluation.figurines import COLORS, KINDS, PARTY_HAT_SHARE, POSE_SHARES, POSES, photograph
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.images import write_sheet
from recdreamer.prior.diffusion import BUILTIN_FOLDER, DiffusionPrior

from captions import AUXILIARY, HAT, NO_HAT, PARTY

PHRASES = (
    "", ", from front view", ", from back view", ", facing left", ", facing right", f", {AUXILIARY}",
    f" {PARTY}", f" {HAT}", f" {NO_HAT}",
)  # fmt: skip
"""What follows colour and kind."""


@torch.no_grad()
def measure(
    prior: DiffusionPrior, phrase: str, scale: float, per_prompt: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Samples of all kinds and colours, and a row: pose shares, shares of right kinds, right colours, hats."""
    oracle, generator = load_oracle(prior.device), torch.Generator(prior.device).manual_seed(seed)
    labels = [(kind, color) for kind in range(len(KINDS)) for color in range(len(COLORS))] * per_prompt
    names = list(COLORS)
    prompts = [f"a {names[color]} {KINDS[kind]}{phrase}" for kind, color in labels]
    samples = torch.cat(
        [prior.sample(prompts[i : i + 24], generator, scale) for i in range(0, len(prompts), 24)]
    )
    pose, kind, color, hat = (logits.argmax(-1).cpu() for logits in oracle(samples))
    truth = torch.tensor(labels)
    shares = torch.bincount(pose, minlength=len(POSES)) / len(pose)
    right = [(guess == truth[:, i]).float().mean().item() for i, guess in enumerate((kind, color))]
    return samples.cpu(), torch.tensor([*shares.tolist(), *right, hat.float().mean().item()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-prompt", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    prior = DiffusionPrior.load("builtin", options.device, torch.float32)
    lines = [
        "| phrase | CFG | front | right | back | left | kind right | colour right | hat |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    strips = []
    for phrase in PHRASES:
        for scale in (3.0,) if phrase else (1.0, 3.0, 4.0):
            samples, row = measure(prior, phrase, scale, options.per_prompt, seed=1)
            lines.append(
                f"| {phrase.strip(' ,') or 'none'} | {scale:g} | "
                + " | ".join(f"{value:.2f}" for value in row)
                + " |"
            )
            print(lines[-1], flush=True)
            if scale == 3.0:
                strips.append(samples[:24])
    write_sheet(options.images / "prior-samples.png", torch.cat(strips), 24)

    decibels = []
    for hat_share in (0.0, 1.0):
        generator = torch.Generator(options.device).manual_seed(9)
        images = photograph(256, generator, options.device, hat_share=hat_share).images
        with torch.no_grad():
            error = (prior.decode(prior.encode(images)).clamp(0, 1) - images).square().mean()
        decibels.append(-10 * error.log10().item())
    sizes = {part: sum(f.stat().st_size for f in (BUILTIN_FOLDER.parent / part).rglob("*.safetensors")) / 1e6
             for part in ("prior", "extractor", "clip", "oracle")}  # fmt: skip
    size_lines = "\n".join(f"| {part} | {size:.1f} MB |" for part, size in sizes.items())
    bias = ", ".join(f"{pose} {100 * share:.0f} %" for pose, share in POSE_SHARES.items())
    (BUILTIN_FOLDER.parent / "MODEL_CARD.md").write_text(
        f"""# The embedded prior

Four small models trained from nothing on pictures that this project renders itself. They exist so that the
whole method can be run, tested and measured on any computer, by the code that loads Stable Diffusion.

| part | size |
|---|---|
{size_lines}

- **prior/** is a `StableDiffusionPipeline`: autoencoder (64×64 pictures, 16×16 latents,
  {prior.unet.config.in_channels} channels), U-Net with v-prediction on Stable Diffusion's noise schedule, CLIP
  text encoder with a tokenizer of {prior.tokenizer.vocab_size} tokens.
- **extractor/** is a `Dinov2WithRegistersModel` trained without labels: class tokens by swapped assignment to
  prototypes, patch tokens by finding the same point in another augmentation, on pictures with all azimuths
  alike, half of them replaced by the prior's one-step estimates from noise, three in ten matched with a line
  drawing of themselves. Two fifths of the pictures are random toys, none of them of the kinds below, each matched with
  a block-out of itself from the same camera: grey or painted, in clay, studio or scene light, with outlines, with
  features missing (`tools/train_prior/toys.py`). No pose is named anywhere.
- **clip/** is a `CLIPModel` trained on pictures and captions, half of the pictures one-step estimates: an
  image classifier by text.
- **oracle/** is a supervised network that reads pose, kind, colour and hat. It measures results and is never part of
  the method.

**Data.** Procedural figurines of {len(KINDS)} kinds ({", ".join(KINDS)}) and {len(COLORS)} colours ({", ".join(COLORS)}),
`recdreamer/evaluation/figurines.py`. Captions name colour and kind, sometimes the view, sometimes nothing. A fifth of
the figures wear a hat, and their captions say so ("{HAT}"), or "{PARTY}".

**Bias, on purpose.** The cameras of the prior's pictures stand: {bias}. So the prior has the Janus disease.
Of the figures "{PARTY}", {100 * PARTY_HAT_SHARE:.0f} % wear a hat: a second bias, in an attribute that is no pose.
Measured on its own samples by the oracle ({len(KINDS) * len(COLORS) * options.per_prompt} samples a row):

{chr(10).join(lines)}

**Autoencoder.** {decibels[0]:.1f} dB on held-out pictures, {decibels[1]:.1f} dB on those with a hat, which it
was not trained on.

**Training of these weights.** On H100s with `--preset gpu` and time limits, about 20 minutes in all: autoencoder
7,000 steps of 128 pictures (out of 100,000), three of its eight channels pruned, 300 steps more; denoiser 11,079
steps of 256 (out of 60,000 pictures, `--compile`); extractor 1,076 steps of 256, then
1,899 with line drawings (out of 24,000 pictures, `--extractor-start`), then 3,275 with toys on
an H200 (30,000 pairs); CLIP 2,708 steps of 256, tells hats on 1,000 held-out
pictures without a mistake; oracle 4,000 steps of 256, 99.8 % right poses on held-out pictures.
The autoencoder is older than the hats, and saw none. `--preset cpu` makes a smaller training of the same
models on two cores.

**Use.** Demonstration, tests, benchmarks. It knows nothing but these figurines.

**Licence.** GPL-3.0-or-later, like the code; made by `tools/train_prior/run.py`, which is seeded.
"""
    )


if __name__ == "__main__":
    main()
