"""Single .safetensors files in the layout of the original repositories, as most fine-tunes are shared."""

from __future__ import annotations

import re
from pathlib import Path

from recdreamer.catalog import refusals
from recdreamer.catalog.description import Model, Prediction
from recdreamer.catalog.headers import Header, read_header, read_json
from recdreamer.shared.protocol import RequestError

CONFIGURATIONS = Path(__file__).parent / "configurations"
"""For each family the settings of its parts, in the format of diffusers: nothing is fetched to load a file."""
FAMILIES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x"}
TEXT_ENCODERS = {
    "sd1": "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    "sd2": "cond_stage_model.model.token_embedding.weight",
}
"""A tensor of each family's text encoder: CLIP by OpenAI, and OpenCLIP."""
UNET = "model.diffusion_model."
TRAINED_PX = {"epsilon": 512, "v_prediction": 768}
"""Side of the training pictures of Stable Diffusion 2.x, by what it predicts."""

# Parts of tensor names, which no two of these kinds of file share.
_SIGNS: tuple[tuple[str, str], ...] = (
    (r"^lora_|\.lora_(down|up|A|B)\.|\.hada_w1|\.lokr_w1", "is a LoRA, which only changes another model"),
    (r"^(control_model\.|controlnet_cond_embedding\.)", "is a ControlNet, which only guides another model"),
    (r"^(emb_params|clip_[lg])$", "is a textual inversion, which only adds words to another model"),
    (r"motion_modules\.", refusals.VIDEO),
    (r"^(model\.diffusion_model\.)?joint_blocks\.", refusals.SD3),
    (r"^(model\.diffusion_model\.)?(double_blocks|single_blocks|single_transformer_blocks)\.", refusals.FLUX),
    (r"^conditioner\.embedders\.", refusals.SDXL),
    (r"^(model\.diffusion_model\.)?(layers|blocks|transformer_blocks|double_layers|double_stream_blocks)\.\d",
     refusals.FLOW),
    (r"^model\.diffusion_model\.time_embed\.cond_proj\.|^time_embedding\.cond_proj\.", refusals.LCM),
)  # fmt: skip
_ALONE: tuple[tuple[str, str], ...] = (
    (
        r"^down_blocks\.\d+\.(resnets|attentions)\.",
        "holds a U-Net only, without text encoder and autoencoder",
    ),
    (r"^(first_stage_model\.|encoder\.|decoder\.)", "is an autoencoder (VAE) only"),
    (r"^(text_model\.|cond_stage_model\.|transformer\.resblocks\.)", "is a text encoder only"),
)
"""Parts of a model without its U-Net."""


def check_single_file(path: Path, name: str) -> Model:
    """The description of a single file of Stable Diffusion 1.x or 2.x. Raises RequestError for any other.

    Only the header is read. `name` is what the sentences call the file.
    """
    header = read_header(path)
    shapes = header.shapes
    for pattern, why in _SIGNS:
        if _has(shapes, pattern):
            raise refusals.refusal(name, why)
    first = shapes.get(f"{UNET}input_blocks.0.0.weight", ())
    if len(first) != 4:
        for pattern, why in _ALONE:
            if _has(shapes, pattern):
                raise refusals.refusal(name, why, "Choose a file, or a folder, with the whole model.")
        raise refusals.refusal(name, f"{refusals.FOREIGN}: its tensors are those of another network")
    refusals.refuse_distilled(name, header.metadata.get("modelspec.title", ""))
    if header.bits == 8:
        raise refusals.refusal(
            name, "is quantized to 8 bits, which is too coarse", "Choose a version in 16 or 32 bits."
        )
    latent_channels = _side(shapes, "first_stage_model.decoder.conv_in.weight", 1)
    if not latent_channels:
        raise refusals.refusal(name, "has no autoencoder (VAE)", "Choose a version with the VAE in it.")
    refusals.refuse_channels(name, first[1], _side(shapes, f"{UNET}out.2.weight", 0), latent_channels)
    if _has(shapes, rf"^{re.escape(UNET)}label_emb\."):
        raise refusals.refusal(name, refusals.UNCLIP)
    family = _family(name, shapes)
    prediction, has_zero_snr = _prediction(path, header)
    _refuse_zero_snr(name, prediction, has_zero_snr)
    image_px = _image_px(family, prediction, header)
    return Model(
        path, "prior", FAMILIES[family], path.stat().st_size, header.bits, prediction, has_zero_snr,
        image_px, latent_channels, CONFIGURATIONS / family,
    )  # fmt: skip


def _has(shapes: dict[str, tuple[int, ...]], pattern: str) -> bool:
    return any(re.search(pattern, name) for name in shapes)


def _side(shapes: dict[str, tuple[int, ...]], name: str, axis: int) -> int:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else 0


def _family(name: str, shapes: dict[str, tuple[int, ...]]) -> str:
    """The family whose configuration has the sizes of this file."""
    if not any(sign in shapes for sign in TEXT_ENCODERS.values()):
        raise refusals.refusal(name, "has no text encoder", "Choose a version with the text encoder in it.")
    width = next(
        (shape[1] for key, shape in shapes.items() if key.startswith(UNET) and key.endswith("attn2.to_k.weight")), 0
    )  # fmt: skip
    for family, sign in TEXT_ENCODERS.items():
        unet = read_json(CONFIGURATIONS / family / "unet" / "config.json")
        levels, layers = len(unet["block_out_channels"]), unet["layers_per_block"]
        has_sizes = (
            sign in shapes
            and width == unet["cross_attention_dim"]
            and _side(shapes, f"{UNET}input_blocks.0.0.weight", 0) == unet["block_out_channels"][0]
            and _count(shapes, "input_blocks") == 1 + levels * layers + levels - 1
            and _count(shapes, "output_blocks") == levels * (layers + 1)
        )
        if has_sizes:
            return family
    raise refusals.refusal(name, "has a U-Net of other sizes than Stable Diffusion 1.x and 2.x")


def _count(shapes: dict[str, tuple[int, ...]], blocks: str) -> int:
    pattern = re.compile(rf"^{re.escape(UNET)}{blocks}\.(\d+)\.")
    return len({found[1] for name in shapes if (found := pattern.match(name))})


def _prediction(path: Path, header: Header) -> tuple[Prediction, bool]:
    """What the U-Net predicts, and whether the last timestep has no signal, as far as the file says."""
    metadata, names = header.metadata, header.shapes
    has_zero_snr = "ztsnr" in names or metadata.get("ss_zero_terminal_snr") == "True"
    declared = metadata.get("modelspec.prediction_type", "").lower()
    architecture = metadata.get("modelspec.architecture", "").lower()
    if "v_pred" in names or declared in ("v", "v_prediction") or architecture.endswith("-768-v"):
        return "v_prediction", has_zero_snr
    if declared == "epsilon" or architecture == "stable-diffusion-v2-512":
        return "epsilon", has_zero_snr
    beside = path.with_suffix(".yaml")  # As other programs want it beside a v-model.
    try:
        if beside.is_file() and beside.stat().st_size < 1e6:
            text = beside.read_text(encoding="utf-8", errors="replace")
            return (
                "v_prediction" if re.search(r"parameterization:\s*[\"']?v\b", text) else "epsilon"
            ), has_zero_snr
    except OSError:
        pass  # It is only a hint.
    return "", has_zero_snr


def _refuse_zero_snr(name: str, prediction: Prediction, has_zero_snr: bool) -> None:
    if has_zero_snr and prediction == "epsilon":
        raise zero_snr_without_v(name)


def zero_snr_without_v(name: str) -> RequestError:
    """The error for a noise schedule without signal at its end whose model predicts the noise."""
    return refusals.refusal(
        name,
        "has no signal at the last timestep, but predicts the noise, which says nothing there",
        "Choose a version that predicts v, or one with the ordinary noise schedule.",
    )


def _image_px(family: str, prediction: Prediction, header: Header) -> int:
    """Side of the training pictures, 0 if unknown."""
    if found := re.match(r"(\d+)x\1$", header.metadata.get("modelspec.resolution", "")):
        return int(found[1])
    if family == "sd2":
        return TRAINED_PX.get(prediction, 0)
    return TRAINED_PX["epsilon"]
