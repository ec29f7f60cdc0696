"""Novel views by a tiny model of the real classes, in the folder format that the real ones come in."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from recdreamer.pose.novel_views import OBJECT_SHARE, NovelViews, framed, pose_vectors, write_views
from recdreamer.pose.templates import BACKGROUND, PoseTemplate, load_templates
from recdreamer.report import JobError
from recdreamer.shared.protocol import JobFolder, RequestError, Template

SIDES_DEG = [0.0, 90.0, 180.0, 270.0]
EMBEDDING, WIDTH, LATENT, SCALING = 12, 16, 4, 0.3


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero123")
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8, in_channels=2 * LATENT, out_channels=LATENT, block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=WIDTH, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    AutoencoderKL(
        block_out_channels=(8, 16), latent_channels=LATENT, norm_num_groups=4, scaling_factor=SCALING,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(folder / "vae")  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32,
        patch_size=8, projection_dim=EMBEDDING,
    )  # fmt: skip
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False,
        clip_sample=True, steps_offset=0,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    (folder / "feature_extractor").mkdir()
    prepare = {
        "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "crop_size": {"height": 32, "width": 32}
    }  # fmt: skip
    (folder / "feature_extractor/preprocessor_config.json").write_text(json.dumps(prepare))
    write_projection(folder, "clip_camera_projection", "proj")
    index = {"_class_name": "Zero123Pipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_projection(folder: Path, part: str, layer: str, numbers: int = EMBEDDING + 4) -> None:
    (folder / part).mkdir()
    (folder / part / "config.json").write_text(json.dumps({"embedding_dim": EMBEDDING}))
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"{layer}.weight": torch.randn(WIDTH, numbers, generator=generator),
        f"{layer}.bias": torch.randn(WIDTH, generator=generator),
    }
    save_file(tensors, folder / part / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def model(model_folder: Path) -> NovelViews:
    return NovelViews.load(model_folder, "cpu", torch.float32)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))


def views(model: NovelViews, image: torch.Tensor, seed: int = 0, **options: object) -> torch.Tensor:
    azimuths_deg = options.pop("azimuths_deg", [90.0, 180.0])
    options = {"num_steps": 4, **options}
    return model.views(image, azimuths_deg, torch.Generator().manual_seed(seed), **options)


def test_the_way_of_the_camera_in_the_models_numbers() -> None:
    found = pose_vectors([*SIDES_DEG, 30.0], 30.0, 0.0, 10.0)
    polar = -math.radians(20)  # 20° higher is 20° nearer to the zenith
    expected = [
        [polar, 0, 1, 0], [polar, 1, 0, 0], [polar, 0, -1, 0], [polar, -1, 0, 0],
        [polar, 0.5, math.sqrt(0.75), 0],
    ]  # fmt: skip
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)
    # Only the difference counts, and a whole turn is none.
    assert torch.allclose(pose_vectors([100.0], 5.0, 460.0, 5.0), torch.tensor([[0.0, 0, 1, 0]]), atol=1e-5)


def test_the_azimuth_is_that_of_cameras_in_blenders_world() -> None:
    """The model was trained on atan2(y, x) of camera positions: the same sense of turning as ours."""
    for azimuth_deg, position in zip(SIDES_DEG, ((0, -1), (1, 0), (0, 1), (-1, 0)), strict=True):
        theirs = math.atan2(position[1], position[0]) - math.atan2(-1, 0)
        _, sin, cos, _ = pose_vectors([azimuth_deg], 0.0, 0.0, 0.0)[0].tolist()
        assert (sin, cos) == pytest.approx((math.sin(theirs), math.cos(theirs)), abs=1e-6)


def test_views_are_pictures_of_the_models_size_and_the_seed_decides(
    model: NovelViews, image: torch.Tensor
) -> None:
    first, again, other = (views(model, image, seed) for seed in (0, 0, 1))
    assert first.shape == (2, 3, 16, 16) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)


def test_sampling_is_what_the_pipelines_do(
    model: NovelViews, model_folder: Path, image: torch.Tensor
) -> None:
    """Written out once more from the papers: DDIM, unscaled latents beside the noise, zeros as the null condition."""
    unet, vae = model.unet, model.vae
    weights = load_file(model_folder / "clip_camera_projection/diffusion_pytorch_model.safetensors")
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    large = torch.nn.functional.interpolate(image[None], (32, 32), mode="bicubic", antialias=True)
    with torch.no_grad():
        embedding = model.image_encoder((large - mean) / std).image_embeds
        pose = torch.tensor([[0.0, 1, 0, 0]])
        context = torch.cat([embedding, pose], 1) @ weights["proj.weight"].T + weights["proj.bias"]
        beside = vae.encode(2 * image[None] - 1).latent_dist.mode()
        latents = torch.randn(1, LATENT, 8, 8, generator=torch.Generator().manual_seed(5))
        alphas_cumprod = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
        for t in (751, 501, 251, 1):
            conditional = unet(torch.cat([latents, beside], 1), t, context[:, None]).sample
            nothing = unet(
                torch.cat([latents, torch.zeros_like(beside)], 1), t, torch.zeros_like(context)[:, None]
            ).sample
            eps = nothing + 3 * (conditional - nothing)
            now, then = alphas_cumprod[t], alphas_cumprod[max(t - 250, 0)]
            x0_hat = (latents - (1 - now).sqrt() * eps) / now.sqrt()
            latents = then.sqrt() * x0_hat + (1 - then).sqrt() * eps
        expected = (vae.decode(latents / SCALING).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(views(model, image, 5, azimuths_deg=[90.0]), expected, atol=1e-4)


def test_guidance_1_is_the_conditional_answer_alone(model: NovelViews, image: torch.Tensor) -> None:
    alone = views(model, image, guidance_scale=1.0)
    assert torch.allclose(alone, views(model, image, guidance_scale=1.0 + 1e-6), atol=1e-4)
    assert not torch.allclose(alone, views(model, image), atol=1e-3)
    calls = []
    handle = model.unet.register_forward_hook(lambda *_: calls.append(1))
    views(model, image, guidance_scale=1.0)
    handle.remove()
    assert len(calls) == 4


def test_picture_and_pose_matter(model: NovelViews, image: torch.Tensor) -> None:
    plain = views(model, image)
    assert not torch.allclose(plain, views(model, 1 - image), atol=1e-3)
    assert not torch.allclose(plain, views(model, image, azimuths_deg=[0.0, 180.0])[:2], atol=1e-3)
    # The way from 90° to 180° is that from 0° to 90°.
    moved = views(model, image, azimuths_deg=[180.0, 270.0], from_azimuth_deg=90.0)
    assert torch.allclose(plain, moved, atol=1e-4)


@pytest.mark.parametrize("left_out", ["_image_latents", "_context"])
def test_either_half_of_the_condition_matters(
    left_out: str, model: NovelViews, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: with a half of the condition put out, the view is another."""
    plain = views(model, image)
    kept = getattr(NovelViews, left_out)
    monkeypatch.setattr(NovelViews, left_out, lambda *given: torch.zeros_like(kept(*given)))
    assert not torch.allclose(plain, views(model, image), atol=1e-3)


def test_progress_is_reported_and_can_stop_the_work(model: NovelViews, image: torch.Tensor) -> None:
    told: list[tuple[int, int]] = []
    views(model, image, tick=lambda step, total: told.append((step, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(step: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        views(model, image, tick=stop)
    for steps in (0, 1001):
        with pytest.raises(RequestError, match=f"{steps} steps"):
            views(model, image, num_steps=steps)


def test_half_precision_runs_and_agrees(model: NovelViews, model_folder: Path, image: torch.Tensor) -> None:
    half = NovelViews.load(model_folder, "cpu", torch.bfloat16)
    assert half.unet.dtype == half.vae.dtype == half.image_encoder.dtype == torch.bfloat16
    found = views(half, image)
    assert found.dtype == torch.float32 and (found - views(model, image)).abs().mean() < 0.05


def test_the_object_is_framed_as_in_training_on_white() -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, 4:24, 10:20] = 1
    red = torch.tensor([1.0, 0, 0])[:, None, None]
    found = framed(PoseTemplate("front", red * mask + BACKGROUND * (1 - mask), mask, None))
    ink = found[1] < 0.5
    rows, columns = ink.any(1).nonzero()[:, 0], ink.any(0).nonzero()[:, 0]
    assert len(rows) == OBJECT_SHARE * 64 == 50 and len(columns) == 25
    assert (rows[0] + rows[-1] + 1) / 2 == 32 and abs((columns[0] + columns[-1] + 1) / 2 - 32) <= 0.5
    assert found[:, 0, 0].tolist() == [1, 1, 1] and found[:, 32, 32].tolist() == pytest.approx([1, 0, 0])


def test_a_picture_without_alpha_stays_as_it_is(image: torch.Tensor) -> None:
    assert torch.equal(framed(PoseTemplate("front", image, None, None)), image)


@pytest.mark.parametrize(
    ("azimuth_deg", "own"), [(None, "front"), (0.0, "front"), (-90.0, "left"), (180.0, "back"), (30.0, None)]
)
def test_four_templates_and_their_gallery(
    azimuth_deg: float | None, own: str | None, model: NovelViews, image: torch.Tensor, tmp_path: Path
) -> None:
    picture = PoseTemplate("front", image, None, azimuth_deg)
    generator = torch.Generator().manual_seed(3)
    templates = write_views(tmp_path, model, picture, generator, elevation_deg=15.0, num_steps=2)
    assert [t.label for t in templates] == ["front", "right", "back", "left"]
    assert [t.azimuth_deg for t in templates] == SIDES_DEG
    assert {t.label for t in templates if t.source == "file"} == ({own} if own else set())
    names = ["front-0.png", "right-0.png", "back-0.png", "left-0.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "gallery.json"])
    samples = json.loads((tmp_path / "gallery.json").read_text())["samples"]
    assert samples == [
        {"image": name, "label": t.label, "share": 1.0, "azimuth_deg": t.azimuth_deg, "elevation_deg": 15.0}
        for name, t in zip(names, templates, strict=True)
    ]
    drawn = [t for t in templates if t.label != own]
    expected = model.views(
        image, [t.azimuth_deg for t in drawn], torch.Generator().manual_seed(3),
        from_azimuth_deg=azimuth_deg or 0.0, num_steps=2,
    )  # fmt: skip
    pictures = dict(zip((t.label for t in drawn), expected, strict=True))
    for template in templates:
        written = np.asarray(Image.open(tmp_path / template.image)) / 255
        wanted = pictures.get(template.label, image).permute(1, 2, 0).numpy()
        assert np.abs(written - wanted).max() <= 0.5 / 255 + 1e-6
    assert len(load_templates(JobFolder(tmp_path), templates, 16)) == 4


def test_the_other_pipelines_folder_and_half_precision_files(
    model: NovelViews, model_folder: Path, image: torch.Tensor, tmp_path: Path
) -> None:
    other = shutil.copytree(model_folder, tmp_path / "kxic")
    shutil.rmtree(other / "clip_camera_projection")
    write_projection(other, "cc_projection", "projection")
    assert torch.equal(views(NovelViews.load(other, "cpu", torch.float32), image), views(model, image))
    for path in other.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert torch.equal(views(NovelViews.load(other, "cpu", torch.float32), image), views(model, image))


def test_a_conversion_that_claims_a_larger_size_is_used_at_that_of_training(
    model: NovelViews, model_folder: Path, tmp_path: Path
) -> None:
    assert model.image_px == 16
    other = shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((other / "unet/config.json").read_text())
    (other / "unet/config.json").write_text(json.dumps({**config, "sample_size": 256}))
    assert NovelViews.load(other, "cpu", torch.float32).image_px == 256


def other_projection(folder: Path) -> None:
    shutil.rmtree(folder / "clip_camera_projection")
    write_projection(folder, "clip_camera_projection", "proj", EMBEDDING + 18)


def pickled_projection(folder: Path) -> None:
    path = folder / "clip_camera_projection/diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def text_unet(folder: Path) -> None:
    """A Stable Diffusion unet: it sees no picture."""
    shutil.rmtree(folder / "unet")
    UNet2DConditionModel(
        sample_size=8, in_channels=LATENT, out_channels=LATENT, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=WIDTH, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip


DAMAGE = {
    "no folder": (shutil.rmtree, "model_index.json"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
    "no encoder": (lambda f: shutil.rmtree(f / "image_encoder"), "image_encoder"),
    "no projection": (lambda f: shutil.rmtree(f / "clip_camera_projection"), "clip_camera_projection"),
    "pickled projection": (pickled_projection, "has no diffusion_pytorch_model.safetensors"),
    "pickled unet": (
        lambda f: (f / "unet/diffusion_pytorch_model.safetensors").rename(
            f / "unet/diffusion_pytorch_model.bin"
        ),
        "safetensors",
    ),
    "another projection": (other_projection, "maps 30 to 16, not 16 to 16"),
    "a unet without picture": (text_unet, "takes 4 channels"),
    "truncated": (
        lambda f: (f / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"1234"),
        "not a Zero",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_multi_view_model_is_refused_in_one_sentence(
    damage: str, model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    spoil, reason = DAMAGE[damage]
    spoil(folder)
    with pytest.raises(JobError, match="is not a Zero-1-to-3 model") as caught:
        NovelViews.load(folder, "cpu", torch.float32)
    assert caught.value.kind == "novel_views" and reason in caught.value.message
    assert "\n" not in caught.value.message and "safetensors" in caught.value.hint


def test_a_template_of_a_file_goes_all_the_way(model: NovelViews, tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[10:30, 20:30] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "bear.png")
    (picture,) = load_templates(JobFolder(tmp_path), (Template("front", "bear.png"),), 32)
    write_views(tmp_path / "out", model, picture, torch.Generator().manual_seed(0), num_steps=1)
    front = np.asarray(Image.open(tmp_path / "out/front-0.png"))
    assert front[0, 0].tolist() == [255, 255, 255] and front[16, 16].tolist() == [255, 0, 0]
