"""Training in parts, and the captions of the animals."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from recdreamer.evaluation.animal_oracle import load_animal_oracle
from recdreamer.evaluation.animals import COATS, KINDS, POSE_SHARES, POSES, VIEW_SHARE, obeyed
from recdreamer.pose.features import FeatureExtractor
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.shared.worlds import ANIMALS, described

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "train_prior"))
import animal_table
from animal_captions import PHRASES, VOCABULARY, AnimalCaptions
from animal_card import card
from animal_presets import PRESETS
from animal_report import export, report
from animal_training import STAGES, Training
from animals import save_animals
from parts import PartsConfig, Recorded, Stop, fit_in_parts, unpack

from recdreamer.evaluation.animal_meshes import Animal

from augment import foreign, recolor
from captions import VIEWS, build_tokenizer
from extractor import contrast_loss
from vae import Encoder, draw_disturbed, draw_pictures, hardening_loss, new_vae

CONFIG = PartsConfig(10, 0.05, warmup_steps=1, max_steps=6, weight_decay=0, ema_decay=0.5)


def fit(
    model: nn.Linear, folder: Path, stop_after: int | None = None, stop: Stop | None = None
) -> list[float]:
    """Fit y = 3 x; the losses. Asks itself to terminate after `stop_after` steps."""
    losses: list[float] = []

    def loss_of(generator: torch.Generator) -> Tensor:
        x = torch.rand(8, 1, generator=generator)
        loss = (model(x) - 3 * x).square().mean()
        losses.append(loss.item())
        if len(losses) == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    fit_in_parts(
        "line",
        model,
        Recorded(model, lambda generator: (generator,), loss_of),
        CONFIG,
        folder,
        7,
        stop or Stop(None),
    )
    return losses


@pytest.fixture
def line() -> nn.Linear:
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


@pytest.fixture(autouse=True)
def _terminates_and_multiplies_as_before():
    before, precision = signal.getsignal(signal.SIGTERM), torch.get_float32_matmul_precision()
    yield
    signal.signal(signal.SIGTERM, before)
    torch.set_float32_matmul_precision(precision)


def test_a_terminated_part_saves_and_the_next_goes_on(line: nn.Linear, tmp_path: Path) -> None:
    first = fit(line, tmp_path, stop_after=2)
    assert len(first) == 2
    second = fit(nn.Linear(1, 1), tmp_path)
    assert len(second) == 4, "six steps in all"
    assert second[-1] < first[0]
    assert fit(nn.Linear(1, 1), tmp_path) == [], "what is done is only loaded"
    events = [json.loads(row) for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["event"] for row in events] == ["start", "stop", "start", "done", "start", "done"]
    assert [row["step"] for row in events] == [0, 2, 2, 6, 6, 6]


def test_parts_see_what_one_run_sees(line: nn.Linear, tmp_path: Path) -> None:
    whole = nn.Linear(1, 1)
    whole.load_state_dict(line.state_dict())
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    fit(whole, tmp_path / "whole")
    fit(line, tmp_path / "parts", stop_after=3)
    again = nn.Linear(1, 1)
    fit(again, tmp_path / "parts")
    assert torch.allclose(again.weight, whole.weight, atol=1e-6)


def test_another_machine_goes_on_from_packed_weights(line: nn.Linear, tmp_path: Path) -> None:
    fit(line, tmp_path, stop_after=4)
    (tmp_path / "line.pt").unlink()
    packed = unpack(tmp_path, "line", "cpu")
    assert packed is not None and packed[1] == 4 and not packed[3]
    assert packed[0]["weight"].item() == pytest.approx(line.weight.item(), rel=1e-3), "the moving average"
    model = nn.Linear(1, 1)
    assert len(fit(model, tmp_path)) == 2
    done = unpack(tmp_path, "line", "cpu")
    assert (
        done is not None
        and done[3]
        and done[0]["weight"].item() == pytest.approx(model.weight.item(), rel=1e-3)
    )


def test_a_part_ends_in_time(line: nn.Linear, tmp_path: Path) -> None:
    assert fit(line, tmp_path, stop=Stop(0.0)) == []


def test_the_words_of_the_world_are_those_of_the_table() -> None:
    looks = [
        (kind, coat)
        for kind, meshes in animal_table.COATS.items()
        for coats in meshes.values()
        for coat in coats
    ]
    assert tuple(sorted({kind for kind, _ in looks})) == KINDS
    assert tuple(sorted({coat for _, coat in looks})) == COATS
    known = {(kind, coat) for kind, coats in ANIMALS.items() for coat in coats}
    assert known == {*looks} - animal_table.KEPT_FOR_TESTS


def test_captions_name_views_as_often_and_as_truly_as_they_say(tmp_path: Path) -> None:
    looks = [("elephant", "gray"), ("ox", "black and white")]
    captions = AnimalCaptions(looks, build_tokenizer(tmp_path, VOCABULARY))
    dice = torch.Generator().manual_seed(3)
    shares = torch.tensor([POSE_SHARES[pose] for pose in POSES])
    poses = shares.multinomial(40_000, replacement=True, generator=dice)
    drawn = captions.draw(torch.arange(40_000) % 2, poses, dice)
    texts = [captions.texts[row] for row in drawn.tolist()]
    assert texts.count("") / len(texts) == pytest.approx(0.10, abs=0.01)
    assert sum("," in text for text in texts) / len(texts) == pytest.approx(0.9 * VIEW_SHARE, abs=0.01)
    plain = torch.tensor(["," not in text and text != "" for text in texts])
    found = torch.bincount(poses[plain], minlength=4) / plain.sum()
    assert torch.allclose(found, shares, atol=0.012), "plain captions do not change the bias"
    back = [pose for text, pose in zip(texts, poses.tolist(), strict=True) if text.endswith("from back view")
            and "side" not in text]  # fmt: skip
    assert back.count(POSES.index("back")) / len(back) == pytest.approx(obeyed("back"), abs=0.03)
    assert all("black and white ox" in text or text.startswith("an ox") or text == "" for text in texts[1::2])
    assert (
        captions.texts[captions.plain(torch.tensor([0])).item()]
        == described("elephant", "gray")
        == "a gray elephant"
    )
    assert set(PHRASES) >= {phrase for views in VIEWS.values() for phrase in views}


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Three animals that are boxes: one for all, one that the judges do not see, one that nothing sees."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-2, 2) for z in (-1, 1)], np.float32) / 4
    quads = ((0, 4, 5, 1), (2, 3, 7, 6), (0, 1, 3, 2), (4, 6, 7, 5), (0, 2, 6, 4), (1, 5, 7, 3))
    faces = np.array([(q[0], *q[i : i + 2]) for q in quads for i in (1, 2)], np.int32)
    texture = np.full((4, 4, 4), 255, np.uint8)
    names = [("tiger", "striped"), ("camel", "beige"), ("rhino", "gray")]
    boxes = [
        Animal(
            kind, "box", corners, faces, np.full((12, 3, 2), 0.5, np.float32), 1.0, {coat: texture - 60 * i}
        )
        for i, (kind, coat) in enumerate(names)
    ]
    save_animals(boxes, tmp_path / "boxes.npz")
    return tmp_path / "boxes.npz"


@pytest.mark.parametrize("name", ["animals", "rehearsal"])
def test_the_whole_training_makes_models_that_load(boxes: Path, tmp_path: Path, name: str) -> None:
    preset = PRESETS[f"{name}-smoke"]
    training = Training(preset, boxes, tmp_path / "work", "cpu", None)
    assert training.pictured.tolist() == [0, 1] and training.judged.tolist() == [0]
    training.run(STAGES)
    report(training)
    export(training, tmp_path / "made")
    rows = [json.loads(row) for row in (tmp_path / "work" / "log.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows if row.get("event") == "done"} == {
        "vae",
        "denoiser",
        "oracle",
        "encoder",
        "extractor",
    }
    assert {row["of"] for row in rows if "of" in row} == {"known coats", "held-out coats"}
    plain, *views = [row for row in rows if row.get("guidance") == 3.0]
    assert plain["frechet"] > plain["frechet_of_renders"] >= 0 and len(views) == 5
    assert (tmp_path / "work" / "sheets" / "vae.png").exists()

    text = card(training, tmp_path / "made")
    assert (
        "nan" not in text and "Wildfire Games" in text and "front 65 %" in text and text.count("| 3.0 |") == 6
    )

    prior = DiffusionPrior.load(str(tmp_path / "made" / "prior"), "cpu", torch.float32)
    samples = prior.sample(["a striped tiger"], torch.Generator().manual_seed(1), num_steps=2)
    assert samples.shape == (1, 3, preset.size_px, preset.size_px)
    assert prior.vae.config.scaling_factor == preset.scaling_factor
    learnt, shipped = training.vae(), training.hardened_vae()
    assert learnt is not None and shipped is not None
    changed = {
        name.split(".")[0]
        for name, values in learnt.state_dict().items()
        if not torch.equal(values, shipped.state_dict()[name])
    }
    assert "encoder" in changed and changed <= {"encoder", "quant_conv"}
    assert torch.allclose(prior.vae.encoder.conv_in.weight, shipped.encoder.conv_in.weight, atol=1e-3)
    assert prior.read("a striped tiger, facing left").unknown == ()
    extractor = FeatureExtractor(str(tmp_path / "made" / "extractor"))
    assert extractor.model.dtype == torch.float32, "however it is stored"
    assert extractor(samples).patches.shape == (1, 256, 32)
    oracle = load_animal_oracle("cpu", tmp_path / "made" / "oracle" / "model.safetensors")
    assert oracle.pose_probs(samples).sum().item() == pytest.approx(1)
    stored = load_file(tmp_path / "made" / "prior" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {values.dtype for values in stored.values()} == {torch.float16}


def test_foreign_pictures_keep_their_place_and_lose_their_colors() -> None:
    """A gray square in the middle: its shape is still there, whatever else has changed."""
    images = torch.full((64, 3, 32, 32), 0.9)
    images[..., 8:24, 8:24] = 0.2
    for change in (recolor, foreign):
        changed = change(images, torch.Generator().manual_seed(1))
        assert torch.equal(changed, change(images, torch.Generator().manual_seed(1)))
        assert changed.min() >= 0 and changed.max() <= 1 and changed.shape == images.shape
        inside, around = changed[..., 12:20, 12:20].mean((2, 3)), changed[..., :6].mean((2, 3))
        # Two colors can become alike by chance.
        assert ((inside - around).norm(dim=1) > 0.1).float().mean() > 0.9
        spread = inside.std(1)
        assert (spread > 0.05).float().mean() > 0.5, "a gray square would be gray"


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_share_of_the_autoencoder_s_pictures_is_foreign(share: float) -> None:
    photos = (255 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))).byte()
    vae = new_vae(4, (8, 8), 32)
    drawn, noise = draw_pictures(vae, photos, 8, torch.Generator().manual_seed(3), share)
    plain = photos.float() / 127.5 - 1
    is_photo = [
        any(torch.allclose(each, way[0], atol=1e-6) for way in (plain, plain.flip(-1))) for each in drawn
    ]
    assert is_photo == [False] * round(share * 8) + [True] * (8 - round(share * 8))
    assert noise.shape == (8, 4, 16, 16)


def test_contrast_tells_a_picture_from_all_others() -> None:
    rows = torch.nn.functional.normalize(
        torch.randn(16, 8, generator=torch.Generator().manual_seed(4)), dim=-1
    )
    alike = rows[:1].expand(16, -1)
    assert contrast_loss(rows, rows) < 0.2 < contrast_loss(rows, rows.roll(1, 0))
    assert contrast_loss(alike, alike).item() == pytest.approx(math.log(16), abs=1e-4)


class Linear(nn.Module):
    """Latents are sums of pixels: the worst change is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight[:, None, None]).sum(1, keepdim=True)


def test_hardening_finds_the_change_that_moves_the_latents_most() -> None:
    """One pixel of two channels: a change of length 0.3 along the weights moves the latent by 0.3 √5. Half of the
    pictures are also there without a change."""
    encoder, images = Linear(), torch.zeros(2, 2, 1, 1)
    begin = 0.01 * encoder.weight.detach()[None, :, None, None].expand(2, -1, -1, -1)
    for radius in (0.0, 0.3):
        loss = hardening_loss(
            encoder, images, torch.zeros(2, 1, 1, 1), images, begin, torch.full((2, 1, 1, 1), radius)
        )
        assert loss.item() == pytest.approx(5 * radius**2 * 2 / 3, abs=1e-6)
    loss.backward()
    assert encoder.weight.grad is not None and (encoder.weight.grad * encoder.weight).sum() > 0
    assert not begin.requires_grad, "A recorded step copies the next one into it."


def test_a_hardened_encoder_is_moved_less_and_keeps_its_latents() -> None:
    torch.manual_seed(5)
    vae = new_vae(4, (8, 8), 16)
    teacher, student = Encoder(vae), Encoder(copy.deepcopy(vae))
    generator = torch.Generator().manual_seed(6)

    def errors() -> list[float]:
        """Without any change, and under noise and the worst change."""
        dice = torch.Generator().manual_seed(7)
        images, latents, disturbed, begin, radius = draw_disturbed(teacher, pictures(dice), dice)
        nothing = torch.zeros_like(begin)
        plain = hardening_loss(student, images, latents, images, nothing + 1e-6, 0 * radius)
        return [plain.item(), hardening_loss(student, images, latents, disturbed, begin, radius).item()]

    def pictures(dice: torch.Generator) -> Tensor:
        coarse = torch.rand(8, 3, 4, 4, generator=dice)
        return 2 * torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear") - 1

    before, optimizer = errors(), torch.optim.Adam(student.parameters(), 2e-3)
    spread = teacher(pictures(generator)).var().item()
    for _ in range(60):
        optimizer.zero_grad()
        hardening_loss(student, *draw_disturbed(teacher, pictures(generator), generator)).backward()
        optimizer.step()
    after = errors()
    assert before[0] < 1e-6 and after[1] < 0.8 * before[1] and after[0] < 0.5 * spread
