"""Single files of the true sizes are described, or refused with their own sentence. On the disk they are nearly empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from recdreamer.catalog import single_file as single_file_module
from recdreamer.catalog.check_model import check_model
from recdreamer.catalog.headers import read_header

from . import models_on_disk as disk
from .refused import refusal

CONFIGURATIONS = single_file_module.CONFIGURATIONS


@pytest.fixture(scope="module")
def shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of single files of the true size, by family."""
    return {family: disk.true_shapes(CONFIGURATIONS / family) for family in ("sd1", "sd2")}


@pytest.mark.parametrize(
    ("family", "metadata", "prediction", "image_px"),
    [
        ("sd1", {}, "", 512),
        ("sd2", {}, "", 0),
        ("sd2", {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction", 768),
        ("sd2", {"modelspec.prediction_type": "epsilon"}, "epsilon", 512),
        ("sd2", {"modelspec.prediction_type": "v", "modelspec.resolution": "640x640"}, "v_prediction", 640),
        ("sd1", {"modelspec.prediction_type": "v"}, "v_prediction", 512),
    ],
)
def test_single_files_of_the_true_size_are_described(
    family: str, metadata: dict[str, str], prediction: str, image_px: int, shapes: dict, tmp_path: Path
) -> None:
    path = disk.sparse_file(tmp_path / "toon.safetensors", shapes[family], **metadata)
    model = check_model(path)
    assert model.family == single_file_module.FAMILIES[family] and model.bits == 16
    assert (model.prediction, model.image_px) == (prediction, image_px)
    assert model.configuration == CONFIGURATIONS / family
    assert model.size > 2e9


def test_a_configuration_beside_the_file_tells_what_it_predicts(shapes: dict, tmp_path: Path) -> None:
    path = disk.sparse_file(tmp_path / "toon.safetensors", shapes["sd2"])
    path.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert check_model(path).prediction == "v_prediction"
    path.with_suffix(".yaml").write_text("model:\n  params: {}\n")
    assert check_model(path).prediction == "epsilon"


def test_markers_tell_of_v_and_of_zero_terminal_snr(shapes: dict, tmp_path: Path) -> None:
    path = disk.sparse_file(tmp_path / "a.safetensors", shapes["sd1"] | {"v_pred": (0,), "ztsnr": (0,)})
    model = check_model(path)
    assert (model.prediction, model.has_zero_terminal_snr) == ("v_prediction", True)


U = "model.diffusion_model."
FOREIGN = {
    "SDXL": (
        {"conditioner.embedders.1.model.positional_embedding": (77, 1280)},
        "is a Stable Diffusion XL model",
    ),
    "SD3": (
        {f"{U}joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,)},
        "is a Stable Diffusion 3 model",
    ),
    "FLUX": ({"double_blocks.0.img_attn.norm.key_norm.scale": (128,)}, "is a FLUX model"),
    "Z-Image": ({f"{U}layers.0.adaLN_modulation.0.weight": (9, 9)}, "is a flow model"),
    "Wan": ({"blocks.0.cross_attn.k.weight": (9, 9)}, "is a flow model"),
    "LoRA": ({"lora_unet_mid_block.lora_down.weight": (4, 9)}, "is a LoRA"),
    "PEFT LoRA": ({"unet.mid_block.to_q.lora_A.weight": (4, 9)}, "is a LoRA"),
    "ControlNet": ({"control_model.time_embed.0.weight": (9, 9)}, "is a ControlNet"),
    "embedding": ({"emb_params": (4, 768)}, "is a textual inversion"),
    "AnimateDiff": (
        {"down_blocks.0.motion_modules.0.temporal_transformer.norm.bias": (9,)},
        "is a video model",
    ),
    "U-Net": ({"down_blocks.0.resnets.0.conv1.weight": (9, 9, 3, 3)}, "holds a U-Net only"),
    "VAE": ({"decoder.conv_in.weight": (512, 4, 3, 3)}, "is an autoencoder (VAE) only"),
    "text encoder": ({"text_model.final_layer_norm.bias": (768,)}, "is a text encoder only"),
    "another": ({"layer.weight": (3, 3)}, "is not a Stable Diffusion 1.x or 2.x model"),
    "nothing": ({}, "is not a Stable Diffusion 1.x or 2.x model"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_single_file_of_another_kind_is_refused_by_name(case: str, tmp_path: Path) -> None:
    tensors, sentence = FOREIGN[case]
    message = refusal(disk.sparse_file(tmp_path / "some model.safetensors", tensors))
    assert message.startswith("some model.safetensors") and sentence in message


CHANGES = {
    "inpainting": ({f"{U}input_blocks.0.0.weight": (320, 9, 3, 3)}, "is an inpainting model"),
    "editing": ({f"{U}input_blocks.0.0.weight": (320, 8, 3, 3)}, "is an image-editing model"),
    "depth": ({f"{U}input_blocks.0.0.weight": (320, 5, 3, 3)}, "is a depth-to-image model"),
    "LCM": ({f"{U}time_embed.cond_proj.weight": (320, 256)}, "is a latent consistency model"),
    "unCLIP": ({f"{U}label_emb.0.0.weight": (1280, 2048)}, "is an unCLIP model"),
    "smaller": ({f"{U}input_blocks.0.0.weight": (256, 4, 3, 3)}, "of other sizes"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_single_file_with_another_input_is_refused_by_name(case: str, shapes: dict, tmp_path: Path) -> None:
    tensors, sentence = CHANGES[case]
    assert sentence in refusal(disk.sparse_file(tmp_path / "x.safetensors", shapes["sd1"] | tensors))


@pytest.mark.parametrize(
    ("without", "sentence"),
    [
        ("first_stage_model.", "has no autoencoder (VAE)"),
        ("cond_stage_model.", "has no text encoder"),
        (f"{U}output_blocks.11.", "of other sizes"),
    ],
)
def test_a_single_file_that_lacks_a_part_is_refused_by_name(
    without: str, sentence: str, shapes: dict, tmp_path: Path
) -> None:
    rest = {name: shape for name, shape in shapes["sd1"].items() if not name.startswith(without)}
    assert sentence in refusal(disk.sparse_file(tmp_path / "x.safetensors", rest))


def test_distilled_and_quantized_single_files_are_refused(shapes: dict, tmp_path: Path) -> None:
    turbo = disk.sparse_file(tmp_path / "sd_turbo.safetensors", shapes["sd2"])
    assert "distilled model of few steps (turbo)" in refusal(turbo)
    titled = disk.sparse_file(tmp_path / "a.safetensors", shapes["sd1"], **{"modelspec.title": "Toon LCM"})
    assert "distilled" in refusal(titled)
    eight = disk.sparse_file(tmp_path / "b.safetensors", shapes["sd1"], "F8_E4M3")
    assert "is quantized to 8 bits" in refusal(eight)
    zero = disk.sparse_file(
        tmp_path / "c.safetensors",
        shapes["sd1"] | {"ztsnr": (0,)},
        **{"modelspec.prediction_type": "epsilon"},
    )
    assert "has no signal at the last timestep" in refusal(zero)


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "pth", "bin", "pkl"])
def test_pickles_are_refused_by_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"toon.{suffix}"
    path.write_bytes(b"PK\x03\x04 a zip")
    assert f"toon.{suffix} is a pickle (.{suffix}), which can run any program" in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.gguf", b"GGUF", "is in the format GGUF"),
        ("a.onnx", b"", "is in the format ONNX"),
        ("a.txt", b"", "is not a model file"),
        ("a.safetensors", b"PK\x03\x04" + bytes(99), "is a pickle, whatever its name says"),
        ("a.safetensors", b"\x80\x02}q\x00" + bytes(99), "is a pickle, whatever its name says"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        ("a.safetensors", b"<!DOCTYPE html><html>", "is a web page"),
        ("a.safetensors", b"\n<html>Not found</html>", "is a web page"),
        ("a.safetensors", b"", "is not a .safetensors file"),
        ("a.safetensors", b"\x00" * 8, "is not a .safetensors file"),
        ("a.safetensors", b"\xff" * 64, "is not a .safetensors file"),
        ("a.safetensors", (1000).to_bytes(8, "little") + b"{}", "ends within its header"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"[]", "is not a .safetensors file"),
        ("a.safetensors", (9).to_bytes(8, "little") + b'{"a": 10}', "is not a .safetensors file"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"{}xx", "longer than its header says"),
    ],
)  # fmt: skip
def test_other_files_are_refused_by_what_they_are(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert sentence in refusal(tmp_path / name)


def test_an_interrupted_download_of_a_single_file_is_recognized_by_its_length(
    shapes: dict, tmp_path: Path
) -> None:
    path = disk.sparse_file(tmp_path / "x.safetensors", shapes["sd1"])
    with path.open("r+b") as stream:
        stream.truncate(10**9)
    assert refusal(path) == "x.safetensors is cut short: 1,000.0 of 2,132.6 MB are there."


def test_headers_are_read_alone(shapes: dict, tmp_path: Path) -> None:
    header = read_header(disk.sparse_file(tmp_path / "x.safetensors", shapes["sd2"], "F32"))
    assert header.bits == 32 and len(header.shapes) == len(shapes["sd2"])
