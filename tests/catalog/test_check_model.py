"""Each model of the true formats is described, or refused with its own sentence, from its headers alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recdreamer.catalog.check_model import check_model
from recdreamer.shared.protocol import RequestError

from . import models_on_disk as disk
from .refused import refusal

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return disk.sd_folder(tmp_path_factory.mktemp("models") / "base")


def test_a_folder_is_described(base: Path) -> None:
    model = check_model(base)
    assert (model.kind, model.family, model.prediction) == ("prior", "Stable Diffusion 1.x", "epsilon")
    assert (model.image_px, model.latent_channels, model.bits) == (64, 4, 32)
    weights = list(base.rglob("*.safetensors"))
    assert model.size == sum(file.stat().st_size for file in weights) and len(weights) == 3


def test_half_precision_alone_is_described(tmp_path: Path) -> None:
    model = check_model(disk.sd_folder(tmp_path / "half", "sd2", half=True, prediction="v_prediction"))
    assert model.variants == {"unet": "fp16", "vae": "fp16", "text_encoder": "fp16"}
    assert (model.family, model.prediction, model.bits) == ("Stable Diffusion 2.x", "v_prediction", 16)


def test_a_mixed_folder_takes_what_each_part_has(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "mixed"))
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(
        folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    )
    assert check_model(folder).variants == {"unet": "fp16", "vae": "", "text_encoder": ""}


def test_zero_terminal_snr_is_known(tmp_path: Path) -> None:
    folder = disk.sd_folder(tmp_path / "zero", prediction="v_prediction", zero_snr=True)
    assert check_model(folder).has_zero_terminal_snr
    epsilon = disk.changed(
        folder, tmp_path / "eps", "scheduler/scheduler_config.json", prediction_type="epsilon"
    )
    assert "no signal at the last timestep, but predicts the noise" in refusal(epsilon)


INDEX, UNET, SCHEDULER = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "values", "sentence"),
    [
        (INDEX, {"_class_name": "StableDiffusionXLPipeline"}, "is a Stable Diffusion XL model"),
        (INDEX, {"_class_name": "StableDiffusion3Pipeline"}, "is a Stable Diffusion 3 model"),
        (INDEX, {"_class_name": "FluxPipeline"}, "is a FLUX model"),
        (INDEX, {"_class_name": "Flux2KleinPipeline"}, "is a FLUX model"),
        (INDEX, {"_class_name": "LatentConsistencyModelPipeline"}, "is a latent consistency model"),
        (INDEX, {"_class_name": "StableDiffusionInpaintPipeline"}, "is an inpainting model"),
        (INDEX, {"_class_name": "StableDiffusionInstructPix2PixPipeline"}, "is an image-editing model"),
        (INDEX, {"_class_name": "StableDiffusionUpscalePipeline"}, "is an upscaler"),
        (INDEX, {"_class_name": "StableDiffusionDepth2ImgPipeline"}, "is a depth-to-image model"),
        (INDEX, {"_class_name": "StableUnCLIPPipeline"}, "is an unCLIP model"),
        (INDEX, {"_class_name": "ZImagePipeline"}, "is a flow model"),
        (INDEX, {"_class_name": "KandinskyPipeline"}, r"not a Stable Diffusion 1.x or 2.x model (KandinskyPipeline)"),
        (INDEX, {"_class_name": None}, "is not a Stable Diffusion"),
        (INDEX, {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "is a flow model"),
        (INDEX, {"scheduler": ["diffusers", "LCMScheduler"]}, "is a latent consistency model"),
        (INDEX, {"scheduler": ["diffusers", "MyScheduler"]}, "has an unknown noise schedule (MyScheduler)"),
        (INDEX, {"scheduler": [None, None]}, "names no scheduler"),
        (INDEX, {"unet": ["pipeline", "MyUNet"]}, "needs code of its own for its unet (pipeline)"),
        (INDEX, {"unet": ["diffusers", "UNetMotionModel"]}, "has a UNetMotionModel where"),
        (INDEX, {"text_encoder": ["transformers", "T5EncoderModel"]}, "has a T5EncoderModel where"),
        (INDEX, {"_name_or_path": "stabilityai/sd-turbo"}, "a distilled model of few steps (turbo)"),
        (UNET, {"in_channels": 9}, "is an inpainting model: its U-Net takes 9 channels"),
        (UNET, {"in_channels": 8}, "is an image-editing model: its U-Net takes 8 channels"),
        (UNET, {"in_channels": 5}, "is a depth-to-image model: its U-Net takes 5 channels"),
        (UNET, {"in_channels": 7}, "is an upscaler: its U-Net takes 7 channels"),
        (UNET, {"out_channels": 8}, "takes 4 channels and gives 8"),
        (UNET, {"addition_embed_type": "text_time"}, "is a Stable Diffusion XL model"),
        (UNET, {"addition_embed_type": "image"}, "has a U-Net with another input (addition_embed_type: image)"),
        (UNET, {"encoder_hid_dim": 4096}, "has a U-Net with another input (encoder_hid_dim: 4096)"),
        (UNET, {"time_cond_proj_dim": 256}, "is a latent consistency model"),
        (UNET, {"class_embed_type": "projection"}, "is an unCLIP model"),
        (UNET, {"cross_attention_dim": 768}, "its text encoder is 16 wide, but its U-Net takes 768"),
        (UNET, {"_name_or_path": "SimianLuo/LCM_Dreamshaper_v7"}, "a distilled model of few steps (lcm)"),
        ("vae/config.json", {"shift_factor": 0.1}, "has an autoencoder with shifted latents"),
        (SCHEDULER, {"prediction_type": "sample"}, "predicts sample"),
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "is a flow model"),
        (SCHEDULER, {"use_flow_sigmas": True}, "is a flow model"),
        (SCHEDULER, {"_class_name": "TCDScheduler"}, "is a latent consistency model"),
        (SCHEDULER, {"_class_name": "FlowMatchHeunDiscreteScheduler"}, "is a flow model"),
    ],
)  # fmt: skip
def test_a_folder_of_another_kind_is_refused_by_name(
    file: str, values: dict[str, Any], sentence: str, base: Path, tmp_path: Path
) -> None:
    message = refusal(disk.changed(base, tmp_path / "other kind", file, **values))
    assert message.startswith("other kind") or "of other kind" in message
    assert sentence in message


@pytest.mark.parametrize(
    "name", ["sd-turbo", "DreamShaper_8_LCM", "sdxs-512-0.9", "Hyper-SD15-merge", "toon 8-steps"]
)
def test_a_distilled_model_is_refused_by_its_name(name: str, base: Path, tmp_path: Path) -> None:
    assert "distilled" in refusal(Path(shutil.copytree(base, tmp_path / name)))


def test_in_a_cache_the_repository_is_the_name(base: Path, tmp_path: Path) -> None:
    snapshot = disk.cached(tmp_path / "hub", "stabilityai/sd-turbo", base)
    assert refusal(snapshot).startswith("stabilityai/sd-turbo is by its name a distilled model")


def write_pickle(folder: Path, name: str) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / name).write_bytes(b"PK\x03\x04")


BREAKS = {
    "pickles": (
        lambda folder: write_pickle(folder, "diffusion_pytorch_model.bin"),
        "has its weights as pickles (unet/diffusion_pytorch_model.bin)",
    ),
    "another variant": (
        lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").rename(
            folder / "unet/diffusion_pytorch_model.non_ema.safetensors"
        ),
        "in a version that is not read (unet/diffusion_pytorch_model.non_ema.safetensors)",
    ),
    "no weights": (
        lambda folder: (folder / "vae/diffusion_pytorch_model.safetensors").unlink(),
        "is not complete: vae/diffusion_pytorch_model.safetensors is missing",
    ),
    "no configuration": (lambda folder: (folder / UNET).unlink(), "unet/config.json is missing"),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "its tokenizer is missing"),
    "damaged JSON": (lambda folder: (folder / UNET).write_text("{"), "unet/config.json cannot be read"),
    "a list": (lambda folder: (folder / UNET).write_text("[]"), "unet/config.json cannot be read"),
    "deep JSON": (
        lambda folder: (folder / UNET).write_text("[" * 200_000),
        "unet/config.json cannot be read",
    ),
    "not text": (
        lambda folder: (folder / UNET).write_bytes(b"\xff\xfe\x00"),
        "unet/config.json cannot be read",
    ),
    "cut short": (
        lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(
            (folder / "unet/diffusion_pytorch_model.safetensors").read_bytes()[:-100_000]
        ),
        "diffusion_pytorch_model.safetensors is cut short",
    ),
    "a missing shard": (
        lambda folder: (
            (folder / "unet/diffusion_pytorch_model.safetensors").unlink(),
            (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}})
            ),
        ),
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors is missing",
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_a_folder_that_is_not_complete_is_refused_by_name(case: str, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "broken"))
    harm, sentence = BREAKS[case]
    harm(folder)
    assert sentence in refusal(folder)


def test_folders_without_a_model_are_refused_with_a_remedy(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no model_index.json" in refusal(tmp_path / "empty")
    shutil.copytree(base, tmp_path / "many" / "toon")
    with pytest.raises(RequestError, match="Choose toon in it"):
        check_model(tmp_path / "many")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "toon.safetensors").touch()
    with pytest.raises(RequestError, match=r"Choose one: toon\.safetensors"):
        check_model(tmp_path / "files")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "toon.ckpt").touch()
    assert "has only pickles (toon.ckpt)" in refusal(tmp_path / "old")
    assert "There is no model" in refusal(tmp_path / "gone")
    assert refusal(tmp_path / "empty", "extractor") == "empty is not a pose extractor: it has no config.json."


def test_the_other_kinds_are_described(tmp_path: Path) -> None:
    extractor, decoder = disk.dinov2_folder(tmp_path / "dino"), disk.taesd_folder(tmp_path / "taesd")
    assert check_model(extractor, "extractor").family == "DINOv2"
    assert check_model(decoder, "decoder").latent_channels == 4
    assert check_model(ROOT / "backend/recdreamer/builtin/clip").kind == "classifier"
    assert refusal(extractor, "prior") == "dino is a pose extractor, not an image model."
    (extractor / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json is missing" in refusal(extractor)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    assert "a single network (BertForMaskedLM) that has no place here" in refusal(tmp_path / "bert")


def test_nothing_is_loaded_to_check_a_model() -> None:
    script = (
        "import sys; from recdreamer.catalog.check_model import check_model; "
        "check_model('backend/recdreamer/builtin/prior'); "
        "assert not {'torch', 'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, env={"PYTHONPATH": str(ROOT / "backend")}
    )
