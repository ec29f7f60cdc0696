"""What the stages are guided by: the words of the prompt, and where the poses of the templates are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recdreamer.distillation.debiasing import PromptDebiaser
from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.images import write_picture
from recdreamer.pose.draw import SIDES, draw_templates
from recdreamer.pose.templates import PoseTemplate, class_azimuths
from recdreamer.presets import resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, Template
from recdreamer.stages import guidance

from ..generate.small_jobs import job_of


def test_a_language_model_is_loaded_once_for_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    class Table(PromptDebiaser):
        def __init__(self, name: str) -> None:
            loaded.append(name)

        def reduced(self, prompt: str, candidates: object = ()) -> dict[str, str]:
            return dict.fromkeys(("side", "front", "back", "overhead"), prompt)

    monkeypatch.setattr(guidance, "PromptDebiaser", Table)
    overrides = {"guidance.masked_lm": "some/model", "texture.detail_steps": 2}
    job, request = job_of(tmp_path, overrides, method="debiased_sds", stages=("shape", "geometry"))
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    guides = guidance.prepare_guides(job, resolve(request), prior)
    assert loaded == ["some/model"], (
        "close-ups, which have words of their own, are not made without the texture"
    )
    assert guides["shape"].prompts is guides["geometry"].prompts


def test_class_azimuths_come_from_the_templates_else_from_the_name() -> None:
    image = torch.zeros(3, 8, 8)
    templates = [PoseTemplate("front", image, None, 350.0), PoseTemplate("front", image, None, 20.0),
                 PoseTemplate("left", image, None, None)]  # fmt: skip
    azimuths = class_azimuths(templates, ("front", "left"), torch.device("cpu"))
    assert azimuths.tolist() == pytest.approx([5.0, 270.0], abs=1e-3)


def job_with_cubes(folder: Path, labels: tuple[str, ...], overrides: dict[str, object] | None = None):
    """A job whose templates show a grey square from every side."""
    (folder / "templates").mkdir(parents=True)
    templates = []
    for label in labels:
        picture = torch.full((3, 64, 64), 0.8)
        picture[:, 16:48, 16:48] = 0.5
        write_picture(folder / "templates" / f"{label}.png", picture)
        templates.append(Template(label, f"templates/{label}.png", "turntable"))
    return job_of(folder, overrides or {}, method="usd", pose_mode="marginal", templates=tuple(templates))


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return DiffusionPrior.load("builtin", "cpu", torch.float32)


def test_templates_that_show_nothing_leave_the_reading_to_the_prior_and_say_so(
    prior: DiffusionPrior, tmp_path: Path
) -> None:
    job, request = job_with_cubes(tmp_path, tuple(CLASS_AZIMUTHS_DEG))
    said: list[str] = []
    classifier, templates, are_sides_known = guidance.prepare_classifier(
        job, resolve(request), prior, said.append
    )
    assert len(said) == 1 and "do not match" in said[0] and are_sides_known
    assert classifier.labels == tuple(CLASS_AZIMUTHS_DEG) and len(templates) == 12
    images = torch.stack([template.image for template in templates])
    seen = [POSES[pose] for pose in load_oracle().pose_probs(images).argmax(1)]
    assert seen == [template.label for template in templates], "the prior's own pictures"


def test_templates_are_taken_as_they_are_where_that_is_asked_for(
    prior: DiffusionPrior, tmp_path: Path
) -> None:
    job, request = job_with_cubes(tmp_path, tuple(CLASS_AZIMUTHS_DEG), {"rectifier.anchor": False})
    said: list[str] = []
    _, templates, are_sides_known = guidance.prepare_classifier(job, resolve(request), prior, said.append)
    assert not said and are_sides_known and len(templates) == 4 and not (job.templates / "drawn").exists()


@pytest.mark.parametrize("looking_left", [8, 16])
@pytest.mark.parametrize("is_given", [False, True])
def test_sides_that_no_words_decide_are_left_open(
    prior: DiffusionPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looking_left: int, is_given: bool
) -> None:
    """Eight of sixteen pictures look one way, and neither heads nor the artist's pictures can tell; or all of them do."""
    if is_given:
        job, request = job_with_cubes(tmp_path, tuple(CLASS_AZIMUTHS_DEG))
    else:
        job, request = job_of(tmp_path, {}, method="usd", pose_mode="marginal")

    def draw(folder: Path, *given: object) -> tuple[Template, ...]:
        drawn = draw_templates(folder, *given)  # pyright: ignore[reportArgumentType]
        (folder / SIDES).write_text(json.dumps({"left": looking_left, "in_all": 16, "heads": 0.1}))
        return drawn

    monkeypatch.setattr(guidance, "draw_templates", draw)
    is_open = looking_left == 8
    (rectifier,) = guidance.prepare_rectifiers(job, resolve(request), prior)
    assert rectifier.yaw is not None and len(rectifier.yaw.signs) == (2 if is_open else 1)
    said: list[str] = []
    guidance.prepare_rectifiers(job, replace(resolve(request), pose_mode="camera"), prior, said.append)
    assert any("left and right" in line for line in said) == is_open


def test_classes_without_a_camera_have_neither_stand_ins_nor_a_yaw(
    prior: DiffusionPrior, tmp_path: Path
) -> None:
    job, request = job_with_cubes(tmp_path, ("sitting", "standing"))
    (rectifier,) = guidance.prepare_rectifiers(job, resolve(request), prior)
    assert rectifier.yaw is None and rectifier.class_azimuth_deg is None
    assert not (job.templates / "drawn").exists()


@pytest.mark.parametrize(
    ("overrides", "is_inferred"),
    [({}, True), ({"rectifier.yaw": "free"}, False), ({"rectifier.target": {"front": 1.0}}, False)],
)
def test_the_marginal_form_infers_the_yaw_unless_told_otherwise(
    prior: DiffusionPrior, tmp_path: Path, overrides: dict[str, object], is_inferred: bool
) -> None:
    job, request = job_with_cubes(
        tmp_path, tuple(CLASS_AZIMUTHS_DEG), {"rectifier.anchor": False, **overrides}
    )
    (rectifier,) = guidance.prepare_rectifiers(job, resolve(request), prior)
    assert (rectifier.yaw is not None) is is_inferred
