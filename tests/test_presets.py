"""From a request to its configuration: presets, settings by name, and wrong ones."""

from __future__ import annotations

from typing import get_args

import pytest

from recdreamer.presets import resolve
from recdreamer.shared.protocol import USD_METHODS, JobRequest, Method, Quality, RequestError


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("optimize.steps", 3, "no setting"),
        ("optimise.num_steps", 3, "no setting"),
        ("optimize.num_steps", "many", "does not fit"),
        ("optimize.num_steps", True, "does not fit"),
        ("rectifier.clamp", "hard", "does not fit"),
        ("prompt.text", "x", "no setting"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: object, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        resolve(JobRequest("a red bear", overrides={name: value}))
    assert name in caught.value.message and caught.value.hint


def test_settings_reach_nested_values_and_keep_their_type() -> None:
    config = resolve(
        JobRequest("x", overrides={"rectifier.classifier.query_copies": 3, "guidance.guidance_scale": 5})
    )
    assert config.rectifier.classifier.query_copies == 3
    assert config.guidance.guidance_scale == 5.0 and isinstance(config.guidance.guidance_scale, float)


def test_settings_of_earlier_versions_have_their_new_names() -> None:
    config = resolve(JobRequest("x", overrides={"optimize.ground": [0.1, 0.2], "optimize.ground_tint": 0}))
    assert config.optimize.background_brightness == (0.1, 0.2) and config.optimize.background_tint == 0
    # One that changed nothing but the speed is left out.
    assert resolve(JobRequest("x", overrides={"guidance.compile": True})) == resolve(JobRequest("x"))


def test_quick_is_quicker_and_another_prior_is_larger() -> None:
    standard, quick = resolve(JobRequest("x")), resolve(JobRequest("x", quality="quick"))
    large = resolve(JobRequest("x", prior="some/model"))
    assert quick.optimize.num_steps < standard.optimize.num_steps < large.optimize.num_steps
    work = [c.optimize.num_steps * c.optimize.num_views for c in (quick, standard)]
    assert work[0] == pytest.approx(work[1] / 3, rel=0.01)
    assert resolve(JobRequest("x", quality="final")) == standard
    assert large.optimize.render_px > standard.optimize.render_px


@pytest.mark.parametrize("method", ["usd", "vsd", "sds"])
def test_with_stable_diffusion_the_quality_chooses_a_share_of_the_published_schedule(method: Method) -> None:
    quick, standard, final = (
        resolve(JobRequest("x", prior="some/model", method=method, quality=quality))
        for quality in ("quick", "standard", "final")
    )
    as_published = resolve(JobRequest("x", prior="some/model", method=method, kind="particles"))
    assert final.optimize == as_published.optimize, "2D particles keep the paper's schedule"
    for config, share in ((quick, 0.06), (standard, 0.35)):
        for name in ("shape", "geometry", "texture"):
            assert config.step(name).num_steps == share * final.step(name).num_steps
            assert config.step(name).guidance.lora_warmup_steps == share * 500
        travel = config.geometry.num_steps * config.geometry.learning_rate
        assert travel == pytest.approx(final.geometry.num_steps * final.geometry.learning_rate)
    assert quick.mesh.target_faces < standard.mesh.target_faces == final.mesh.target_faces
    pictures = [c.rectifier.drawing.num_samples * c.rectifier.drawing.num_steps for c in (quick, standard)]
    assert 5 * pictures[0] < pictures[1]


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_has_its_published_setting(method: Method) -> None:
    """The table of the paper's comparison: guidance scale, steps, words for views."""
    expected = {
        "usd": (7.5, 15_000, False), "vsd": (7.5, 25_000, True), "esd": (7.5, 25_000, True),
        "sds": (101.0, 10_000, True), "debiased_sds": (101.0, 10_000, True), "perp_neg": (100.0, 10_000, True),
        "sds_bridge": (100.0, 25_000, True), "consdreamer": (101.0, 10_000, True), "sdi": (8.5, 10_000, True),
        "usd_sdi": (8.5, 10_000, False),
    }[method]  # fmt: skip
    config = resolve(JobRequest("x", method=method, prior="some/model", quality="final"))
    guidance = config.guidance
    assert (guidance.guidance_scale, config.optimize.num_steps, guidance.view_prompts) == expected
    assert bool(guidance.auxiliary_prompt) == (method in USD_METHODS)
    assert config.step("texture").guidance.guidance_scale == expected[0], (
        "the texture stage follows the same method"
    )


def test_a_distribution_is_a_setting() -> None:
    config = resolve(JobRequest("x", overrides={"rectifier.target": {"front": 1, "back": 2.5}}))
    assert config.rectifier.target == {"front": 1.0, "back": 2.5}
    with pytest.raises(RequestError, match="does not fit"):
        resolve(JobRequest("x", overrides={"rectifier.target": {"front": "much"}}))


@pytest.mark.parametrize("prior", ["builtin", "some/model"])
@pytest.mark.parametrize("quality", get_args(Quality))
def test_what_the_request_says_of_the_job_arrives(prior: str, quality: Quality) -> None:
    request = JobRequest(
        " a red bear ", prior=prior, quality=quality, method="vsd", pose_mode="marginal", seed=7, device="cuda:1",
        height_m=0.3, stages=("shape", "texture"),
    )  # fmt: skip
    config = resolve(request)
    assert (config.prompt, config.prior, config.method, config.pose_mode) == (
        "a red bear",
        prior,
        "vsd",
        "marginal",
    )
    assert (config.seed, config.device, config.height_m) == (7, "cuda:1", 0.3)
    assert config.stages == ("shape", "texture")


def test_a_draft_bakes_one_sample_a_texel() -> None:
    assert (
        resolve(JobRequest("x", quality="quick")).mesh.bake_samples
        == 1
        < resolve(JobRequest("x")).mesh.bake_samples
    )


def test_words_for_the_front_span_what_they_do_in_threestudio() -> None:
    """Its own 45 degrees to either side; those of ProlificDreamer, 30, for VSD and for what runs on it."""
    width = lambda method: (  # noqa: E731
        resolve(JobRequest("x", method=method, prior="some/model")).guidance.views.front_width_deg
    )
    assert {width(method) for method in ("sds", "debiased_sds", "perp_neg", "sdi")} == {90.0}
    assert {width(method) for method in ("vsd", "esd", "sds_bridge")} == {60.0}


def test_several_particles_have_ten_intervals_with_stable_diffusion() -> None:
    """n_i of the paper, B.3: 2 for one particle, 10 for four; a request may say otherwise."""
    intervals = lambda prior="some/model", **overrides: (  # noqa: E731
        resolve(
            JobRequest("x", prior=prior, overrides={k.replace("__", "."): v for k, v in overrides.items()})
        ).guidance.num_intervals
    )
    assert intervals() == 2 and intervals(optimize__num_particles=4) == 10
    assert intervals(optimize__num_particles=4, guidance__num_intervals=3) == 3
    assert intervals("builtin", optimize__num_particles=4) == intervals("builtin") == 4
