"""Models of every format that is accepted load, give what their files say, and run whole jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from recdreamer.catalog import single_file as single_file_module
from recdreamer.catalog.check_model import check_model
from recdreamer.generate import generate
from recdreamer.presets import resolve
from recdreamer.prior import pipeline
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.pipeline import clip_tokenizer, load_parts, told_prediction
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.report import JobError, NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically

from . import models_on_disk as disk


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "sd1": disk.sd_folder(root / "sd1"),
        "sd1 half": disk.sd_folder(root / "sd1-half", half=True),
        "sd2": disk.sd_folder(root / "sd2", "sd2"),
        "sd2 v": disk.sd_folder(root / "sd2-v", "sd2", prediction="v_prediction"),
        "zero": disk.sd_folder(root / "zero", prediction="v_prediction", zero_snr=True),
    }


def load(path: Path) -> DiffusionPrior:
    return DiffusionPrior.load(str(path), "cpu", torch.float32)


@pytest.mark.parametrize("name", ["sd1", "sd1 half", "sd2", "sd2 v", "zero"])
def test_a_folder_gives_what_the_ordinary_pipeline_gives(name: str, folders: dict[str, Path]) -> None:
    prior = load(folders[name])
    theirs = StableDiffusionPipeline.from_pretrained(
        folders[name], variant="fp16" if "half" in name else None, safety_checker=None, local_files_only=True
    ).to(torch.float32)
    prompts = ["a red bear, front view", ""]
    text = prior.encode_text(prompts)
    assert torch.equal(text[:1], theirs.encode_prompt(prompts[0], "cpu", 1, False)[0])
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100, 700])
    with torch.no_grad():
        mine, other = (unet(latents, t, text).sample for unet in (prior.unet, theirs.unet))
    assert torch.allclose(mine, other, atol=1e-5)
    assert torch.equal(prior.schedule.alphas_cumprod, theirs.scheduler.alphas_cumprod)
    assert prior.schedule.prediction == theirs.scheduler.config.prediction_type
    assert prior.image_px == 64
    assert {part.dtype for part in (prior.unet, prior.vae)} == {torch.float32}


def test_the_sampler_that_a_folder_names_does_not_matter(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = disk.changed(
        folders["sd1"], tmp_path / "euler", "scheduler/scheduler_config.json",
        _class_name="EulerDiscreteScheduler", timestep_spacing="leading", use_karras_sigmas=True,
    )  # fmt: skip
    assert torch.equal(load(folder).schedule.alphas_cumprod, load(folders["sd1"]).schedule.alphas_cumprod)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_single_file_gives_what_its_folder_gives(
    family: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        single_file_module, "CONFIGURATIONS", disk.configurations(folders[family], tmp_path / "configurations", family)
    )  # fmt: skip
    monkeypatch.setattr(
        single_file_module, "TEXT_ENCODERS", {family: single_file_module.TEXT_ENCODERS[family]}
    )
    path = disk.single_file(
        folders[family], tmp_path / "toon.safetensors", family, {"modelspec.prediction_type": "epsilon"}
    )
    one, other = load(path), load(folders[family])
    for part in ("unet", "vae", "text_encoder"):
        mine, theirs = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), part
    prompt = ["a red bear, front view"]
    assert torch.equal(one.encode_text(prompt), other.encode_text(prompt))
    assert torch.equal(one.schedule.alphas_cumprod, other.schedule.alphas_cumprod)


def test_a_single_file_that_does_not_say_what_it_predicts_is_asked(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = disk.configurations(folders["sd2"], tmp_path / "configurations", "sd2")
    monkeypatch.setattr(single_file_module, "CONFIGURATIONS", root)
    monkeypatch.setattr(single_file_module, "TEXT_ENCODERS", {"sd2": single_file_module.TEXT_ENCODERS["sd2"]})
    model = check_model(disk.single_file(folders["sd2"], tmp_path / "toon.safetensors", "sd2"))
    assert model.prediction == ""
    # Random weights give an output that has nothing to do with the noise, as a v-model does.
    parts = load_parts(model, torch.float32)
    assert (parts.schedule.prediction, parts.image_px) == ("v_prediction", 768)
    monkeypatch.setattr(pipeline, "told_prediction", lambda *_: "epsilon")
    parts = load_parts(model, torch.float32)
    assert (parts.schedule.prediction, parts.image_px) == ("epsilon", 512)


def test_pictures_have_the_size_that_a_single_file_was_trained_on(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = disk.configurations(folders["sd1"], tmp_path / "configurations", "sd1")
    monkeypatch.setattr(single_file_module, "CONFIGURATIONS", root)
    monkeypatch.setattr(single_file_module, "TEXT_ENCODERS", {"sd1": single_file_module.TEXT_ENCODERS["sd1"]})
    told = {"modelspec.prediction_type": "epsilon", "modelspec.resolution": "128x128"}
    prior = load(disk.single_file(folders["sd1"], tmp_path / "toon.safetensors", "sd1", told))
    assert prior.latent_side == 16 and load(folders["sd1"]).latent_side == 8
    assert prior.sample(["a red bear"], torch.Generator().manual_seed(0), num_steps=1).shape == (
        1,
        3,
        128,
        128,
    )
    assert prior.encode(torch.rand(1, 3, 32, 32)).shape == (1, 4, 16, 16)


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0])
def test_the_output_for_pure_noise_tells_what_is_predicted(spread: float) -> None:
    """By the exact answers for pictures that are Gaussian, with a mean that is not 0."""
    from recdreamer.prior.pipeline import noise_schedule

    mean = torch.linspace(-0.5, 1.0, 4).view(1, 4, 1, 1)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    for prediction in ("epsilon", "v_prediction"):
        schedule = noise_schedule(disk.SCHEDULER, prediction)

        def exact(x: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule = schedule) -> torch.Tensor:
            alpha, sigma = schedule.alpha_t(t), schedule.sigma_t(t)
            x0 = mean + alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * (x - alpha * mean)
            return schedule.target_of(x0, (x - alpha * x0) / sigma, t)

        assert told_prediction(exact, x, schedule.num_timesteps) == prediction


def test_the_tokenizer_is_clips() -> None:
    one, two = clip_tokenizer("<|endoftext|>"), clip_tokenizer("!")
    assert len(one) == len(two) == 49408
    # As OpenAI's tokenizer gives them.
    assert one("a diagram").input_ids == [49406, 320, 22697, 49407]
    assert one("Hello, World").input_ids == [49406, 3306, 267, 1002, 49407]
    padded = {"padding": "max_length", "max_length": 5}
    assert one("a", **padded).input_ids == [49406, 320, 49407, 49407, 49407]
    assert two("a", **padded).input_ids == [49406, 320, 49407, 0, 0]


def test_words_of_the_genuine_tokenizer_have_meaning_from_the_noun_on(folders: dict[str, Path]) -> None:
    meaning = load(folders["sd1"]).has_meaning("a red bear")
    # Of start, article, two words, the end and 72 times padding, the words.
    assert len(meaning) == 77 and meaning.nonzero()[:, 0].tolist() == [2, 3]


def test_without_signal_at_the_end_pictures_are_finite(folders: dict[str, Path]) -> None:
    prior = load(folders["zero"])
    assert prior.schedule.alphas_cumprod[-1] == 0
    assert prior.schedule.last < prior.schedule.num_timesteps - 1
    assert prior.schedule.alpha_t(torch.tensor([prior.schedule.last])) >= 1e-3
    pictures = prior.sample(["a red bear"], torch.Generator().manual_seed(0), num_steps=5)
    assert pictures.isfinite().all() and pictures.std() > 0


def test_the_clean_estimate_is_exact_where_sampling_begins() -> None:
    schedule = pipeline.noise_schedule(disk.SCHEDULER | {"rescale_betas_zero_snr": True}, "v_prediction")
    t = torch.tensor([schedule.last])
    x0, eps = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x_t = schedule.add_noise(x0, eps, t)
    v = schedule.target_of(x0, eps, t)
    assert torch.allclose(schedule.x0_hat(x_t, schedule.eps_of(v, x_t, t), t), x0, atol=2e-3)


def test_a_model_that_breaks_while_it_is_loaded_is_one_sentence(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Its headers are in order, but a tensor has another size than the configuration says."""
    folder = disk.changed(folders["sd1"], tmp_path / "odd", "unet/config.json", layers_per_block=1)
    with pytest.raises(JobError, match="is not a Stable Diffusion model that can be loaded"):
        load(folder)


def test_a_single_file_that_lacks_a_tensor_is_one_sentence(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = disk.configurations(folders["sd1"], tmp_path / "configurations", "sd1")
    monkeypatch.setattr(single_file_module, "CONFIGURATIONS", root)
    monkeypatch.setattr(single_file_module, "TEXT_ENCODERS", {"sd1": single_file_module.TEXT_ENCODERS["sd1"]})
    tensors = load_file(disk.single_file(folders["sd1"], tmp_path / "whole.safetensors"))
    for lost in ("model.diffusion_model.middle_block.1.norm.weight", "first_stage_model.quant_conv.bias"):
        rest = {name: tensor for name, tensor in tensors.items() if name != lost}
        save_file(rest, tmp_path / "toon.safetensors")
        with pytest.raises(JobError, match="is not a Stable Diffusion model that can be loaded") as caught:
            load(tmp_path / "toon.safetensors")
        assert "\n" not in caught.value.message


SMALL = {
    "optimize.num_steps": 2, "optimize.render_px": 16, "optimize.preview_every": 9, "optimize.background": "plain",
    "geometry.num_steps": 1, "geometry.render_px": 16, "geometry.resolution": 16,
    "texture.num_steps": 1, "texture.render_px": 16, "mesh.resolution": 16, "mesh.target_faces": 200,
    "mesh.texture_size_px": 32, "field.num_levels": 2, "field.log2_table_size": 8, "field.max_resolution": 16,
    "rectifier.classifier.template_copies": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "pose_mode", "folder"),
    [
        ("usd", "camera", "sd1"),
        ("usd", "marginal", "sd1 half"),
        ("usd", "camera", "zero"),
        ("vsd", "camera", "sd2"),
        ("sds", "camera", "sd2 v"),
    ],
)
def test_a_whole_job_runs_through_such_a_folder(
    method: str,
    pose_mode: str,
    folder: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = SMALL | {
        "extractor": str(disk.dinov2_folder(tmp_path / "dino")),
        "rectifier.drawing.num_samples": 2,
        "rectifier.drawing.num_steps": 2,
        "rectifier.tiny_decoder": str(disk.taesd_folder(tmp_path / "taesd")),
    }
    request = JobRequest(
        "a red bear", method=method, pose_mode=pose_mode, prior=str(folders[folder]), device="cpu",
        height_m=0.5, overrides=settings,
    )  # fmt: skip
    job = JobFolder(tmp_path / "job")
    job.root.mkdir()
    write_atomically(job.request, request.to_json())
    generate(job, resolve(request), NullReport())
    report = json.loads((job.result / "report.json").read_text())
    assert report["models"]["prior"]["path"] == str(folders[folder])
    assert set(report["models"]) == ({"prior", "extractor", "decoder"} if method == "usd" else {"prior"})
    assert (job.result / "model.glb").is_file()
