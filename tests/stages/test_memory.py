"""The memory that is free decides how a step is gone through, and what happens if it was not enough.

Stand-ins say what a GPU would; tests/gpu has real limits.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recdreamer import generate as generating
from recdreamer.config import GenerateConfig
from recdreamer.presets import resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.report import NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest
from recdreamer.stages import memory
from recdreamer.stages.memory import Way, fitted, stepped_down, ways

GIB = 2**30


def config_of(num_views: int = 1, **overrides: object) -> GenerateConfig:
    settings = {"optimize.num_views": num_views, **overrides}
    return resolve(JobRequest("a bear", prior="some model", overrides=settings))


def prior_on_gpu(
    dtype: torch.dtype = torch.bfloat16, image_px: int = 512, on: str = "cuda"
) -> DiffusionPrior:
    """One that is loaded, as far as its size matters."""
    unet = SimpleNamespace(dtype=dtype, device=torch.device(on))
    schedule = NoiseSchedule(torch.tensor([0.5]), "epsilon")
    return DiffusionPrior(unet, None, None, torch.nn.Identity(), schedule, image_px)


def gpu_of(monkeypatch: pytest.MonkeyPatch, free_gib: float, limit: float = 1.0) -> None:
    """A GPU with so much memory left of 100 GiB, where this process holds 2 and uses 1.5 of them."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int((free_gib - 0.5) * GIB), 100 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: int(1.5 * GIB))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: limit)
    monkeypatch.setattr(memory, "compact", lambda: None)


def test_ways_go_from_the_settings_own_to_the_least() -> None:
    assert list(ways(config_of(4))) == [Way(4, False), Way(2, False), Way(1, False), Way(1, True)]
    assert list(ways(config_of(3, **{"guidance.views_at_once": 2}))) == [
        Way(2, False), Way(1, False), Way(1, True),
    ]  # fmt: skip
    assert list(ways(config_of(1, **{"guidance.checkpointing": True}))) == [Way(1, True)]
    takes = [way.gib("usd", 1.0) for way in ways(config_of(4))]
    assert takes == sorted(takes, reverse=True)


@pytest.mark.parametrize(
    ("free_gib", "at_once", "checkpointing", "told"),
    [(90.0, 4, False, 0), (14.0, 2, False, 1), (9.0, 1, False, 1), (5.0, 1, True, 1), (3.0, 1, True, 2)],
)
def test_the_free_memory_decides_and_is_told(
    free_gib: float, at_once: int, checkpointing: bool, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of(monkeypatch, free_gib)
    said: list[str] = []
    config = fitted(config_of(4), prior_on_gpu(), said.append)
    views = config.guidance.views_at_once or 4
    assert (views, config.guidance.checkpointing, len(said)) == (at_once, checkpointing, told)
    assert all(f"{free_gib:.1f} GiB free" in line for line in said)
    if said:
        assert ("1 of 4 views" in said[-1]) == (at_once == 1)


@pytest.mark.parametrize(
    ("free_gib", "per_ray"), [(90.0, 48), (9.0, 48), (7.0, 48), (4.5, 48), (4.0, 40), (3.6, 29), (3.0, 24)]
)
def test_there_are_fewer_samples_where_no_way_fits(
    free_gib: float, per_ray: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only there, because it is all that changes the result."""
    gpu_of(monkeypatch, free_gib)
    said: list[str] = []
    config = fitted(config_of(1), prior_on_gpu(), said.append)
    assert config.render.samples_per_ray == per_ray
    takes = next(ways(config)).gib("usd", 1.0) - (48 - per_ray) * 256**2 * 580 / GIB
    assert (takes <= 0.93 * free_gib + 1e-6) != any("may run out" in line for line in said)
    assert (per_ray < 48) == any("a little coarser" in line for line in said)


def test_no_limit_of_samples_is_one_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_of(monkeypatch, 4.0)
    assert (
        24
        <= fitted(config_of(1, **{"render.samples_per_ray": 0}), prior_on_gpu()).render.samples_per_ray
        < 144
    )


def test_the_text_encoder_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes before the first step."""
    gpu_of(monkeypatch, 7.4)
    prior = prior_on_gpu()
    assert fitted(config_of(1), prior).guidance.checkpointing
    prior.text_encoder = torch.nn.Linear(1024, 1024 * 300, dtype=torch.bfloat16, device="meta")
    assert prior.text_encoder_bytes > 0.58 * GIB
    assert not fitted(config_of(1), prior).guidance.checkpointing


def test_a_limit_of_the_process_counts_like_a_smaller_card(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_of(monkeypatch, 90.0, limit=0.08)
    assert memory.free_gib(torch.device("cuda")) == pytest.approx(6.5)


def test_large_pictures_and_single_precision_take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_of(monkeypatch, 9.0)
    said: list[str] = []
    for prior in (prior_on_gpu(torch.float32), prior_on_gpu(image_px=768)):
        assert fitted(config_of(1), prior, said.append).guidance.checkpointing
    assert len(said) == 2
    assert not fitted(config_of(1), prior_on_gpu(), said.append).guidance.checkpointing


def test_nothing_changes_on_a_cpu_and_for_the_embedded_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_of(monkeypatch, 1.0)
    embedded = resolve(JobRequest("a red bear"))
    assert fitted(embedded, prior_on_gpu()) is embedded
    assert fitted(config_of(4), prior_on_gpu(on="cpu")) == config_of(4)


class Warnings(NullReport):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, message: str) -> None:
        self.said.append(message)


def run_out_of_memory(
    times: int, config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, folder: Path, device: str = "cuda"
) -> tuple[list[GenerateConfig], list[str]]:
    """The configurations of a job's attempts, whose first ones run out of memory, and what it said."""
    tried: list[GenerateConfig] = []

    def prepare(
        job: JobFolder, config: GenerateConfig, report: Warnings, seeds: object = None
    ) -> SimpleNamespace:
        tried.append(config)
        start = SimpleNamespace(may_turn=False)
        return SimpleNamespace(
            config=config, seeds={}, device=torch.device(device), start=start, has=lambda stage: False
        )

    def stages(run: SimpleNamespace) -> list:
        if len(tried) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return []

    for name, stand_in in {
        "prepare_run": prepare, "run_stages": stages, "write_result": lambda run, pieces: None,
        "compact": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(generating, name, stand_in)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    report = Warnings()
    try:
        generating.generate(JobFolder(folder), config, report)
    finally:
        said = report.said
    return tried, said


def test_a_job_that_runs_out_of_memory_steps_down_once_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, second), (line,) = run_out_of_memory(1, config_of(4), monkeypatch, tmp_path)
    assert first == config_of(4) and second == stepped_down(first)
    assert "ran out of memory" in line and "2 of 4 views at a time" in line
    with pytest.raises(torch.OutOfMemoryError):
        run_out_of_memory(2, config_of(4), monkeypatch, tmp_path)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_job_that_can_take_no_less_fails(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU memory is not what these ways save."""
    config = config_of(1, **{"guidance.checkpointing": device == "cuda"})
    with pytest.raises(torch.OutOfMemoryError):
        run_out_of_memory(1, config, monkeypatch, tmp_path, device)


def test_large_pictures_go_through_the_autoencoder_few_at_a_time() -> None:
    few = {px: prior_on_gpu(image_px=px, on="cpu").decoded_at_once for px in (64, 256, 512, 768, 1024)}
    assert few == {64: 8, 256: 8, 512: 2, 768: 1, 1024: 1}
