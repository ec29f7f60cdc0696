"""Can this model be used? From the JSON and the headers of its files alone, so in milliseconds and before any job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recdreamer.catalog import refusals
from recdreamer.catalog.description import Model, Prediction
from recdreamer.catalog.entries import KIND_NAMES, Kind
from recdreamer.catalog.headers import PICKLES, WANTED, read_header, read_json
from recdreamer.catalog.single_file import check_single_file, zero_snr_without_v
from recdreamer.shared.protocol import RequestError
from recdreamer.shared.safe_files import printable, reason_of

AGAIN = "Download the model again, or choose another."
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""Parts of a pipeline that have weights, and how the file is called."""
VARIANTS = ("", "fp16")
MAX_LETTERS = 400
"""Of a sentence."""
EXTRACTORS = ("dinov2", "dinov2_with_registers")


def check_model(path: Path | str, kind: Kind | None = None) -> Model:
    """The description of a model that can be used for `kind`, or for whatever it is made for.

    `path` is a folder in the format of diffusers or transformers, or a single .safetensors file. Raises RequestError
    with one sentence that names the model and the reason if it cannot be used; nothing is loaded.
    """
    path = Path(path).expanduser()
    name = printable(shown_name(path))
    try:
        return _checked(path, name, kind)
    except RequestError as error:
        # Words of a file, which may be of any length, and hold anything.
        raise RequestError(printable(error.message)[:MAX_LETTERS], error.hint) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise RequestError(
            f"The settings of {name} are damaged ({reason_of(error)[:100]}).", AGAIN
        ) from error


def _checked(path: Path, name: str, kind: Kind | None) -> Model:
    if path.is_file():
        model = check_single_file(path, name)
    elif path.is_dir():
        model = _check_folder(path, name, kind)
    else:
        raise RequestError(
            f"There is no model {path}.", "Choose a folder or a .safetensors file that exists."
        )
    if kind is not None and model.kind != kind:
        raise RequestError(
            f"{name} is {_article(KIND_NAMES[model.kind])}, not {_article(KIND_NAMES[kind])}.",
            f"Choose {_article(KIND_NAMES[kind])}.",
        )
    return model


def shown_name(path: Path) -> str:
    """What sentences call a model: its repository if it lies in a Hugging Face cache, else its file name.

    >>> shown_name(Path("hub/models--stabilityai--sd-turbo/snapshots/0123")), shown_name(Path("a/toon.safetensors"))
    ('stabilityai/sd-turbo', 'toon.safetensors')
    """
    for part in (path, *path.parents):
        if part.name.startswith("models--"):
            return part.name.removeprefix("models--").replace("--", "/", 1)
    return path.name or str(path)


def _check_folder(folder: Path, name: str, kind: Kind | None) -> Model:
    if (folder / "model_index.json").is_file():
        return _check_pipeline(folder, name)
    if (folder / "config.json").is_file():
        return _check_network(folder, name, read_json(folder / "config.json"))
    if kind not in (None, "prior"):
        raise RequestError(
            f"{name} is not {_article(KIND_NAMES[kind])}: it has no config.json.",
            f"Choose the folder of {_article(KIND_NAMES[kind])}.",
        )
    found = sorted(file.name for file in folder.glob("*.safetensors"))
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PICKLES)
    inside = sorted(file.parent.name for file in folder.glob("*/model_index.json"))
    if inside:
        raise RequestError(
            f"{name} is not a model, but has models in it.", f"Choose {_listed(inside)} in it."
        )
    if found:
        raise RequestError(f"{name} is a folder with single model files.", f"Choose one: {_listed(found)}.")
    if pickles:
        raise RequestError(
            f"{name} has only pickles ({_listed(pickles)}), which can run any program when they are opened.",
            "Choose the model's .safetensors version.",
        )
    raise RequestError(f"{name} is a folder without a model: it has no model_index.json.", WANTED)


def _check_pipeline(folder: Path, name: str) -> Model:
    """A folder of Stable Diffusion in the format of diffusers."""
    index = read_json(folder / "model_index.json")
    refusals.refuse_pipeline(name, str(index.get("_class_name", "")))
    scheduler = _component(index, "scheduler", name)
    _refuse_scheduler(name, scheduler)
    for part, wanted in (
        ("unet", "UNet2DConditionModel"),
        ("vae", "AutoencoderKL"),
        ("text_encoder", "CLIPTextModel"),
    ):
        if (found := _component(index, part, name)) != wanted:
            raise refusals.refusal(name, f"has a {found} where Stable Diffusion has a {wanted}")
    unet, vae, text = (read_json(folder / part / "config.json") for part in WEIGHTS)
    _refuse_unet(name, unet, vae, text)
    refusals.refuse_distilled(name, *(str(raw.get("_name_or_path", "")) for raw in (index, unet)))
    prediction, has_zero_snr = _noise_schedule(
        name, read_json(folder / "scheduler" / "scheduler_config.json")
    )
    tokenizer = folder / "tokenizer"
    if not ((tokenizer / "tokenizer.json").is_file() or (tokenizer / "vocab.json").is_file()):
        raise RequestError(f"{name} is not complete: its tokenizer is missing.", AGAIN)
    variants, size, bits = {}, 0, 0
    for part, file in WEIGHTS.items():
        variants[part], part_size, part_bits = check_weights(folder / part, file, name)
        size, bits = size + part_size, max(bits, part_bits)
    scale = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    side = unet.get("sample_size") or 64
    family = "Stable Diffusion 2.x" if unet.get("use_linear_projection") else "Stable Diffusion 1.x"
    return Model(
        folder, "prior", family, size, bits, prediction, has_zero_snr,
        scale * int(side if isinstance(side, int) else side[0]), vae.get("latent_channels", 4), None, variants,
    )  # fmt: skip


def _component(index: dict[str, Any], part: str, name: str) -> str:
    """Class of a part. Raises RequestError if it is missing or needs code of its own."""
    entry = index.get(part)
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(item, str) for item in entry)):
        raise RequestError(f"{name} is not complete: model_index.json names no {part}.", AGAIN)
    if entry[0] not in ("diffusers", "transformers"):
        raise refusals.refusal(name, f"needs code of its own for its {part} ({entry[0]}), which is not run")
    return entry[1]


def _refuse_scheduler(name: str, scheduler: str) -> None:
    if scheduler in ("LCMScheduler", "TCDScheduler"):
        raise refusals.refusal(name, refusals.LCM)
    if scheduler not in refusals.SCHEDULERS:
        is_flow = any(word in scheduler for word in ("Flow", "Rectified", "PeRF"))
        raise refusals.refusal(
            name, refusals.FLOW if is_flow else f"has an unknown noise schedule ({scheduler})"
        )


def _refuse_unet(name: str, unet: dict[str, Any], vae: dict[str, Any], text: dict[str, Any]) -> None:
    if unet.get("addition_embed_type") == "text_time":
        raise refusals.refusal(name, refusals.SDXL)
    if unet.get("time_cond_proj_dim") is not None:
        raise refusals.refusal(name, refusals.LCM)
    refusals.refuse_channels(
        name, unet.get("in_channels", 4), unet.get("out_channels", 4), vae.get("latent_channels", 4)
    )
    if unet.get("class_embed_type") is not None or unet.get("num_class_embeds") is not None:
        raise refusals.refusal(name, refusals.UNCLIP)
    for key in ("addition_embed_type", "encoder_hid_dim_type", "encoder_hid_dim"):
        if unet.get(key) is not None:
            raise refusals.refusal(name, f"has a U-Net with another input ({key}: {unet[key]})")
    width, wanted = text.get("hidden_size"), unet.get("cross_attention_dim")
    if width != wanted:
        raise RequestError(
            f"The parts of {name} do not fit: its text encoder is {width} wide, but its U-Net takes {wanted}.",
            AGAIN,
        )
    if vae.get("shift_factor"):
        raise refusals.refusal(name, "has an autoencoder with shifted latents, as flow models have")


def _noise_schedule(name: str, scheduler: dict[str, Any]) -> tuple[Prediction, bool]:
    """What the U-Net predicts, and whether the last timestep has no signal."""
    _refuse_scheduler(name, str(scheduler.get("_class_name", "")))
    prediction = scheduler.get("prediction_type", "epsilon")
    if scheduler.get("use_flow_sigmas") or "flow" in str(prediction):
        raise refusals.refusal(name, refusals.FLOW)
    if prediction not in ("epsilon", "v_prediction"):
        raise refusals.refusal(
            name, f"predicts {prediction}", "Choose a model that predicts the noise (epsilon) or v."
        )
    has_zero_snr = bool(scheduler.get("rescale_betas_zero_snr"))
    if has_zero_snr and prediction == "epsilon":
        raise zero_snr_without_v(name)
    return prediction, has_zero_snr


def _check_network(folder: Path, name: str, config: dict[str, Any]) -> Model:
    """A folder with one network: an extractor, a tiny decoder, a classifier."""
    kind, model_type = str(config.get("_class_name", "")), str(config.get("model_type", ""))
    architectures = [str(item) for item in config.get("architectures") or ()]
    if kind == "AutoencoderTiny":
        _, size, bits = check_weights(folder, "diffusion_pytorch_model", name)
        channels = config.get("latent_channels", 4)
        return Model(folder, "decoder", "Tiny AutoEncoder", size, bits, latent_channels=channels)
    if model_type in EXTRACTORS:
        wanted, family = "extractor", "DINOv2"
    elif model_type == "clip":
        wanted, family = "classifier", "CLIP"
    elif any(item.endswith("ForImageClassification") for item in architectures):
        wanted, family = "classifier", f"image classifier ({model_type})"
    else:
        what = kind or (architectures[0] if architectures else model_type) or "of an unknown kind"
        raise RequestError(
            f"{name} is a single network ({what}) that has no place here.",
            "Choose a folder of Stable Diffusion, DINOv2, a tiny decoder, CLIP or an image classifier.",
        )
    if not (folder / "preprocessor_config.json").is_file():
        raise RequestError(f"{name} is not complete: preprocessor_config.json is missing.", AGAIN)
    _, size, bits = check_weights(folder, "model", name, variants=("",))
    return Model(folder, wanted, family, size, bits)


def check_weights(
    folder: Path, stem: str, name: str, variants: tuple[str, ...] = VARIANTS
) -> tuple[str, int, int]:
    """Variant, bytes and bits of the weights in a folder, whole or in shards. Raises RequestError if they cannot load."""
    for variant in variants:
        middle = f".{variant}" if variant else ""
        single, index = (
            folder / f"{stem}{middle}.safetensors",
            folder / f"{stem}.safetensors.index{middle}.json",
        )
        if single.is_file():
            files = [single]
        elif index.is_file():
            files = [folder / shard for shard in sorted(set(read_json(index).get("weight_map", {}).values()))]
        else:
            continue
        if missing := [file.name for file in files if not file.is_file()]:
            raise RequestError(f"{name} is not complete: {folder.name}/{missing[0]} is missing.", AGAIN)
        bits = max(read_header(file).bits for file in files)
        if any(read_header(file).bits == 8 for file in files):
            raise refusals.refusal(
                name, "is quantized to 8 bits, which is too coarse", "Choose a version in 16 or 32 bits."
            )
        return variant, sum(file.stat().st_size for file in files), bits
    there = sorted(file.name for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    if pickles := [file for file in there if Path(file).suffix in PICKLES]:
        raise RequestError(
            f"{name} has its weights as pickles ({folder.name}/{pickles[0]}), which can run any program when opened.",
            "Choose the model's .safetensors version.",
        )
    if others := [file for file in there if file.startswith(stem) and file.endswith(".safetensors")]:
        raise RequestError(
            f"{name} has its weights in a version that is not read ({folder.name}/{others[0]}).",
            "Choose the version without a variant, or the fp16 one.",
        )
    raise RequestError(f"{name} is not complete: {folder.name}/{stem}.safetensors is missing.", AGAIN)


def _article(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
