"""What a distillation step of each stage gets of the whole configuration."""

from __future__ import annotations

import pytest

from recdreamer.config import GenerateConfig, StepName, surface_settings
from recdreamer.presets import resolve
from recdreamer.shared.protocol import JobRequest

OVERRIDES = {
    "optimize.num_steps": 11, "optimize.num_views": 1, "optimize.preview_every": 7,
    "optimize.checkpoint_every_s": 5.5, "guidance.guidance_scale": 1.5, "guidance.auxiliary_prompt": "from behind",
    "guidance.schedule": "uniform", "guidance.late_until": 0.9, "guidance.lora_every": 3,
    "geometry.num_steps": 12, "geometry.num_views": 2, "geometry.guidance_scale": 2.5,
    "geometry.schedule": "annealed", "texture.num_steps": 13, "texture.num_views": 3,
    "texture.guidance_scale": 3.5, "texture.schedule": "back_and_forth", "texture.detail_steps": 14,
    "texture.detail_noise": 0.4, "texture.detail_prompt": "close-up",
}  # fmt: skip


def config(method: str = "usd") -> GenerateConfig:
    return resolve(JobRequest("x", method=method, seed=4, overrides=OVERRIDES))


@pytest.mark.parametrize(
    ("name", "method", "numbers", "guidance"),
    [
        ("shape", "usd", (11, 1), (1.5, "uniform", 0.9, "from behind")),
        # Its normals are asked for one side at a time.
        ("geometry", "sds", (12, 2), (2.5, "annealed", 0.9, "")),
        ("texture", "usd", (13, 3), (3.5, "back_and_forth", 0.9, "from behind")),
        # A part of the object has no pose that could be rectified.
        ("close_ups", "vsd", (14, 3), (3.5, "late", 0.4, "close-up")),
    ],
)
def test_each_stage_has_its_own_settings(
    name: StepName, method: str, numbers: tuple[int, int], guidance: tuple
) -> None:
    step = config().step(name)
    assert step.method == method and (step.num_steps, step.num_views) == numbers
    own = step.guidance
    assert (own.guidance_scale, own.schedule, own.late_until, own.auxiliary_prompt) == guidance
    assert own.lora_every == 3 and step.cameras == config().cameras
    assert (step.seed, step.preview_every, step.checkpoint_every_s) == (4, 7, 5.5)


def test_close_ups_and_texture_follow_the_jobs_method() -> None:
    assert [config("esd").step(name).method for name in ("shape", "texture", "close_ups")] == ["esd"] * 3


def test_a_refined_surface_is_extracted_where_its_distances_are_zero() -> None:
    """Half of `SOLID`, and without filling what looks like a pore; everything else as for a field."""
    found = surface_settings(config())
    assert found.threshold == 50 and not found.fill_pores
    assert found.texture_size_px == config().mesh.texture_size_px and config().mesh.fill_pores
