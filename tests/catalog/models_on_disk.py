"""Models in the true formats, with small networks of the true classes and random weights."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from recdreamer.prior.pipeline import PAD_TOKENS, clip_tokenizer

WIDTH = 16
"""Of the text embedding."""
UNET: dict[str, Any] = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 8,
    "block_out_channels": (8, 16, 16, 16), "cross_attention_dim": WIDTH, "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
VAE: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "sample_size": 64,
    "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "scaling_factor": 0.18215,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 77, "projection_dim": WIDTH,
}  # fmt: skip
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
}  # fmt: skip


def sd_folder(
    folder: Path,
    family: str = "sd1",
    *,
    half: bool = False,
    prediction: str = "epsilon",
    zero_snr: bool = False,
) -> Path:
    """A pipeline of Stable Diffusion as diffusers saves it; `half` as downloads of the variant fp16 are."""
    torch.manual_seed(0)
    linear = {"use_linear_projection": True} if family == "sd2" else {}
    parts = (
        ("unet", UNet2DConditionModel(**UNET, **linear)),
        ("vae", AutoencoderKL(**VAE)),
        ("text_encoder", CLIPTextModel(CLIPTextConfig(**TEXT))),
    )
    for name, part in parts:
        (part.half() if half else part).save_pretrained(folder / name, variant="fp16" if half else None)
    clip_tokenizer(PAD_TOKENS[family]).save_pretrained(folder / "tokenizer")
    DDIMScheduler(
        **SCHEDULER, prediction_type=prediction, rescale_betas_zero_snr=zero_snr, steps_offset=1,
        clip_sample=False, set_alpha_to_one=False,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    index = {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "safety_checker": [None, None], "feature_extractor": [None, None],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def changed(source: Path, folder: Path, file: str, **values: Any) -> Path:
    """A copy of a model in which some values of a JSON file are others."""
    shutil.copytree(source, folder)
    raw = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(raw | values))
    return folder


def dinov2_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=224,
        num_register_tokens=4,
    )  # fmt: skip
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    prepare = {
        "crop_size": {"height": 224, "width": 224},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(prepare))
    return folder


def taesd_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its name in a repository."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


def cached(cache: Path, repo: str, folder: Path, commit: str = "0" * 40) -> Path:
    """The snapshot of a repository in a Hugging Face cache, with the files of a folder behind links as there."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    (root / "blobs").mkdir()
    for number, (name, content) in enumerate(files_of(folder).items()):
        blob, link = root / "blobs" / str(number), root / "snapshots" / commit / name
        blob.write_bytes(content)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return root / "snapshots" / commit


def single_file(
    folder: Path, path: Path, family: str = "sd1", metadata: dict[str, str] | None = None
) -> Path:
    """The model of a folder as one file in the layout of the original repositories."""
    tensors = original_names(
        UNet2DConditionModel.from_pretrained(folder / "unet").state_dict(),
        AutoencoderKL.from_pretrained(folder / "vae").state_dict(),
        CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict(),
        family,
    )
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def configurations(folder: Path, root: Path, family: str) -> Path:
    """The settings of a folder's parts where those of a family are looked for."""
    for name in (
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ):
        (root / family / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, root / family / name)
    return root


def sparse_file(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F16", **metadata: str) -> Path:
    """A .safetensors file of any size whose tensors are holes: only its header takes space on the disk."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end, bytes_each = 0, {"F16": 2, "F32": 4, "F8_E4M3": 1}[dtype]
    for name, shape in shapes.items():
        begin, end = end, end + bytes_each * int(torch.Size(shape).numel())
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    return path


def true_shapes(configuration: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a single file of the true size of a family."""
    with torch.device("meta"):
        parts = [
            kind.from_config(json.loads((configuration / part / "config.json").read_text()))
            for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
        ]
        text = CLIPTextModel(
            CLIPTextConfig(**json.loads((configuration / "text_encoder/config.json").read_text()))
        )
    tensors = original_names(*(part.state_dict() for part in (*parts, text)), configuration.name)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def original_names(
    unet: dict[str, Any], vae: dict[str, Any], text: dict[str, Any], family: str
) -> dict[str, Any]:
    """The tensors of the three parts under the names that the original repositories gave them."""
    named = {f"model.diffusion_model.{_unet_name(name)}": tensor for name, tensor in unet.items()}
    for name, tensor in vae.items():
        is_flat = "mid_block.attentions" in name and name.endswith(".weight") and "group_norm" not in name
        named[f"first_stage_model.{_vae_name(name)}"] = tensor[:, :, None, None] if is_flat else tensor
    if family == "sd1":
        prefix = "cond_stage_model.transformer.text_model."
        return named | {prefix + name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    return named | _open_clip(text)


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for pattern, other in pairs:
        name = re.sub(pattern, other, name)
    return name


def _unet_name(name: str) -> str:
    def down(found: re.Match[str]) -> str:
        return f"input_blocks.{3 * int(found[1]) + int(found[3]) + 1}.{int(found[2] == 'attentions')}."

    def up(found: re.Match[str]) -> str:
        return f"output_blocks.{3 * int(found[1]) + int(found[3])}.{int(found[2] == 'attentions')}."

    name = re.sub(r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)\.", down, name)
    name = re.sub(r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)\.", up, name)
    name = re.sub(
        r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda found: f"input_blocks.{3 * int(found[1]) + 3}.0.op", name
    )  # fmt: skip
    name = re.sub(
        r"^up_blocks\.(\d)\.upsamplers\.0\.conv",
        lambda found: f"output_blocks.{3 * int(found[1]) + 2}.{1 if found[1] == '0' else 2}.conv",
        name,
    )
    is_resnet = re.match(r"(in|out)put_blocks\.\d+\.0\.|mid_block\.resnets", name)
    name = _renamed(
        name,
        (
            (r"^mid_block\.resnets\.0", "middle_block.0"),
            (r"^mid_block\.attentions\.0", "middle_block.1"),
            (r"^mid_block\.resnets\.1", "middle_block.2"),
            (r"^time_embedding\.linear_1", "time_embed.0"),
            (r"^time_embedding\.linear_2", "time_embed.2"),
            (r"^conv_in", "input_blocks.0.0"),
            (r"^conv_norm_out", "out.0"),
            (r"^conv_out", "out.2"),
        ),
    )
    if is_resnet:
        name = _renamed(
            name,
            (
                (r"\.norm1\.", ".in_layers.0."),
                (r"\.conv1\.", ".in_layers.2."),
                (r"\.norm2\.", ".out_layers.0."),
                (r"\.conv2\.", ".out_layers.3."),
                (r"\.time_emb_proj\.", ".emb_layers.1."),
                (r"\.conv_shortcut\.", ".skip_connection."),
            ),
        )
    return name


def _vae_name(name: str) -> str:
    name = re.sub(
        r"up_blocks\.(\d)\.", lambda found: f"up.{3 - int(found[1])}.", name.replace("down_blocks.", "down.")
    )
    return _renamed(
        name,
        (
            (r"resnets\.(\d)\.", r"block.\1."),
            (r"mid_block\.block\.0", "mid.block_1"),
            (r"mid_block\.block\.1", "mid.block_2"),
            (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
            (r"mid_block\.attentions\.0\.to_(q|k|v)", r"mid.attn_1.\1"),
            (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
            (r"(down|up)samplers\.0\.", r"\1sample."),
            (r"conv_norm_out", "norm_out"),
            (r"conv_shortcut", "nin_shortcut"),
        ),
    )


def _open_clip(text: dict[str, Any]) -> dict[str, Any]:
    prefix, named = "cond_stage_model.model.", {}
    pairs = (
        (r"^text_model\.", ""),
        (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
        (r"^embeddings\.token_embedding", "token_embedding"),
        (r"^final_layer_norm", "ln_final"),
        (r"^encoder\.layers\.(\d+)\.layer_norm(\d)", r"transformer.resblocks.\1.ln_\2"),
        (r"^encoder\.layers\.(\d+)\.mlp\.fc1", r"transformer.resblocks.\1.mlp.c_fc"),
        (r"^encoder\.layers\.(\d+)\.mlp\.fc2", r"transformer.resblocks.\1.mlp.c_proj"),
        (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj", r"transformer.resblocks.\1.attn.out_proj"),
    )
    for name, tensor in text.items():
        if found := re.search(r"layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)$", name):
            joined = [text[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            named[f"transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"] = torch.cat(joined)
        elif not re.search(r"self_attn\.[kv]_proj", name):
            named[_renamed(name, pairs)] = tensor
    width = named["token_embedding.weight"].shape[1]
    named["text_projection"] = torch.zeros(width, width, device=named["token_embedding.weight"].device)
    return {prefix + name: tensor for name, tensor in named.items()}
