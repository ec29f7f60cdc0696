"""Recorded steps are the steps as written: same numbers, for every method and option, and after a break.

A CUDA graph needs a GPU (tests/gpu). `Rerun` has its faults without one: what a step does not fill in again is stuck.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recdreamer.config import GenerateConfig
from recdreamer.distillation.methods import LORA_METHODS
from recdreamer.graphs import Recording, Rerun, Scalar
from recdreamer.models.radiance import Scene
from recdreamer.pose.draw import draw_templates
from recdreamer.pose.features import FeatureExtractor
from recdreamer.presets import EMBEDDED_DRAWING, resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.recorded_step import RecordedSteps
from recdreamer.rendering.sample_capacity import SampleCapacity
from recdreamer.shared.protocol import JobFolder, JobRequest, Template, write_atomically
from recdreamer.stages.guidance import prepare_guide

SETTINGS = {
    "optimize.num_steps": 8,
    "optimize.num_views": 2,
    "optimize.render_px": 24,
    "field.num_levels": 2,
    "field.log2_table_size": 10,
    "rectifier.classifier.template_copies": 1,
    "guidance.lora_warmup_steps": 6,
    "guidance.lora_learning_rate": 3e-3,
}
CASES = {
    "sds": {"method": "sds"},
    "vsd": {"method": "vsd"},
    "esd": {"method": "esd"},
    "perp_neg": {"method": "perp_neg"},
    "debiased_sds": {"method": "debiased_sds", "overrides": {"guidance.clip_limits": [0.1, 2.0]}},
    "sds_bridge": {"method": "sds_bridge", "overrides": {"guidance.bridge_from": 0.5}},
    "usd": {},
    "usd of the camera": {"pose_mode": "camera"},
    "usd, lazy, every other step": {"overrides": {"rectifier.lazy_steps": 3, "guidance.lora_every": 2}},
    "usd, separate pass": {"overrides": {"rectifier.separate_pass": True}},
    "usd, no jacobian": {"overrides": {"rectifier.jacobian": False}},
    "usd, checkpointing": {"overrides": {"guidance.checkpointing": True}},
    "usd, noisy, released": {"overrides": {"rectifier.estimate": "noisy", "rectifier.clamp": "released"}},
    "usd, one view at once": {"overrides": {"guidance.views_at_once": 1}},
    "vsd, one view at once": {"method": "vsd", "overrides": {"guidance.views_at_once": 1}},
    "usd, samples in buffers": {"overrides": {"render.haze_steps": 4, "occupancy.interval": 2}},
}  # fmt: skip


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Template, ...]:
    folder = tmp_path_factory.mktemp("templates")
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    drawn = draw_templates(folder, prior, FeatureExtractor(), "a red bear", 0, EMBEDDED_DRAWING)
    return tuple(
        Template(t.label, str(folder / t.image), "prior", t.azimuth_deg, t.elevation_deg, t.mirrored)
        for t in drawn
    )


class Run:
    """A job's first stage, step by step."""

    def __init__(
        self, folder: Path, templates: tuple[Template, ...], recorder: type[Rerun] | None, **changes
    ) -> None:
        folder.mkdir(exist_ok=True)
        for template in templates:
            shutil.copy(template.image, folder)
        templates = tuple(replace(template, image=Path(template.image).name) for template in templates)
        overrides = SETTINGS | changes.pop("overrides", {})
        given = {"pose_mode": "marginal", **changes}
        request = JobRequest(
            "a red bear", seed=3, device="cpu", templates=templates, overrides=overrides, **given
        )
        write_atomically(folder / "job.json", request.to_json())
        config: GenerateConfig = resolve(request)
        prior, self.warnings = DiffusionPrior.load("builtin", "cpu", torch.float32), []
        self.guide = prepare_guide(JobFolder(folder), config, prior)
        branch, guidance = self.guide.denoiser.branch, config.guidance
        has_branch = self.guide.method in LORA_METHODS and branch is not None
        self.lora = (
            LoraTrainer(branch, guidance.lora_learning_rate, guidance.lora_warmup_steps)
            if has_branch
            else None
        )
        self.scene = Scene(config, torch.device("cpu"))
        self.fields_replayed = 0
        self.steps = RecordedSteps(
            config.step("shape"), prior, self.guide, self.lora, self.warnings.append, recorder
        )

    def run(self, steps: range) -> dict[str, Tensor]:
        for step in steps:
            self.steps.run(step, self.scene)
            self.fields_replayed += self.steps.scene is not None and self.steps.scene.view is not None
        return self.tensors()

    def parts(self) -> list:
        return [part for part in (self.scene, self.lora, *self.guide.rectifiers) if part is not None]

    def tensors(self) -> dict[str, Tensor]:
        return {
            name: tensor.detach().clone() for part in self.parts() for name, tensor in part.tensors().items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        for part in self.parts():
            part.load(tensors)


def differing(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    assert set(found) == set(wanted)
    return [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)]


@pytest.mark.parametrize("case", CASES)
def test_recorded_steps_end_where_written_ones_end(
    case: str, tmp_path: Path, templates: tuple[Template, ...]
) -> None:
    written = Run(tmp_path / "written", templates, None, **CASES[case])
    recorded = Run(tmp_path / "recorded", templates, Rerun, **CASES[case])
    start = written.scene.field.grid.table.detach().clone()
    assert differing(recorded.run(range(8)), written.run(range(8))) == []
    assert not torch.equal(written.scene.field.grid.table, start)
    assert not recorded.warnings
    # Something was recorded at all, once per case.
    made = [recording for recording in recorded.steps.recordings.values() if recording is not None]
    assert len(made) == {"sds_bridge": 2, "usd, lazy, every other step": 3}.get(case, 1)
    # And so was the field, where there is memory for it.
    is_short_of_memory = case.endswith(("checkpointing", "one view at once"))
    assert (recorded.steps.scene is None) == is_short_of_memory
    assert is_short_of_memory or recorded.fields_replayed > 0


@pytest.mark.parametrize("case", ["usd", "usd, lazy, every other step", "usd, samples in buffers"])
@pytest.mark.parametrize("pause_at", [1, 4])
def test_a_resumed_run_is_the_run_that_was_interrupted(
    case: str, pause_at: int, tmp_path: Path, templates: tuple[Template, ...]
) -> None:
    straight = Run(tmp_path / "straight", templates, Rerun, **CASES[case])
    first = Run(tmp_path / "first", templates, Rerun, **CASES[case])
    second = Run(tmp_path / "second", templates, Rerun, **CASES[case])
    second.load(first.run(range(pause_at)))
    assert differing(second.run(range(pause_at, 8)), straight.run(range(8))) == []


def test_the_number_of_samples_is_sent_after_each_rendering(
    tmp_path: Path, templates: tuple[Template, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the choice of a capacity never waits; also where the gradient comes from a recording."""
    sent = []
    monkeypatch.setattr(SampleCapacity, "send", lambda self: sent.append(int(self.most)))
    recorded = Run(tmp_path, templates, Rerun, **CASES["usd, samples in buffers"])
    start_size = recorded.scene.capacity.size
    for step in range(4):
        recorded.run(range(step, step + 1))
        assert len(sent) == step + 1 and sent[-1] > 0
    assert any(recorded.steps.recordings.values())
    assert recorded.scene.capacity.size != start_size


class Failing(Rerun):
    """A GPU that refuses."""

    def __init__(self, *_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand much more")


def test_what_cannot_be_recorded_runs_as_written_after_one_warning(
    tmp_path: Path, templates: tuple[Template, ...]
) -> None:
    written = Run(tmp_path / "written", templates, None)
    failing = Run(tmp_path / "failing", templates, Failing)
    assert differing(failing.run(range(4)), written.run(range(4))) == []
    assert len(failing.warnings) == 1
    assert "not permitted when stream is capturing)" in failing.warnings[0]


def test_numbers_that_are_not_finite_are_seen(tmp_path: Path, templates: tuple[Template, ...]) -> None:
    recorded = Run(tmp_path, templates, Rerun, method="sds")
    recorded.run(range(3))
    assert recorded.scene.descent.first_bad_step == torch.inf
    recorded.guide.prompts.plain.fill_(torch.nan)
    recorded.guide.prompts.views.fill_(torch.nan)
    recorded.run(range(3, 6))
    assert recorded.scene.descent.first_bad_step == 3


def test_the_comparison_would_see_a_number_that_is_stuck(
    tmp_path: Path, templates: tuple[Template, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the branch's learning rate is set by the host, and a recording does not set it again."""
    case = {"method": "vsd"}
    written = Run(tmp_path / "written", templates, None, **case).run(range(4))
    assert isinstance(Rerun(lambda: torch.zeros(1)), Recording)
    monkeypatch.setattr(
        LoraTrainer, "begin", lambda self, step: None if step else Scalar.set(self.rate, 1e-3)
    )
    stuck = Run(tmp_path / "stuck", templates, Rerun, **case).run(range(4))
    assert any(name.startswith("lora.") for name in differing(stuck, written))


def test_the_comparison_would_see_rates_of_the_field_that_are_stuck(
    tmp_path: Path, templates: tuple[Template, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control for the recordings of the field."""
    case = {"method": "sds"}
    written = Run(tmp_path / "written", templates, None, **case).run(range(6))
    begin = Scene.begin_descent
    monkeypatch.setattr(Scene, "begin_descent", lambda self, step: begin(self, min(step, 1)))
    stuck = Run(tmp_path / "stuck", templates, Rerun, **case).run(range(6))
    assert "field.grid.table" in differing(stuck, written)


def test_particles_that_take_turns_are_not_recorded(tmp_path: Path, templates: tuple[Template, ...]) -> None:
    """Their buffers would add up."""
    run = Run(tmp_path, templates, Rerun, method="sds")
    other = Scene(resolve(JobFolder(tmp_path).read_request()), torch.device("cpu"))
    for step in range(6):
        run.steps.run(step, (run.scene, other)[step % 2])
        assert run.steps.scene is None or run.steps.scene.view is None
