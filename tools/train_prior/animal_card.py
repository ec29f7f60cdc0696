"""The card of the animals' models, from the log of their training."""

from __future__ import annotations

import json
from pathlib import Path

from animal_table import KEPT_FOR_TESTS, KEPT_FROM_JUDGES
from animal_training import Training

from recdreamer.evaluation.animals import POSE_SHARES, POSES, VIEW_SHARE, VIEW_TRUTH
from recdreamer.shared.worlds import described

PARTS = ("vae", "denoiser", "oracle", "extractor")


def card(training: Training, folder: Path) -> str:
    """What the models in `folder` are, know and cannot do; with the newest measures of the log."""
    rows = [
        json.loads(line) for line in (training.work / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    sizes = {
        part: sum(file.stat().st_size for file in (folder / part).rglob("*.safetensors")) / 1e6
        for part in ("prior", "extractor", "oracle")
    }
    bias = ", ".join(f"{pose} {100 * share:.0f} %" for pose, share in POSE_SHARES.items())
    kinds = sorted({kind for kind, _ in training.zoo.looks})
    size_lines = "\n".join(f"| {part} | {size:.1f} MB |" for part, size in sizes.items())
    preset, latents = training.preset, training.preset.size_px // 8
    return f"""# The animals

Small models trained from nothing on pictures of {len(training.zoo.looks)} coats of {len(kinds)} animals, in half
precision on disk.

| part | size |
|---|---|
{size_lines}

- **prior/** is a `StableDiffusionPipeline`: autoencoder ({preset.size_px}×{preset.size_px} pictures,
  {latents}×{latents} latents, {preset.latent_channels} channels, scaling factor {preset.scaling_factor:g}),
  U-Net with v-prediction on Stable Diffusion's noise schedule, CLIP text encoder with a tokenizer of
  {len(training.tokenizer)} tokens.
- **extractor/** is a `Dinov2WithRegistersModel` trained without labels, as that of the figurines; a part of its
  pictures is matched with the same view of the same animal as a model of clay.
- **oracle/** is a supervised network that reads azimuth, kind and coat. It measures results and is never part of the
  method.

**Data.** Renders (`tools/train_prior/animal_photos.py`) of textured models of the game 0 A.D.: lamps, shadows, plain and
graded backgrounds, cameras between 0° and 25° of elevation that let the animal fill the picture more or less. Captions
name coat and kind, sometimes the kind alone, sometimes nothing; {100 * VIEW_SHARE:.0f} % of the others name a view.

**Bias, on purpose.** The cameras of the prior's pictures stand: {bias}. View words are true in
{100 * VIEW_TRUTH:.0f} % of the pictures; in the others they are drawn from the same shares whatever the picture shows.
Measured on the prior's own samples by the oracle, on coats that the oracle knows:

{_samples(rows)}

**Kept out.** Of all training: {_named(KEPT_FOR_TESTS)}. Of extractor and oracle: {_named(KEPT_FROM_JUDGES)}.

**Oracle.** {_oracle(rows)}

**Autoencoder.** {_newest(rows, "decibels", "vae"):.1f} dB on other renders.

**Extractor.** The nearest neighbour among the pictures of other coats shows the same pose in
{100 * _newest(rows, "pose_by_neighbor", "extractor"):.0f} %.

**Training of these weights.** {_training(rows)} `tools/train_prior/run.py --preset animals`, in parts, seeded.

**Use.** Demonstration, tests, benchmarks. It knows nothing but these animals.

**Licence and credits.** The models learnt from art of 0 A.D., © 2010 Wildfire Games and its artists, CC-BY-SA 3.0
(Debian package `0ad-data`, its copyright file). So these weights are under CC-BY-SA 3.0 as well as under the code's
GPL-3.0-or-later.
"""


def _named(looks: set[tuple[str, str]]) -> str:
    return ", ".join(described(*look) for look in sorted(looks))


def _newest(rows: list[dict], key: str, part: str) -> float:
    """The last value that the log has; not a number if there is none."""
    return next((row[key] for row in reversed(rows) if row.get("part") == part and key in row), float("nan"))


def _samples(rows: list[dict]) -> str:
    found = {
        (row.get("guidance"), row["phrase"]): row
        for row in rows
        if row.get("part") == "denoiser" and "poses" in row and "both_of_known_coats" in row
    }
    lines = [
        f"| words after coat and kind | guidance | {' | '.join(POSES)} | kind and coat right | Fréchet distance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (guidance, phrase), row in found.items():
        poses = " | ".join(f"{row['poses'][pose]:.2f}" for pose in POSES)
        distance = f"{row['frechet']:.0f} ({row['frechet_of_renders']:.0f})" if "frechet" in row else "–"
        lines.append(
            f"| {phrase or 'none'} | {guidance or '–'} | {poses} | {row['both_of_known_coats']:.3f} | {distance} |"
        )
    return (
        "\n".join(lines)
        + "\n\nThe distance in the oracle's features; in brackets that of two sets of renders."
    )


def _oracle(rows: list[dict]) -> str:
    found = {row["of"]: row for row in rows if row.get("part") == "oracle" and "of" in row}
    return " ".join(
        f"On {name}: {100 * row['pose_off_borders']:.1f} % right poses at least ten degrees off their borders "
        f"({100 * row['pose']:.1f} % anywhere), azimuth wrong by {row['azimuth_error_median_deg']:.1f}° in the median, "
        f"{100 * row['kind']:.1f} % right kinds."
        for name, row in found.items()
    )


def _training(rows: list[dict]) -> str:
    last = {row["part"]: row for row in rows if "step" in row and row.get("part") in PARTS}
    return " ".join(
        f"{part}: {row['step']:,} steps in {row['seconds'] / 60:.0f} minutes." for part, row in last.items()
    )
