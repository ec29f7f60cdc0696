"""Each setting of the guidance arrives where it acts: in the prompts, the branch, the rectifiers and the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from recdreamer.config import GenerateConfig
from recdreamer.distillation.debiasing import PromptDebiaser
from recdreamer.distillation.methods import Guide
from recdreamer.pose.classifier import ClassifierConfig
from recdreamer.pose.rectifier import Rectifier
from recdreamer.pose.templates import PoseTemplate
from recdreamer.presets import resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.prompts import VIEWS
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.prior.words import ReadPrompt
from recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, JobFolder, JobRequest
from recdreamer.stages import guidance
from recdreamer.stages.guidance import prepare_guide, prepare_guides, prepare_prompts, prepare_rectifiers

from .test_guidance import job_with_cubes

NOWHERE = JobFolder(Path("nowhere"))
ROW = (0.4, 0.3, 0.2, 0.1)


def config_of(method: str = "usd", pose_mode: str = "marginal", seed: int = 1, **settings) -> GenerateConfig:
    overrides = {name.replace("__", "."): value for name, value in settings.items()}
    return resolve(
        JobRequest("a red bear", method=method, pose_mode=pose_mode, seed=seed, overrides=overrides)
    )


class Embedded(DiffusionPrior):
    """Has room for every prompt; text embeddings are their numbers in the order of `texts`."""

    def read(self, prompt: str, endings: Sequence[str] = ()) -> ReadPrompt:
        return ReadPrompt(prompt)

    def encode_text(self, prompts: list[str]) -> Tensor:
        self.texts = prompts
        return torch.arange(float(len(prompts)))[:, None, None].expand(-1, 77, 2)


@pytest.fixture(scope="module")
def prior() -> Embedded:
    """Without networks, with 200 timesteps."""
    unet = SimpleNamespace(device=torch.device("cpu"))
    return Embedded(
        unet, None, None, nn.Identity(), NoiseSchedule(torch.linspace(0.99, 0.01, 200), "epsilon"), 64
    )


class Read(nn.Module):
    """A classifier that always answers the same."""

    def __init__(self, labels: tuple[str, ...] = tuple(CLASS_AZIMUTHS_DEG), classes: object = None) -> None:
        super().__init__()
        self.labels = labels

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.tensor([ROW[: len(self.labels)]]).log().log_softmax(-1).expand(len(images), -1)


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Templates that need no reading, of four poses, the right one seen from 80 degrees; and what the attribute's
    classifier is made of."""
    made: dict[str, object] = {}

    class Attribute(Read):
        def __init__(self, name: str, classes: dict[str, str]) -> None:
            super().__init__(tuple(classes))
            made.update(name=name, classes=classes)

    def prepare(*given: object) -> tuple[Read, list[PoseTemplate], bool]:
        azimuths = {**CLASS_AZIMUTHS_DEG, "right": 80.0}
        image = torch.zeros(3, 8, 8)
        return Read(), [PoseTemplate(label, image, None, place) for label, place in azimuths.items()], True

    monkeypatch.setattr(guidance, "prepare_classifier", prepare)
    monkeypatch.setattr(guidance, "AttributeClassifier", Attribute)
    return made


# Prompts


def texts_of(prior: Embedded, config: GenerateConfig, prompt: str = "a red bear") -> list[str]:
    prepare_prompts(prompt, config.guidance, prior)
    return prior.texts


def test_the_geometry_of_stable_diffusion_has_words_for_views_and_no_auxiliary_prompt(
    prior: Embedded,
) -> None:
    """Released code: the prompt with its side, and nothing of the other sides."""
    config = resolve(JobRequest("a red bear", prior="some/model", method="usd"))
    assert config.guidance.auxiliary_prompt == "from side view, from back view"
    prepare_prompts(config.prompt, config.step("geometry").guidance, prior)
    assert prior.texts[:6] == [
        "a red bear", "", "a red bear, front view", "a red bear, side view", "a red bear, back view",
        "a red bear, side view",
    ]  # fmt: skip
    assert not config.step("texture").guidance.view_prompts


def test_the_auxiliary_prompt_follows_the_prompt_everywhere_but_in_the_empty_one(prior: Embedded) -> None:
    texts = texts_of(
        prior, config_of(guidance__auxiliary_prompt="from side view", guidance__bridge_source="foggy")
    )
    whole = "a red bear, from side view"
    assert texts == [whole, "", *[whole] * len(VIEWS), *[f"{whole}, foggy"] * len(VIEWS)]


@pytest.mark.parametrize(("source", "wanted"), [("grey, blurry", "a red bear, grey, blurry"), ("", "")])
def test_bridge_source_describes_the_renders(prior: Embedded, source: str, wanted: str) -> None:
    assert texts_of(prior, config_of("sds_bridge", guidance__bridge_source=source))[-1] == wanted


def test_words_for_the_views_are_those_of_the_settings_where_they_are_on(prior: Embedded) -> None:
    words = {f"guidance__views__{name}": f"seen {name}" for name in VIEWS}
    on = texts_of(prior, config_of(guidance__view_prompts=True, **words))
    assert on[2 : 2 + len(VIEWS)] == [f"a red bear, seen {name}" for name in VIEWS]
    off = texts_of(prior, config_of(guidance__view_prompts=False, **words))
    assert off[2 : 2 + len(VIEWS)] == ["a red bear"] * len(VIEWS)


def test_the_angles_of_the_views_are_those_of_the_settings(prior: Embedded) -> None:
    config = config_of(
        guidance__view_prompts=True,
        guidance__views__front_width_deg=20.0,
        guidance__views__overhead_elevation_deg=30.0,
    )
    prompts = prepare_prompts("x", config.guidance, prior)
    seen = prompts.seen_from(torch.tensor([9.0, 11.0, 0.0]), torch.tensor([0.0, 0.0, 31.0]))[:, 0, 0]
    assert [int(number) - 2 for number in seen] == [
        VIEWS.index(name) for name in ("front", "right", "overhead")
    ]


def test_debias_words_are_the_only_ones_that_may_go(prior: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that finds every word wrong for a back view."""

    class Strict(PromptDebiaser):
        def __init__(self, name: str) -> None:
            assert name == "some/model"

        def view_probs(self, prompt: str) -> dict[str, float]:
            back = 0.1 / len(prompt.split())
            return {"side": 0.3, "front": 0.3, "back": back, "overhead": 0.3}

    monkeypatch.setattr(guidance, "PromptDebiaser", Strict)
    found = {}
    for words in ((), ("smiling",)):
        config = config_of("debiased_sds", guidance__masked_lm="some/model", guidance__debias_words=list(words),
                           guidance__view_prompts=False)  # fmt: skip
        texts = texts_of(prior, config, "a smiling red bear")
        found[words] = dict(zip(VIEWS, texts[2 : 2 + len(VIEWS)], strict=True))
    assert found[("smiling",)]["back"] == "a red bear" and found[()]["back"] == "a smiling red bear"
    assert found[("smiling",)]["front"] == "a smiling red bear"


# The branch and the decoder


def branch_of(**settings) -> tuple[Guide, dict[str, Tensor]]:
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    guide = prepare_guide(NOWHERE, config_of("vsd", **settings), prior)
    assert guide.denoiser.branch is not None
    return guide, dict(guide.denoiser.branch.trainable())


def test_rank_layers_and_seed_of_the_branch_are_those_of_the_job() -> None:
    settings = {"guidance__lora_rank": 3, "guidance__lora_targets": ["to_v"]}
    _, named = branch_of(seed=5, **settings)
    low_rank = {name: p for name, p in named.items() if "lora_A" in name}
    assert low_rank and all("to_v" in name and len(p) == 3 for name, p in low_rank.items())
    _, again = branch_of(seed=5, **settings)
    _, other = branch_of(seed=6, **settings)
    for name, parameter in low_rank.items():
        assert torch.equal(parameter, again[name]) and not torch.equal(parameter, other[name]), name


def test_a_tiny_decoder_decodes_for_the_classifier_if_one_is_named(tmp_path: Path) -> None:
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    latents = torch.randn(1, prior.unet.config.in_channels, 16, 16)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3, num_encoder_blocks=(1,) * 3,
        num_decoder_blocks=(1,) * 3, latent_channels=latents.shape[1],
    )  # fmt: skip
    tiny.save_pretrained(tmp_path)
    for name, wanted in (
        (str(tmp_path), tiny.eval().decode(latents).sample / 2 + 0.5),
        ("", prior.decode(latents)),
    ):
        guide = prepare_guide(NOWHERE, config_of("sds", rectifier__tiny_decoder=name), prior)
        assert torch.allclose(guide.denoiser.decode(latents), wanted, atol=1e-5)


# The rectifiers


def rectifiers_of(prior: DiffusionPrior, **settings) -> list[Rectifier]:
    return prepare_rectifiers(NOWHERE, config_of(**settings), prior)


def test_the_marginal_has_the_intervals_the_memory_and_the_timesteps_of_the_job(
    prior: Embedded, easy: dict
) -> None:
    (rectifier,) = rectifiers_of(prior, rectifier__num_intervals=4, rectifier__n_ema=1)
    assert rectifier.marginal.probs.shape == (4, 4)
    assert rectifier.marginal.rate == pytest.approx(0.9)
    # 200 timesteps: 50 of them in each interval.
    assert rectifier.marginal.interval(torch.tensor([49, 50, 199])).tolist() == [0, 1, 3]


def test_the_pose_mode_and_the_cameras_of_the_templates_reach_the_rectifier(
    prior: Embedded, easy: dict
) -> None:
    (camera,) = rectifiers_of(prior, pose_mode="camera")
    (marginal,) = rectifiers_of(prior, pose_mode="marginal")
    assert (camera.mode, marginal.mode) == ("camera", "marginal")
    for rectifier in (camera, marginal):
        assert rectifier.class_azimuth_deg is not None
        assert rectifier.class_azimuth_deg.tolist() == pytest.approx([0.0, 80.0, 180.0, 270.0], abs=1e-3)
    assert camera.yaw is None and marginal.yaw is not None


@pytest.mark.parametrize("memory", [4, 300])
def test_yaw_memory_reaches_the_yaw(prior: Embedded, easy: dict, memory: int) -> None:
    (rectifier,) = rectifiers_of(prior, rectifier__yaw_memory=memory)
    assert rectifier.yaw is not None and rectifier.yaw.rate == pytest.approx(1 - 0.1 ** (1 / memory))
    assert rectifier.yaw.class_azimuth_deg.tolist() == pytest.approx([0.0, 80.0, 180.0, 270.0], abs=1e-3)


def test_pose_and_attribute_have_each_its_own_target(prior: Embedded, easy: dict) -> None:
    pose, attribute = rectifiers_of(
        prior,
        rectifier__attribute={"hat": "a bear with a hat", "bare": "a bear"},
        rectifier__attribute_target={"hat": 3.0, "bare": 1.0},
        rectifier__attribute_classifier="some/clip",
        rectifier__target={"back": 1.0},
    )
    assert pose.target.tolist() == [0.0, 0.0, 1.0, 0.0] or dict(
        zip(pose.classifier.labels, pose.target.tolist(), strict=True)
    ) == {label: float(label == "back") for label in CLASS_AZIMUTHS_DEG}
    assert attribute.classifier.labels == ("hat", "bare") and attribute.target.tolist() == [0.75, 0.25]
    assert attribute.mode == "marginal" and attribute.class_azimuth_deg is None and attribute.yaw is None
    assert easy == {"name": "some/clip", "classes": {"hat": "a bear with a hat", "bare": "a bear"}}
    assert not set(pose.tensors()) & set(attribute.tensors())


def test_the_attribute_alone_is_rectified_where_the_pose_is_not(prior: Embedded, easy: dict) -> None:
    (attribute,) = rectifiers_of(
        prior, rectifier__pose=False, rectifier__attribute={"hat": "a hat", "bare": "no hat"}
    )
    assert attribute.classifier.labels == ("hat", "bare") and attribute.target.tolist() == [0.5, 0.5]


def test_the_classifier_has_the_settings_and_the_seed_of_the_job(tmp_path: Path) -> None:
    settings = {
        "temperature": 0.3,
        "patch_temperature": 0.07,
        "query_copies": 3,
        "query_noise": 0.2,
        "template_copies": 1,
    }
    overrides = {f"rectifier.classifier.{name}": value for name, value in settings.items()}
    job, request = job_with_cubes(tmp_path, ("front", "back"), overrides | {"rectifier.anchor": False})
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    first, again, other = (
        guidance.prepare_classifier(job, replace(resolve(request), seed=seed), prior)[0] for seed in (1, 1, 2)
    )
    assert first.config == ClassifierConfig(**settings)
    # The seed is that of the templates' augmented copies.
    assert torch.equal(first.template_cls, again.template_cls)
    assert not torch.equal(first.template_cls, other.template_cls)


def test_a_fixed_marginal_is_measured_on_as_many_pictures_as_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn with the prompt, the guidance scale and the seed of the job, and read at each interval's middle."""
    drawn, read = [], []
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)

    class Counting(Read):
        def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
            read.append(len(images))
            return super().forward(images, generator)

    def sample(prompts: list[str], generator: torch.Generator, scale: float, num_steps: int) -> Tensor:
        drawn.append((prompts, generator.initial_seed(), scale, num_steps))
        return torch.rand(len(prompts), 3, 64, 64)

    monkeypatch.setattr(prior, "sample", sample)
    templates = [PoseTemplate(label, torch.zeros(3, 8, 8), None, None) for label in CLASS_AZIMUTHS_DEG]
    monkeypatch.setattr(guidance, "prepare_classifier", lambda *given: (Counting(), templates, True))
    config = config_of(
        seed=9,
        rectifier__marginal="sampled",
        rectifier__marginal_samples=3,
        rectifier__drawing__num_steps=7,
        rectifier__num_intervals=2,
        guidance__guidance_scale=4.0,
        guidance__auxiliary_prompt="from behind",
    )
    (rectifier,) = prepare_guide(NOWHERE, config, prior).rectifiers
    assert drawn == [(["a red bear, from behind"] * 3, 9, 4.0, 7)] and read == [3, 3]
    assert not rectifier.is_running
    assert torch.allclose(rectifier.marginal.probs, torch.tensor([ROW] * 2), atol=1e-5)


# The guides of the stages


def test_each_stage_is_guided_by_its_own_settings(
    prior: Embedded, easy: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the branch and the rectifiers; close-ups follow VSD, with words of their own."""
    monkeypatch.setattr(guidance, "LoraBranch", lambda *given: None)
    config = config_of(
        guidance__guidance_scale=2.0,
        geometry__guidance_scale=30.0,
        texture__guidance_scale=4.0,
        texture__schedule="annealed",
        texture__detail_steps=5,
        texture__detail_prompt="close-up",
        texture__detail_noise=0.4,
        guidance__auxiliary_prompt="from behind",
    )
    guides = prepare_guides(NOWHERE, config, prior)
    methods = {name: guide.method for name, guide in guides.items()}
    assert methods == {"shape": "usd", "geometry": "sds", "texture": "usd", "close_ups": "vsd"}
    scales = {name: guide.config.guidance_scale for name, guide in guides.items()}
    assert scales == {"shape": 2.0, "geometry": 30.0, "texture": 4.0, "close_ups": 4.0}
    assert guides["texture"].config.schedule == "annealed"
    assert (guides["close_ups"].config.schedule, guides["close_ups"].config.late_until) == ("late", 0.4)
    assert prior.texts[0] == "a red bear, close-up", "encoded last"
    shape = guides["shape"]
    assert len(shape.rectifiers) == 1 and guides["texture"].rectifiers is shape.rectifiers
    assert not guides["geometry"].rectifiers and not guides["close_ups"].rectifiers
    for guide in guides.values():
        assert guide.denoiser is shape.denoiser and guide.rectifier_config is config.rectifier
    assert guides["texture"].prompts is shape.prompts is not guides["close_ups"].prompts
    assert shape.prompts is not guides["geometry"].prompts, "without the auxiliary prompt"


def test_words_for_views_in_the_geometry_alone_make_prompts_of_their_own(
    prior: Embedded, easy: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guidance, "LoraBranch", lambda *given: None)
    guides = prepare_guides(NOWHERE, config_of(geometry__view_prompts=True), prior)
    shape, geometry = guides["shape"].prompts, guides["geometry"].prompts
    assert guides["texture"].prompts is shape is not geometry
    assert prior.texts[2].startswith("a red bear, "), "the front, encoded last"
