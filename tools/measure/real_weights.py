"""What the first person with a real Stable Diffusion can measure in ten minutes, by the code that loads it for jobs.

    python tools/measure/real_weights.py --prior sd-1.5 --extractor dinov2-small --out out/real-weights

Writes report.json and pictures: which sides are drawn and how they are read, what guidance does to the clean
estimate, how exact the halves are, and a short job of all stages. docs/stable-diffusion.md says what to expect of each.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recdreamer.device import choose_device, choose_dtype
from recdreamer.generate import generate
from recdreamer.images import write_picture
from recdreamer.pose.classifier import PoseClassifier
from recdreamer.pose.draw import LABELS, SIDES, draw_templates, side_doubt
from recdreamer.pose.features import PATCHES, FeatureExtractor
from recdreamer.pose.templates import load_templates
from recdreamer.presets import resolve
from recdreamer.prior.attention import attention_to_prompt
from recdreamer.prior.diffusion import DiffusionPrior, guided
from recdreamer.report import NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically

RELEASED_PX = 560
"""Side of the extractor's input in the released code."""
TIMESTEPS = (100, 300, 500, 700, 900)
SCALES = (1.0, 7.5)


@dataclass
class Warnings(NullReport):
    """Keeps what a job says."""

    said: list[str] = field(default_factory=list)

    def warning(self, message: str) -> None:
        self.said.append(message)


class Bench:
    """The models of a request, its templates, and fresh pictures whose words say what they show."""

    def __init__(self, request: JobRequest, folder: Path, pictures: int) -> None:
        self.request, self.config, self.folder = request, resolve(request), folder
        self.device = choose_device(request.device)
        self.dtype = choose_dtype(request.prior, self.device, self.config.precision)
        self.prior = DiffusionPrior.load(request.prior, self.device, self.dtype)
        extractor = FeatureExtractor(self.config.extractor, self.config.extractor_px).to(self.device)
        drawing, prompt = self.config.rectifier.drawing, self.config.prompt
        drawn = draw_templates(folder, self.prior, extractor, prompt, request.seed, drawing)
        templates = load_templates(JobFolder(folder), drawn, self.prior.image_px)
        images = torch.stack([template.image for template in templates]).to(self.device)
        self.generator = torch.Generator(device=self.device).manual_seed(request.seed + 1)
        attention = attention_to_prompt(self.prior, images, prompt, PATCHES, self.generator)
        settings, seed = self.config.rectifier.classifier, request.seed
        self.classifier = PoseClassifier(extractor, templates, settings, seed, attention)
        finer = FeatureExtractor(self.config.extractor, RELEASED_PX).to(self.device)
        self.finer = PoseClassifier(finer, templates, settings, seed, attention)
        words = [f"{prompt}, {phrase}" for phrase in drawing.phrases().values() for _ in range(pictures)]
        self.pictures = self.prior.sample(words, self.generator, drawing.guidance_scale, drawing.num_steps)
        self.asked = [label for label in LABELS for _ in range(pictures)]
        for index, (label, picture) in enumerate(zip(self.asked, self.pictures, strict=True)):
            write_picture(folder / f"fresh-{label}-{index}.png", picture)

    def are_right(self, log_probs: Tensor) -> list[bool]:
        """Whether each picture is read as what its words say; a side may be either of the two."""
        read = [self.classifier.labels[index] for index in log_probs.argmax(1).tolist()]
        return [
            seen == asked or (asked == "right" and seen == "left")
            for seen, asked in zip(read, self.asked, strict=True)
        ]

    @torch.no_grad()
    def reading(self) -> dict[str, Any]:
        """How the templates read fresh pictures, and which part of each template counts as the object."""
        shares = []
        for classifier in (self.classifier, self.finer):
            right = self.are_right(torch.cat([classifier(one[None]) for one in self.pictures]))
            shares.append(
                {
                    label: sum(ok for ok, asked in zip(right, self.asked, strict=True) if asked == label)
                    / self.asked.count(label)
                    for label in LABELS
                }
            )
        mask = self.classifier.template_mask.float().mean(1)
        sides = self.folder / SIDES
        return {
            "share read as asked": shares[0],
            f"share read as asked, by an extractor of {RELEASED_PX} pixels": shares[1],
            "share of each template that is the object": [round(part, 2) for part in mask.tolist()],
            "sides": json.loads(sides.read_text()) if sides.exists() else None,
            "doubt": side_doubt(self.folder),
        }

    def estimates(self) -> dict[str, Any]:
        """For each timestep, how clean estimates of each guidance are read, and how their gradients of log p agree."""
        with torch.no_grad():
            latents = torch.cat([self.prior.encode(one[None]) for one in self.pictures])
            texts = self.prior.encode_text([self.config.prompt, ""])
        found = {}
        for t in TIMESTEPS:
            eps = torch.randn(latents.shape, generator=self.generator, device=self.device)
            rows: dict[float, list[Tensor]] = {scale: [] for scale in SCALES}
            grads: dict[float, list[Tensor]] = {scale: [] for scale in SCALES}
            for index in range(len(latents)):
                for scale in SCALES:
                    log_probs, grad = self._read_at(latents[index], eps[index], t, texts, scale, index)
                    rows[scale].append(log_probs)
                    grads[scale].append(grad.flatten())
            one, other = (torch.stack(grads[scale]) for scale in SCALES)
            shares = {scale: sum(self.are_right(torch.cat(rows[scale]))) / len(latents) for scale in SCALES}
            found[str(t)] = {
                "read as asked, unguided": shares[SCALES[0]],
                "read as asked, guided": shares[SCALES[1]],
                "cosine": torch.cosine_similarity(one, other).mean().item(),
                "norm ratio": (other.norm(dim=1) / one.norm(dim=1).clamp_min(1e-12)).median().item(),
            }
        return found

    def _read_at(
        self, latents: Tensor, eps: Tensor, at: int, texts: Tensor, scale: float, index: int
    ) -> tuple[Tensor, Tensor]:
        prior, t = self.prior, torch.full((1,), at, device=self.device)
        noised = prior.schedule.add_noise(latents[None], eps[None], t).requires_grad_()
        cond = prior.eps(noised, t, texts[:1])
        found = cond if scale == 1 else guided(cond, prior.eps(noised, t, texts[1:]), scale)
        log_probs = self.classifier(prior.decode(prior.schedule.x0_hat(noised, found, t)))
        place = self.classifier.labels.index(self.asked[index])
        (grad,) = torch.autograd.grad(log_probs[:, place].sum(), noised)
        return log_probs.detach(), grad.float()

    @torch.no_grad()
    def precision(self) -> dict[str, float]:
        """Relative error of guidance's difference, 7.5 times which is in the gradient, by halves against float32."""
        differences = {}
        generator = torch.Generator(device=self.device).manual_seed(0)
        latents = self.prior.encode(self.pictures[:1])
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            prior = DiffusionPrior.load(self.request.prior, self.device, dtype)
            texts, parts = prior.encode_text([self.config.prompt, ""]), []
            for at in TIMESTEPS:
                t = torch.full((1,), at, device=self.device)
                noised = prior.schedule.add_noise(latents, noise, t)
                parts.append(prior.eps(noised, t, texts[:1]) - prior.eps(noised, t, texts[1:]))
            differences[dtype] = torch.cat(parts)
        exact = differences[torch.float32]
        return {
            str(dtype).removeprefix("torch."): ((found - exact).norm() / exact.norm()).item()
            for dtype, found in differences.items()
            if dtype is not torch.float32
        }


def short_job(request: JobRequest, folder: Path) -> dict[str, Any]:
    """A job of all stages, cut short; its previews and its mesh stay in the folder."""
    job, report = JobFolder(folder), Warnings()
    job.root.mkdir(parents=True, exist_ok=True)
    write_atomically(job.request, request.to_json())
    begun = time.perf_counter()
    generate(job, resolve(request), report)
    on_gpu = torch.cuda.is_available()
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "peak memory, GiB": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
        "warnings": report.said,
        "mesh": str(job.result / "model.glb"),
    }


def measured(request: JobRequest, folder: Path, pictures: int, cut: dict[str, Any]) -> dict[str, Any]:
    """Everything, part by part; a part that fails says why, and the others go on."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    bench = Bench(request, folder, pictures)
    found: dict[str, Any] = {
        "prior": request.prior, "device": str(bench.device), "dtype": str(bench.dtype),
        "image_px": bench.prior.image_px, "prediction": bench.prior.schedule.prediction,
        "seconds to load and draw": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    short = JobRequest(
        request.prompt, seed=request.seed, prior=request.prior, device=request.device,
        overrides=request.overrides | cut,
    )  # fmt: skip
    parts = {
        "reading": bench.reading, "estimates": bench.estimates, "precision": bench.precision,
        "job": lambda: short_job(short, folder / "job"),
    }  # fmt: skip
    for name, part in parts.items():
        print(f"{name} …", flush=True)
        try:
            found[name] = part()
        except Exception as error:
            found[name] = {"failed": f"{type(error).__name__}: {error}"}
        write_atomically(folder / "report.json", json.dumps(found, indent=1).encode())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prior", required=True, help="folder, file or name, as in a job")
    parser.add_argument("--extractor", default="facebook/dinov2-with-registers-small")
    parser.add_argument("--prompt", default="a DSLR photo of a bear")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=4, help="fresh pictures of each pose")
    parser.add_argument("--steps", type=int, default=300, help="of the first stage of the short job")
    parser.add_argument("--out", type=Path, default=Path("out/real-weights"))
    options = parser.parse_args()
    request = JobRequest(
        options.prompt, seed=options.seed, prior=options.prior, device=options.device,
        overrides={"extractor": options.extractor},
    )  # fmt: skip
    cut = {
        "optimize.num_steps": options.steps, "optimize.preview_every": max(1, options.steps // 6),
        "geometry.num_steps": options.steps // 3, "texture.num_steps": options.steps // 3,
    }  # fmt: skip
    found = measured(request, options.out, options.pictures, cut)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
