"""Cases of block-outs: what is drawn, and which cases share a run."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from recdreamer.pose.templates import PoseTemplate

FOLDER = str(Path(__file__).resolve().parents[2] / "tools" / "measure")
sys.path.insert(0, FOLDER)
try:
    import blockout_runs
    from sample_runs import SEEDS
finally:
    sys.path.remove(FOLDER)


def test_a_draw_has_every_block_out_for_every_seed_of_a_figure() -> None:
    drawn = blockout_runs.cases(7, 2)
    assert len(set(drawn)) == len(drawn) == 4 * 2 * 3 * 2 * 2
    assert {case.prompt for case in drawn} == {
        "a red bear", "a blue bird", "a yellow robot", "a purple rabbit",
    }  # fmt: skip
    seeds = {case.kind: {c.seed for c in drawn if c.kind == case.kind} for case in drawn}
    assert all(len(own) == 2 for own in seeds.values())
    assert len(set().union(*seeds.values())) == 8
    assert all(case.seed in SEEDS for case in drawn)
    assert {c.blockout for c in drawn if c.kind == "bear" and c.look == "solid"} == {
        "solid/bear-grey-face", "solid/bear-grey-faceless", "solid/bear-red-face", "solid/bear-red-faceless",
    }  # fmt: skip


def test_a_draw_is_told_by_its_number() -> None:
    assert blockout_runs.cases(7, 2) == blockout_runs.cases(7, 2)
    assert blockout_runs.cases(7, 2) != blockout_runs.cases(8, 2)


def test_templates_are_the_same_if_all_that_a_job_uses_is() -> None:
    template = PoseTemplate("front", torch.rand(3, 4, 4), None, 0.0)
    found = blockout_runs.digest([template])
    assert blockout_runs.digest([replace(template, image=template.image.clone())]) == found
    for other in (
        replace(template, image=template.image.flip(-1)),
        replace(template, label="back"),
        replace(template, azimuth_deg=180.0),
        replace(template, weight=0.5),
    ):
        assert blockout_runs.digest([other]) != found


def test_cases_share_a_run_only_with_the_same_prompt_seed_and_templates() -> None:
    grey = blockout_runs.Case("bear", 5, "solid", "grey", "face")
    alike, drawn, later = replace(grey, look="rendered"), replace(grey, color="red"), replace(grey, seed=6)
    runs = blockout_runs.shared_runs({grey: "a", alike: "a", drawn: "b", later: "a"})
    assert runs == {grey: [grey, alike], drawn: [drawn], later: [later]}
