"""The training of the animals' prior, in parts on one GPU; see run.py.

Stages: autoencoder, denoiser with text encoder, oracle, hardened encoder, extractor, report (sheets and measures),
export. Two processes can share the GPU, one with the first two stages, one with the next three. `work/packed` is all that
another machine needs to go on.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from animal_captions import VOCABULARY, AnimalCaptions
from animal_photos import AnimalPhotos, Menagerie, at_once
from animal_presets import AnimalPreset
from animal_table import KEPT_FOR_TESTS, KEPT_FROM_JUDGES
from diffusers import AutoencoderKL
from parts import PartsConfig, Recorded, Stop, fit_in_parts, log, pack, unpack
from torch import Tensor
from toys import picture_pairs

from recdreamer.evaluation.animal_meshes import load_animals
from recdreamer.evaluation.animal_oracle import SIZE_PX as ORACLE_PX
from recdreamer.evaluation.animal_oracle import AnimalOracle, azimuth_bin, mean_azimuth_deg, pose_probs_of
from recdreamer.evaluation.animals import COATS, KINDS, POSES
from recdreamer.evaluation.figurines import pose_class
from recdreamer.prior.pipeline import clip_tokenizer

from augment import degrade, recolor
from captions import build_tokenizer
from denoiser import Denoiser, draw_latents, new_scheduler, velocity_loss
from extractor import Estimator, Student, draw_views, student_loss
from vae import Encoder, draw_disturbed, draw_pictures, encode_all, hardening_loss, new_vae, vae_loss, whiten

UNKNOWN = -100
"""Coat of an animal in colours that no coat has."""
BALANCED = dict.fromkeys(POSES, 0.25)
SUBJECT_WEIGHT = 5.0
"""Of the animal's pixels against the background's in the autoencoder's loss."""
WORTH_ASKING_S = 120.0
"""Training of a denoiser whose estimates teach the extractor more than blur does."""
RENDERING_S = 75.0
"""After this time a stage makes do with the pictures that are rendered so far."""


Model = TypeVar("Model")
STAGES = ["vae", "denoiser", "oracle", "encoder", "extractor", "report", "export"]


class Training:
    """One process of the training: its animals, its folder, and when it has to stop."""

    def __init__(
        self, preset: AnimalPreset, animals: Path, work: Path, device: str, minutes: float | None
    ) -> None:
        self.preset, self.work, self.device = preset, work, torch.device(device)
        self.stop, self.has_end = Stop(minutes), minutes is not None
        (work / "models").mkdir(parents=True, exist_ok=True)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        self.zoo = Menagerie(load_animals(animals), device)
        self.tokenizer = (
            clip_tokenizer("!") if preset.has_clip_words else build_tokenizer(work / "tokenizer", VOCABULARY)
        )
        kept = [look not in KEPT_FOR_TESTS for look in self.zoo.looks]
        judged = [
            is_kept and look not in KEPT_FROM_JUDGES
            for is_kept, look in zip(kept, self.zoo.looks, strict=True)
        ]
        self.pictured, self.judged = (torch.tensor(mask).nonzero()[:, 0] for mask in (kept, judged))
        self.held_out = torch.tensor([look in KEPT_FROM_JUDGES for look in self.zoo.looks]).nonzero()[:, 0]
        self.captions = AnimalCaptions(self.zoo.looks, self.tokenizer)
        self.kind = torch.tensor([KINDS.index(kind) for kind, _ in self.zoo.looks])
        self.coat = torch.tensor([COATS.index(coat) for _, coat in self.zoo.looks])

    def photos(
        self, looks: Tensor, count: int, seed: int, size_px: int, shares: dict[str, float] | None = None
    ) -> AnimalPhotos:
        """Seeded pictures, the same number of each look."""
        started, generator = time.monotonic(), torch.Generator().manual_seed(seed)
        every = looks.repeat(-(-count // len(looks)))[:count]
        parts: list[AnimalPhotos] = []
        for rows in every.split(at_once(size_px) * len(looks)):
            parts.append(self.zoo.photograph(rows, generator, size_px, shares))
            if time.monotonic() - started > RENDERING_S or self.stop:
                break
        images, azimuth_deg, of = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("images", "azimuth_deg", "look")
        )
        log(self.work, event="rendered", pictures=len(images), seconds=round(time.monotonic() - started, 1))
        return AnimalPhotos(images, azimuth_deg, of)

    def mixed(self) -> AbstractContextManager:
        """bfloat16 where it is safe, on a GPU. Without the cache of weights, which a recorded step would keep."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.device.type == "cuda", cache_enabled=False
        )

    # The prior.

    def new_vae(self) -> AutoencoderKL:
        preset = self.preset
        return new_vae(preset.latent_channels, preset.vae_widths, preset.size_px, preset.scaling_factor)

    def train_vae(self, photos: AnimalPhotos) -> bool:
        torch.manual_seed(11)
        vae = self.new_vae().to(self.device)
        vae.to(memory_format=torch.channels_last)
        known = unpack(self.work, "vae", "cpu")
        if known is not None and known[3]:
            return True

        def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
            preset = self.preset
            return draw_pictures(vae, photos.images, preset.vae_batch, generator, preset.foreign_share)

        def loss_of(images: Tensor, noise: Tensor) -> Tensor:
            with self.mixed():
                return vae_loss(vae, images, noise, kl_weight=2e-4, weight=SUBJECT_WEIGHT)

        if not fit_in_parts(
            "vae", vae, Recorded(vae, draw, loss_of), self._planned("vae"), self.work, 11, self.stop
        ):
            return False
        with torch.no_grad():
            whiten(vae, photos.images[:2048])
        _, step, seconds, _ = unpack(self.work, "vae", "cpu")  # pyright: ignore[reportGeneralTypeIssues]
        pack(self.work, "vae", vae.state_dict(), step, seconds, is_done=True)
        return True

    def train_encoder(self) -> bool:
        """Its latents stay what they are, so that the denoiser need not wait for it."""
        vae, known = self._awaited(self.vae), unpack(self.work, "encoder", "cpu")
        if vae is None or (known is not None and known[3]):
            return vae is not None
        photos = self.photos(self.pictured, self.preset.num_photos // 2, 102, self.preset.size_px)
        teacher, student = Encoder(vae), Encoder(copy.deepcopy(vae)).requires_grad_(True)
        student.to(memory_format=torch.channels_last)
        preset = self.preset

        def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
            images, _ = draw_pictures(vae, photos.images, preset.vae_batch, generator, preset.foreign_share)
            with self.mixed():
                images, latents, *rest = draw_disturbed(teacher, images, generator)
            return images, latents.float(), *rest

        def loss_of(*drawn: Tensor) -> Tensor:
            with self.mixed():
                return hardening_loss(student, *drawn)

        step = Recorded(student, draw, loss_of)
        return fit_in_parts("encoder", student, step, self._planned("encoder"), self.work, 13, self.stop)

    def hardened_vae(self) -> AutoencoderKL | None:
        """The autoencoder as it ships, as far as it is trained."""
        vae, known = self.vae(), unpack(self.work, "encoder", self.device)
        if vae is not None and known is not None:
            Encoder(vae).load_state_dict(known[0])
        return vae

    def vae(self) -> AutoencoderKL | None:
        """The autoencoder by which the denoiser is trained, once it is done."""
        known = unpack(self.work, "vae", "cpu")
        if known is None or not known[3]:
            return None
        vae = self.new_vae()
        vae.load_state_dict(known[0])
        return vae.to(self.device).eval().requires_grad_(False)

    def new_denoiser(self) -> Denoiser:
        torch.manual_seed(21)
        preset = self.preset
        return Denoiser(self.tokenizer, preset.latent_channels, preset.denoiser_widths, preset.text)

    def denoiser(self) -> Denoiser | None:
        """As far as it is trained."""
        known = unpack(self.work, "denoiser", "cpu")
        if known is None:
            return None
        denoiser = self.new_denoiser()
        denoiser.load_state_dict(known[0])
        return denoiser.to(self.device).eval().requires_grad_(False)

    def train_denoiser(self, photos: AnimalPhotos) -> bool:
        vae = self.vae()
        if vae is None:
            return False
        latents = encode_all(vae, photos.images)
        words, poses = torch.Generator().manual_seed(21), pose_class(photos.azimuth_deg)
        drawn = [self.captions.draw(photos.look, poses, words) for _ in range(8)]
        captions, tokens = torch.stack(drawn).to(self.device), self.captions.tokens.to(self.device)
        denoiser = self.new_denoiser().to(self.device)
        denoiser.unet.to(memory_format=torch.channels_last)
        alphas_cumprod = new_scheduler().alphas_cumprod.to(self.device)

        def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
            drawn = draw_latents(latents, captions, alphas_cumprod, self.preset.denoiser_batch, generator)
            latents_t, t, velocity, rows = drawn
            return latents_t, t, velocity, tokens[rows]

        def loss_of(latents_t: Tensor, t: Tensor, velocity: Tensor, words: Tensor) -> Tensor:
            with self.mixed():
                return velocity_loss(denoiser, latents_t, t, velocity, words)

        step = Recorded(denoiser, draw, loss_of)
        return fit_in_parts("denoiser", denoiser, step, self._planned("denoiser"), self.work, 21, self.stop)

    # The judges.

    def new_oracle(self) -> AnimalOracle:
        torch.manual_seed(41)
        return AnimalOracle().to(self.device)

    def train_oracle(self) -> bool:
        """Its pictures are seen by nothing else, and it sees nothing else."""
        known, oracle = unpack(self.work, "oracle", self.device), self.new_oracle()
        if known is not None and known[3]:
            return True
        photos = self.photos(self.judged, self.preset.num_photos // 2, 505, ORACLE_PX, BALANCED)
        bins = azimuth_bin(photos.azimuth_deg).to(self.device)
        kind, coat = (labels[photos.look].to(self.device) for labels in (self.kind, self.coat))

        def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
            rows = torch.randint(
                len(bins), (self.preset.judge_batch,), generator=generator, device=self.device
            )
            images, coats = photos.images[rows].float() / 255, coat[rows]
            if num_foreign := round(self.preset.foreign_share * len(rows) / 2):
                images = torch.cat((recolor(images[:num_foreign], generator), images[num_foreign:]))
                coats = torch.cat((torch.full_like(coats[:num_foreign], UNKNOWN), coats[num_foreign:]))
            return degrade(images, generator), bins[rows], kind[rows], coats

        def loss_of(images: Tensor, *targets: Tensor) -> Tensor:
            with self.mixed():
                logits = oracle(images)
            losses = [
                F.cross_entropy(guess.float(), target, ignore_index=UNKNOWN)
                for guess, target in zip(logits, targets, strict=True)
            ]
            return torch.stack(losses).sum()

        is_done = fit_in_parts(
            "oracle",
            oracle,
            Recorded(oracle, draw, loss_of),
            self._planned("oracle"),
            self.work,
            41,
            self.stop,
        )
        oracle.requires_grad_(False)
        for name, looks, seed in (("known coats", self.judged, 606), ("held-out coats", self.held_out, 607)):
            seen = self.photos(looks, min(2000, self.preset.num_photos), seed, ORACLE_PX, BALANCED)
            log(self.work, part="oracle", of=name, **self.oracle_errors(oracle, seen))
        return is_done

    @torch.no_grad()
    def oracle_errors(self, oracle: AnimalOracle, photos: AnimalPhotos) -> dict[str, float]:
        """Shares of right answers, and the error of the azimuth."""
        parts = zip(
            *(oracle(chunk.to(self.device).float() / 255) for chunk in photos.images.split(256)), strict=True
        )
        azimuth, kind, coat = (torch.cat(part).cpu() for part in parts)
        probs = azimuth.softmax(-1)
        error = (mean_azimuth_deg(probs) - photos.azimuth_deg + 180) % 360 - 180
        is_clear = ((photos.azimuth_deg + 45) % 90 - 45).abs() < 35  # At least ten degrees off a border.
        right = pose_probs_of(probs).argmax(-1) == pose_class(photos.azimuth_deg)
        return {
            "pose": right.float().mean().item(), "pose_off_borders": right[is_clear].float().mean().item(),
            "azimuth_error_median_deg": error.abs().median().item(),
            "azimuth_error_mean_deg": error.abs().mean().item(),
            "kind": (kind.argmax(-1) == self.kind[photos.look]).float().mean().item(),
            "coat": (coat.argmax(-1) == self.coat[photos.look]).float().mean().item(),
        }  # fmt: skip

    def new_student(self) -> Student:
        torch.manual_seed(31)
        width, num_layers = self.preset.extractor_size
        return Student(
            width, num_layers, num_image_prototypes=256, num_parts=96, image_px=self.preset.extractor_px
        )

    def _awaited(self, model: Callable[[], Model | None]) -> Model | None:
        """What another process may be training, as soon as it is there or this part has to end."""
        while (found := model()) is None and self.has_end and not self.stop:
            time.sleep(5)
        return found

    def _estimating_denoiser(self) -> Denoiser | None:
        """The denoiser, if it is worth asking."""
        known = unpack(self.work, "denoiser", "cpu")
        is_worth_it = known is not None and (known[3] or not self.has_end or known[2] >= WORTH_ASKING_S)
        return self.denoiser() if is_worth_it else None

    def train_extractor(self) -> bool:
        denoiser, vae = self._awaited(self._estimating_denoiser), self.vae()
        if vae is None or denoiser is None:
            log(self.work, part="extractor", event="needs the denoiser")
            return False
        with torch.no_grad():
            text = denoiser.text_encoder(self.captions.tokens.to(self.device))[0]
        estimate = Estimator(vae, denoiser.unet, text, new_scheduler().alphas_cumprod.to(self.device))
        count, size_px = self.preset.num_photos // 2, self.preset.extractor_px
        photos = self.photos(self.judged, count, 303, size_px, BALANCED)
        captions = self.captions.plain(photos.look).to(self.device)
        dice = torch.Generator().manual_seed(404)
        looks = self.judged.repeat(-(-(count // 2) // len(self.judged)))
        models = [
            self.zoo.photograph_pairs(rows, dice, size_px)
            for rows in looks.split(at_once(size_px) * len(self.judged))
        ]
        toys = picture_pairs(count // 8, torch.Generator(self.device).manual_seed(405), size_px, chunk=64)
        pairs = tuple(
            torch.cat([*sides, toy]) for sides, toy in zip(zip(*models, strict=True), toys, strict=True)
        )
        student = self.new_student().to(self.device)

        def mixed_estimate(*arguments: object) -> Tensor:
            with self.mixed():
                return estimate(*arguments).float()  # pyright: ignore[reportArgumentType]

        def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
            return draw_views(
                photos.images, captions, mixed_estimate, self.preset.judge_batch, generator,  # pyright: ignore[reportArgumentType]
                pairs=pairs, pair_share=0.35,
            )  # fmt: skip

        def loss_of(*views: Tensor) -> Tensor:
            return student_loss(student, *views, contrast=self.preset.contrast)

        is_done = fit_in_parts(
            "extractor",
            student,
            Recorded(student, draw, loss_of),
            self._planned("extractor"),
            self.work,
            31,
            self.stop,
        )
        probe = self.photos(self.judged, min(3000, self.preset.num_photos), 304, size_px, BALANCED)
        log(self.work, part="extractor", **pose_probe(student.eval(), probe))
        return is_done

    def run(self, stages: Collection[str]) -> None:
        """The stages of the training among `stages`, as far as there is time."""
        if {"vae", "denoiser"} & set(stages) and not self.stop:
            photos = self.photos(self.pictured, self.preset.num_photos, 101, self.preset.size_px)
            if "vae" in stages and not self.train_vae(photos):
                return
            if "denoiser" in stages:
                self.train_denoiser(photos)
        if "oracle" in stages and not self.stop:
            self.train_oracle()
        if "encoder" in stages and not self.stop:
            self.train_encoder()
        if "extractor" in stages and not self.stop:
            self.train_extractor()

    def _planned(self, name: str) -> PartsConfig:
        return getattr(self.preset, name)


@torch.no_grad()
def pose_probe(student: Student, photos: AnimalPhotos) -> dict[str, float]:
    """Share of pictures whose nearest neighbour by class token, among those of other looks, shows the same pose."""
    device = next(student.parameters()).device
    tokens = torch.cat([student(part.to(device).float() / 255)[0] for part in photos.images.split(256)])
    likeness = tokens @ tokens.T
    look, pose = photos.look.to(device), pose_class(photos.azimuth_deg).to(device)
    likeness = likeness.masked_fill(look[:, None] == look, -2)
    return {"pose_by_neighbor": (pose[likeness.argmax(1)] == pose).float().mean().item()}
