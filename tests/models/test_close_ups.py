"""Close-ups that sharpen a painted mesh: where they look, what they leave, and that they can be resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from recdreamer.cameras import orbit_cameras
from recdreamer.config import GenerateConfig
from recdreamer.distillation import methods
from recdreamer.field import RadianceField
from recdreamer.generate import generate
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.mesh import Mesh
from recdreamer.models.close_ups import CloseUps
from recdreamer.models.painting import Painting, unevenness
from recdreamer.optimize import timesteps_of
from recdreamer.presets import EMBEDDED_FIELD, resolve
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.report import Cancelled, NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest, RequestError, write_atomically

CPU = torch.device("cpu")
SETTINGS = {
    "texture.num_steps": 0, "texture.num_views": 2, "texture.render_px": 24, "texture.smoothness": 0,
    "texture.detail_steps": 20, "texture.detail_zoom": 3.0,
}  # fmt: skip


def config(**changes) -> GenerateConfig:
    return resolve(JobRequest("a red bear", overrides=SETTINGS | changes))


def subject(**changes) -> CloseUps:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.6)
    mesh = Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32))
    settings = config(**changes)
    return CloseUps(settings, Painting(settings, mesh, RadianceField(EMBEDDED_FIELD, 0), CPU))


def step(of: CloseUps, number: int, wanted: torch.Tensor) -> None:
    """One step towards a picture, with the close-up itself in the place of its latents."""
    generator = torch.Generator().manual_seed(number)
    shown = of.render(of.cameras(number), number, generator)
    of.descend(shown, shown.rgb, (shown.rgb - wanted).detach(), number, generator)


def stripes() -> torch.Tensor:
    """Of one pixel each, as grey from afar as the field is at first."""
    return torch.tensor([0.0, 1.0]).repeat(12).expand(3, 24, 24)


def test_they_look_at_places_of_the_surface_that_they_see_and_never_at_the_same() -> None:
    of, places = subject(), []
    for number in range(4):
        cameras = of.cameras(number)
        (middle, other) = of.painting.look(cameras, 25)
        for view, sight in enumerate((middle, other)):
            assert sight.coverage[0, 12, 12] == 1, "the surface is in the middle"
            place = sight.xyz[(sight.pixels == 12 * 25 + 12)].mean(0)
            assert place.norm().item() == pytest.approx(0.6, abs=0.01)
            assert place @ cameras.c2w[view, :3, 3] > 0, "on the side that faces the camera"
            places.append(place)
    apart = torch.cdist(torch.stack(places), torch.stack(places))
    assert apart[~torch.eye(8, dtype=torch.bool)].min() > 0.01


def test_where_a_view_misses_the_mesh_it_looks_at_the_middle() -> None:
    of = subject()
    away = orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), 0.01, 30.0)
    away.c2w[0, :3, 3] = torch.tensor([50.0, 0.0, 0.0])
    points = of.painting.seen_points(away, torch.Generator())
    assert torch.equal(points, torch.zeros(1, 3))


def test_a_step_that_sees_nothing_changes_nothing() -> None:
    of = subject()
    before = of.painting.field.grid.table.detach().clone()
    away = orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), 0.01, 30.0)
    away.c2w[0, :3, 3] = torch.tensor([50.0, 0.0, 0.0])
    shown = of.render(away, 0, torch.Generator())
    assert len(shown.now.xyz) == 0
    of.descend(shown, shown.rgb, torch.ones_like(shown.rgb), 0, torch.Generator())
    assert torch.equal(of.painting.field.grid.table, before) and of.first_bad_step == float("inf")


def test_coarse_colours_stay_where_a_close_up_wants_others() -> None:
    red, changed = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 24, 24), []
    for hold in (0.0, 1e5):
        of = subject(**{"texture.detail_hold": hold, "texture.grid_learning_rate": 0.05})
        before = of.painting.picture(of.cameras(0), 8)
        for _ in range(12):
            step(of, 0, red)
        changed.append((of.painting.picture(of.cameras(0), 8) - before).abs().mean().item())
    assert changed[0] > 0.05 and changed[1] < 0.2 * changed[0]


def test_fine_things_appear() -> None:
    of = subject()

    def sharpness() -> float:
        picture = of.painting.picture(of.cameras(0), 24)[..., 4:-4, 4:-4]
        return picture.diff(dim=3).abs().mean().item()

    at_first = sharpness()
    for _ in range(12):
        step(of, 0, stripes())
    assert sharpness() > 3 * at_first


def test_the_network_is_left_alone_so_that_unseen_places_keep_their_colours() -> None:
    of = subject()
    behind = torch.nn.functional.normalize(of.cameras(0).c2w[:, :3, 3].mean(0), dim=0)[None] * -0.6
    named = {k: v.clone() for k, v in of.painting.field.state_dict().items()}
    before = of.painting.color(behind).detach()
    for _ in range(5):
        step(of, 0, stripes())
    changed = {k for k, v in of.painting.field.state_dict().items() if not torch.equal(v, named[k])}
    assert changed == {"grid.table"}
    assert (of.painting.color(behind).detach() - before).abs().max() < 0.02


def test_a_resumed_surface_continues_as_if_never_stopped() -> None:
    whole, first, second = subject(), subject(), subject()
    for number in range(4):
        step(whole, number, stripes())
    for number in range(2):
        step(first, number, stripes())
    second.load(first.tensors())
    for number in (2, 3):
        step(second, number, stripes())
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


def test_they_take_little_noise_their_own_words_and_no_rectifier() -> None:
    request = JobRequest("a red bear", prior="some/model", overrides={"texture.detail_steps": 9})
    settings = resolve(request).step("close_ups")
    schedule = NoiseSchedule(torch.linspace(0.999, 0.01, 1000), "epsilon")
    assert all(timesteps_of(settings.guidance, schedule, k, 9) == (20, 300) for k in range(9))
    assert settings.method == "vsd" and settings.num_steps == 9
    assert (
        "close-up" in settings.guidance.auxiliary_prompt and "view" not in settings.guidance.auxiliary_prompt
    )
    other = resolve(JobRequest("a red bear", method="esd")).step("close_ups")
    assert other.method == "esd"


@pytest.mark.parametrize(
    "wrong", [{"texture.detail_zoom": 0.5}, {"texture.detail_noise": 0.01}, {"texture.detail_noise": 1.5}]
)
def test_invalid_settings_of_close_ups_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong)).split(".")[1]):
        config(**wrong)


class Recorder(NullReport):
    """Cancels after the given number of steps of the texture stage."""

    def __init__(self, stop_after: int = 99) -> None:
        self.stop_after, self.name = stop_after, ""
        self.steps: list[tuple[int, int]] = []

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None:
        self.name = name

    def progress(self, step: int, total: int) -> None:
        if self.name == "texture":
            self.steps.append((step, total))
            if step >= self.stop_after:
                raise Cancelled


def test_a_job_counts_and_resumes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of USD: a method with a rectifier, which is asked in the texture's own steps alone."""
    used, usd = [], methods.Guide._usd
    monkeypatch.setattr(
        methods.Guide, "_usd", lambda self, x, *more: used.append(x.step) or usd(self, x, *more)
    )
    small = {
        "texture.num_steps": 1, "texture.num_views": 1, "texture.render_px": 32, "texture.detail_steps": 2,
        "mesh.texture_size_px": 64,
    }  # fmt: skip
    request = JobRequest("a red bear", device="cpu", start="texture", start_mesh="mesh.npz", overrides=small)
    ball = trimesh.creation.icosphere(2, 0.3)

    def job(name: str) -> JobFolder:
        folder = JobFolder(tmp_path / name)
        folder.root.mkdir()
        write_atomically(folder.request, request.to_json())
        np.savez(
            folder.root / "mesh.npz",
            verts=ball.vertices.astype(np.float32),
            faces=ball.faces.astype(np.int32),
        )
        return folder

    def painted(folder: JobFolder) -> bytes:
        return (folder.result / "albedo.png").read_bytes()

    whole, settings = Recorder(), resolve(request)
    generate(job("whole"), settings, whole)
    assert whole.steps == [(1, 3), (2, 3), (3, 3)], "part of one stage"
    assert used == [0], "close-ups have no pose"
    stored = CheckpointStore(JobFolder(tmp_path / "whole").checkpoints).newest("detail")
    assert stored is not None and stored.final and stored.step == 2
    assert any(name.startswith("lora") for name in stored.tensors)

    halted = job("halted")
    shutil.copytree(tmp_path / "whole" / "templates", halted.templates)
    with pytest.raises(Cancelled):
        generate(halted, settings, Recorder(stop_after=2))
    rest = Recorder()
    generate(halted, settings, rest)
    assert rest.steps == [(3, 3)]
    assert painted(halted) == painted(JobFolder(tmp_path / "whole"))


@pytest.mark.parametrize("zoom", [1.0, 4.0])
def test_near_points_are_nearer_in_a_close_up_by_its_magnification(
    zoom: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = subject(
        **{"texture.smoothness": 30.0, "texture.smoothing_radius": 0.04, "texture.detail_zoom": zoom}
    )
    with torch.no_grad():
        of.painting.field.grid.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    of.before.load_state_dict(of.painting.field.state_dict())
    losses: list[torch.Tensor] = []
    monkeypatch.setattr(of.descent, "step", lambda loss, step, share: losses.append(loss))
    shown = of.render(of.cameras(0), 0, torch.Generator())
    of.descend(shown, shown.rgb, torch.zeros_like(shown.rgb), 0, torch.Generator().manual_seed(5))
    wanted = unevenness(
        of.painting.field, shown.now.xyz, 0.04 / zoom, torch.Generator().manual_seed(5)
    ).item()
    assert wanted > 1e-6 and losses[0].item() == pytest.approx(30 * wanted, rel=1e-3)


def test_the_places_are_those_of_the_seed_and_not_those_of_the_steps_own_numbers() -> None:
    def places(seed: int) -> torch.Tensor:
        ball = trimesh.creation.icosphere(subdivisions=2, radius=0.6)
        mesh = Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32))
        settings = resolve(JobRequest("a red bear", seed=seed, overrides=SETTINGS))
        painting = Painting(settings, mesh, RadianceField(EMBEDDED_FIELD, 0), CPU)
        return CloseUps(settings, painting).cameras(1).c2w

    assert torch.equal(places(1), places(1)) and not torch.allclose(places(1), places(2))
