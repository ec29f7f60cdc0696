"""Templates for the studies: what they show, and that they are what a job takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.mesh_distance import figure_bounds
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.evaluation.study_templates import SOURCES, stand_in_mesh, write_templates
from recdreamer.pose.templates import templates_in
from recdreamer.shared.protocol import RequestError

from .known_meshes import figure_of


def seen(pictures: dict[str, torch.Tensor]) -> list[str]:
    """What the oracle sees in each."""
    views = torch.nn.functional.interpolate(torch.stack(list(pictures.values())), 64, mode="area")
    return [POSES[k] for k in load_oracle().pose_probs(views).argmax(-1).tolist()]


@pytest.mark.parametrize("kind", ["bear", "bird", "robot", "rabbit"])
@pytest.mark.parametrize("source", ["turntable", "by hand", "other renders"])
def test_every_picture_shows_the_side_that_it_is_named_after(source: str, kind: str) -> None:
    pictures = SOURCES[source](f"a red {kind}")
    assert list(pictures) == list(POSES) == seen(pictures)


def test_sketches_are_lines_on_paper() -> None:
    pictures = SOURCES["sketches"]("a red bear")
    assert list(pictures) == ["front-sketch", "right-sketch", "back-sketch"]
    for picture in pictures.values():
        assert picture.median() > 0.9 and picture.min() < 0.3 and (picture < 0.5).float().mean() < 0.35


def test_the_other_generator_leaves_out_the_hat() -> None:
    """Its mesh is coarse, of other proportions, and the same with and without a hat in the prompt."""
    with_hat, without = (SOURCES["other renders"](f"a red bear{hat}") for hat in (" wearing a hat", ""))
    assert all(torch.equal(with_hat[pose], without[pose]) for pose in POSES)
    true = SOURCES["turntable"]("a red bear wearing a hat")
    views = torch.nn.functional.interpolate(torch.stack([true["front"], with_hat["front"]]), 64, mode="area")
    hats = load_oracle().hat_probs(views)
    assert hats[0] > 0.5 > hats[1]
    mesh = stand_in_mesh(figure_of("a red bear"))
    lo, hi = figure_bounds(figure_of("a red bear"))
    assert len(mesh.faces) <= 1500 and abs(mesh.verts[:, 2].max() - hi[2]) < 0.06 > abs(
        mesh.verts[:, 2].min() - lo[2]
    )


def test_a_job_finds_them_and_their_azimuths(tmp_path: Path) -> None:
    for source in SOURCES:
        write_templates(source, "a red bear", tmp_path / source)
        found = {template.label: template.azimuth_deg for template in templates_in(tmp_path / source)}
        assert found == {"front": 0.0, "right": 90.0, "back": 180.0, "left": 270.0}
    before = (tmp_path / "turntable" / "front.png").stat().st_mtime_ns
    write_templates("turntable", "a red bear", tmp_path / "turntable")
    assert (tmp_path / "turntable" / "front.png").stat().st_mtime_ns == before


def test_other_prompts_have_no_figure() -> None:
    with pytest.raises(RequestError, match="no figure for the prompt 'a chair'"):
        SOURCES["turntable"]("a chair")
