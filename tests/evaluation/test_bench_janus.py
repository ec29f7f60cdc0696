"""The benchmark's plan, its tables and its report, on rows that are known; the runs themselves in test_job_runs.py."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from recdreamer.cameras import orbit
from recdreamer.cli.main import main
from recdreamer.evaluation import job_runs, particles_2d_job
from recdreamer.evaluation.bench_janus import (
    JanusBench,
    collect,
    estimate,
    planned,
    recount,
    with_made_templates,
)
from recdreamer.evaluation.bench_report import write_report
from recdreamer.evaluation.bench_suites import EIGHT_PROMPTS, PAPER_PROMPTS, SUITES, prompts_of, suite_of
from recdreamer.evaluation.bench_summary import (
    CONSISTENCY,
    Metric,
    Reference,
    as_markdown,
    estimate_of,
    failures_of,
    fid_of,
    means_table,
    scores_table,
)
from recdreamer.evaluation.figurines import POSES, photograph
from recdreamer.evaluation.html_page import lines, picture, table, whiskers
from recdreamer.evaluation.job_runs import METHODS
from recdreamer.evaluation.measure_result import split_row
from recdreamer.evaluation.mesh_distance import figure_or_none, true_surface
from recdreamer.evaluation.mesh_views import true_views
from recdreamer.evaluation.study_templates import SOURCES
from recdreamer.images import write_picture, write_sheet
from recdreamer.presets import EMBEDDED_CAMERAS, resolve
from recdreamer.shared.protocol import JobFolder, JobRequest, RequestError
from recdreamer.shared.worlds import WORLDS
from recdreamer.stages.particles_2d import check_config

ROWS = [
    {"method": "vsd", "prompt": "a red bear", "seed": 1, "folder": "v1", "janus_score": 2.0, "success": 0.0,
     "pose_entropy": 0.4, "azimuth_agreement": 0.3, "agreement_unrotated": 0.2, "seconds": 10.0, "device": "cpu"},
    {"method": "vsd", "prompt": "a blue bird", "seed": 1, "folder": "v2", "janus_score": 1.0, "success": 0.0,
     "pose_entropy": 0.6, "azimuth_agreement": 0.5, "agreement_unrotated": 0.2, "seconds": 12.0, "device": "cpu"},
    {"method": "usd-camera", "prompt": "a red bear", "seed": 1, "folder": "u1", "janus_score": 0.0, "success": 1.0,
     "pose_entropy": 1.0, "azimuth_agreement": 1.0, "agreement_unrotated": 1.0, "seconds": 20.0, "device": "cpu"},
    {"method": "usd-camera", "prompt": "a blue bird", "seed": 1, "folder": "u2", "failed": "No memory <was> left."},
]  # fmt: skip


def bench(out: Path, name: str = "small") -> JanusBench:
    return JanusBench(out, suite_of(name), suite_of(name).prior, "cpu")


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_a_plan_of_valid_jobs(name: str, tmp_path: Path) -> None:
    runs, suite = planned(bench(tmp_path, name)), SUITES[name]
    cells = len(suite.methods) * len(suite.prompts) * len(suite.seeds) * len(suite.variants)
    assert len(runs) == cells * max(1, len(suite.sources))
    assert len({run.folder for run in runs}) == len(runs)
    assert set(suite.sources) <= {"", *SOURCES}
    resolved = {run.group: (resolve(run.request), run.made) for run in runs}
    assert len(set(map(str, resolved.values()))) == len(resolved), "a variant changes nothing"


@pytest.mark.parametrize("name", SUITES)
def test_a_smoke_of_every_suite_has_all_its_variants_and_few_steps(name: str, tmp_path: Path) -> None:
    suite = SUITES[name].smoke()
    runs = planned(JanusBench(tmp_path, suite, suite.prior, "cpu"))
    assert len(runs) == len(SUITES[name].variants) * max(1, len(SUITES[name].sources)) <= 4
    for run in runs:
        settings = resolve(run.request).optimize
        assert settings.num_steps <= 16 and settings.num_views == 2 and settings.num_particles <= 4
        if run.request.kind == "particles":
            check_config(resolve(run.request))


def test_made_templates_are_in_the_jobs_of_their_study(tmp_path: Path) -> None:
    """And none is made before a run."""
    study = JanusBench(tmp_path / "b", SUITES["templates"].smoke(), "builtin", "cpu")
    runs = planned(study)
    assert not (tmp_path / "b").exists()
    assert [run.group for run in runs] == [
        "usd-camera, templates drawn", "usd-camera, templates turntable",
        "usd-camera, templates by hand", "usd-camera, templates sketches",
    ]  # fmt: skip
    counts = []
    for run in runs:
        job_runs.prepare(run.folder, with_made_templates(study, run))
        templates = JobFolder(run.folder).read_request().templates
        assert all((run.folder / template.image).exists() for template in templates)
        counts.append(len(templates))
    assert counts == [0, 4, 4, 4]


def test_variants_are_chosen_by_name() -> None:
    suite = SUITES["jacobian"].with_choices(variants=["without"])
    assert suite.variants == {"without": {"rectifier.jacobian": False}}
    with pytest.raises(RequestError, match="no variant 'off'"):
        suite.with_choices(variants=["off"])


def test_cameras_are_drawn_by_the_bias_and_against_it() -> None:
    variants = SUITES["q-sampling"].variants
    drawn, rare = (
        variants[name]["cameras.azimuth_probs"] for name in ("as often as drawn", "rare sides more often")
    )
    assert drawn == [0.65, 0.10, 0.15, 0.10]
    assert [a * b for a, b in zip(drawn, rare, strict=True)] == pytest.approx([0.05] * 4, abs=1e-4)


def test_the_smallest_study_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command: four 2D particles in eight steps that want the back; and a second call has nothing left to do."""
    command = [
        "bench", "janus", "--out", str(tmp_path), "--suite", "control", "--smoke", "--variants", "wants back",
        "--device", "cpu", "--reference", "3",
    ]  # fmt: skip
    for left in (1, 0):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 0 and f"{left} of 1 runs are left" in capsys.readouterr().out
    (row,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert "failed" not in row and row["steps"] == 16 and sum(row["counts_2d"].values()) == 4
    assert row["wanted_share"] == row["counts_2d"]["back"] / 4
    trace = json.loads((tmp_path / "runs" / row["folder"] / "poses.json").read_text())
    assert trace[-1]["step"] <= 16 and sum(trace[-1][pose] for pose in POSES) == pytest.approx(1)
    assert "Poses over the steps" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_variants_are_compared_by_a_plot(tmp_path: Path) -> None:
    rows = [
        row | {"method": f"usd-camera, {name}", "prompt": prompt}
        for name, row in (("with", ROWS[0]), ("without", ROWS[2]))
        for prompt in ("a red bear", "a blue bird")
    ]
    write_report(tmp_path, "jacobian", rows, [], {"what it asks": "?"})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    entropy = page[page.index("entropy ↑") :].split("</svg>")[0]
    assert ">with<" in entropy and ">without<" in entropy and "usd-camera" not in entropy
    x = [float(found) for found in re.findall(r'<circle cx="([\d.]+)"', entropy)]
    assert x == pytest.approx([150 + 166 * 0.4, 150 + 166 * 1.0], abs=0.06)
    assert "Compared" not in _report_of([ROWS[0]], tmp_path)
    readings = {
        "timesteps": [100, 900],
        "accuracy": {"clean estimate": [1.0, 0.5]},
        "truth": {"clean estimate": [1.0, 0.0]},
    }
    (tmp_path / "readings.json").write_text(json.dumps(readings))
    assert "What is read from noise" in _report_of(rows, tmp_path)


def _report_of(rows: list[dict], folder: Path) -> str:
    write_report(folder, "t", rows, [], {"what it asks": "?"})
    return (folder / "report.html").read_text(encoding="utf-8")


def test_an_interval_that_is_not_known_is_left_out() -> None:
    found = whiskers("t", {"a": (0.5, 0.25, 0.75), "b": (2.0, math.nan, math.nan)})
    assert found.count('stroke-width="2"') == 1 and found.count("<circle") == 2
    assert 'cx="316.0"' in found, "the greatest number is at the right end"


def test_the_animals_are_in_their_world() -> None:
    suite = SUITES["animals"]
    assert suite.prior == "animals" and set(suite.prompts) <= set(WORLDS["animals"].prompts)
    assert set(EIGHT_PROMPTS) <= set(WORLDS["figurines"].prompts) and prompts_of(["animals"]) == suite.prompts


def test_the_prompts_are_those_of_table_7() -> None:
    """In the order of the printed table, whose words run over into the next column."""
    assert (
        len(PAPER_PROMPTS) == 22
        and PAPER_PROMPTS[13] == "A sea turtle."
        and PAPER_PROMPTS[2] == "A blue motorcycle."
    )
    assert prompts_of(["paper", "a red bear"]) == (*PAPER_PROMPTS, "a red bear")
    assert prompts_of(["eight"]) == EIGHT_PROMPTS


def test_sources_of_templates_are_variants(tmp_path: Path) -> None:
    for source in ("mine", "other"):
        for prompt in ("a-red-bear", "a-blue-bird"):
            (tmp_path / source / prompt).mkdir(parents=True)
            write_picture(tmp_path / source / prompt / "front.png", torch.rand(3, 16, 16))
            write_picture(tmp_path / source / prompt / "back.png", torch.rand(3, 16, 16))
    sources = (str(tmp_path / "mine"), str(tmp_path / "other"))
    runs = planned(JanusBench(tmp_path, SUITES["small"], "builtin", templates=sources))
    assert len(runs) == 8 and len({run.folder for run in runs}) == 8
    assert {Path(run.request.templates[0].image).parents[1].name for run in runs} == {"mine", "other"}
    assert all(len(run.request.templates) == 2 for run in runs)
    with pytest.raises(RequestError, match="No pictures"):
        planned(JanusBench(tmp_path, SUITES["small"], "builtin", templates=(str(tmp_path / "none"),)))


def test_2d_particles_are_counted_by_the_pose_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(run for run in planned(bench(tmp_path, "control")) if run.variant == "wants back")
    job_runs.prepare(run.folder, run.request)
    counts = {"front": 4, "right": 0, "back": 12, "left": 0}

    def finish(job: JobFolder, request: JobRequest, report: object) -> None:
        job.result.mkdir()
        write_picture(job.root / "particles.png", torch.zeros(3, 8, 8))
        found = {
            "seconds": 2.0,
            "steps": 5,
            "device": "cpu",
            "particles": 16,
            "oracle": {"counts": counts, "pose_entropy": 0.4},
        }
        (job.result / "report.json").write_text(json.dumps(found))

    monkeypatch.setattr(particles_2d_job, "particles_job", finish)
    job_runs.run_one(run.folder)
    row = job_runs.read_row(run.folder)
    assert row["wanted_share"] == 0.75 and row["pose_entropy"] == 0.4
    check_config(resolve(run.request))
    found = means_table("t", [row | {"method": run.group, "prompt": run.prompt}], CONSISTENCY)
    assert found.columns == ("method", "finished", "entropy ↑", "wanted pose ↑")


def test_an_interrupted_benchmark_has_every_method_and_prompt(tmp_path: Path) -> None:
    runs = planned(bench(tmp_path, "bar"))
    first = runs[: len(runs) // 3]
    assert {run.seed for run in first} == {2001} and len({(run.method, run.prompt) for run in first}) == 24


def test_what_is_done_is_not_estimated_again(tmp_path: Path) -> None:
    runs = planned(bench(tmp_path))
    assert estimate(bench(tmp_path), runs).startswith("4 of 4 runs are left, about ")
    for run in runs[:3]:
        run.folder.mkdir(parents=True)
        (run.folder / "row.json").write_text('{"seconds": 3600}')
    assert estimate(bench(tmp_path), runs).startswith("1 of 4 runs are left, about 60 min"), (
        "as long as its like"
    )
    runs[0].folder.joinpath("row.json").unlink()
    (runs[0].folder / "failed.txt").write_text("No memory was left.")
    assert estimate(bench(tmp_path), runs).startswith("2 of 4 runs are left")


def test_wrong_names_are_refused_with_the_right_ones() -> None:
    with pytest.raises(RequestError, match="no suite 'bars'"):
        suite_of("bars")
    with pytest.raises(RequestError, match="no method 'usd'"):
        SUITES["small"].with_choices(["usd"])


def test_prompts_that_begin_alike_are_reported(tmp_path: Path) -> None:
    long = "a figure that is described at such length that "
    suite = SUITES["small"].with_choices(prompts=[long + "it ends so", long + "it ends otherwise"])
    with pytest.raises(RequestError, match="begin alike"):
        planned(JanusBench(tmp_path, suite, "builtin"))


def test_failed_runs_are_counted_and_never_dropped() -> None:
    entropy = estimate_of([row for row in ROWS if row["method"] == "usd-camera"], CONSISTENCY[0])
    assert entropy is not None and entropy.mean == 0.5 and entropy.count == 2
    seconds = estimate_of(
        [row for row in ROWS if row["method"] == "usd-camera"], Metric("seconds", "s", "↓", "", 0, None)
    )
    assert seconds is not None and seconds.mean == 20.0
    found = means_table("Consistency", ROWS, CONSISTENCY)
    assert found.rows["usd-camera"][0] == "1 of 2" and found.rows["vsd"][1].startswith("0.500 [")
    assert failures_of(ROWS) == [("u2", "No memory <was> left.")]
    assert "u2: No memory <was> left." in as_markdown([found], {}, ROWS)


def test_table_5_has_every_statistic() -> None:
    found = scores_table(ROWS)
    assert found is not None and found.rows["vsd"] == ("1.50", "0.71", "1.50", "1.00", "1.00", "2.00", "1.00")
    assert scores_table([ROWS[3]]) is None


def test_fid_of_the_reference_itself_is_zero_and_its_interval_has_the_value_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    features = {str(k): torch.randn(12, 3, generator=generator) + k for k in range(6)}
    poses = torch.arange(72) % 4
    reference = Reference(
        "test",
        torch.cat(list(features.values())),
        tuple(k for k in features for _ in range(12)),
        poses,
        lambda p: p,
    )
    same = fid_of(features, reference)
    assert same["fid"][0] == pytest.approx(0, abs=1e-6) and same["pictures"] == 72
    assert same["ufid"][0] == pytest.approx(0, abs=1e-6), "every pose comes equally often already"
    moved = fid_of({name: points + 2 for name, points in features.items()}, reference)
    assert moved["fid"][0] == pytest.approx(12) and moved["fid"][1] <= 12 <= moved["fid"][2]


def finished_run(folder: Path, row: dict) -> None:
    folder.mkdir(parents=True)
    images = photograph(24, torch.Generator().manual_seed(0)).images
    write_sheet(folder / "views.png", images, 24)
    (folder / "result").mkdir()
    write_sheet(folder / "result" / "contact-sheet.png", images[::2], 12, enlarge=2)
    (folder / "row.json").write_text(json.dumps(row))
    (folder / "poses.json").write_text(
        json.dumps([{"step": k, **dict.fromkeys(POSES, 0.25)} for k in (0, 50)])
    )


def test_a_row_of_pictures_is_split_again(tmp_path: Path) -> None:
    images = photograph(5, torch.Generator().manual_seed(0)).images
    write_sheet(tmp_path / "row.png", images, 5)
    assert (split_row(tmp_path / "row.png", 5) - images).abs().max() < 0.5 / 255 + 1e-6


def test_results_are_collected_into_a_page_that_needs_no_other_file(tmp_path: Path) -> None:
    small = JanusBench(tmp_path, SUITES["small"], "builtin", "cpu", reference_count=3)
    runs = planned(small)
    for run in runs[:3]:
        finished_run(run.folder, ROWS[0] | {"seconds": 5.0})
    runs[3].folder.mkdir(parents=True)
    (runs[3].folder / "failed.txt").write_text("No memory <was> left.")
    found = collect(small, runs)
    lines_written = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines_written) == 4 and sum("failed" in json.loads(line) for line in lines_written) == 1
    assert {table["title"].split(" by")[0] for table in found["tables"]} >= {
        "Consistency",
        "Fréchet distances",
    }
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3 and "<svg" in page and "Failed or not run (1)" in page
    assert "No memory &lt;was&gt; left." in page and "<was>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "nothing is fetched"
    assert len(list((tmp_path / "reference").glob("*.png"))) == 2


def test_runs_are_counted_again_from_what_they_have_kept(tmp_path: Path) -> None:
    """A true bear whose ears an earlier version took for one; one of that version, which has kept pictures alone; and
    birds that have kept neither, which stay as they were."""
    small = JanusBench(tmp_path, SUITES["small"], "builtin", "cpu", reference_count=3)
    runs, old = planned(small), ROWS[2] | {"field_chamfer": 0.02, "janus_score": 0.5, "success": 0.0}
    bears = [run for run in runs if run.prompt == "a red bear"]
    bird = next(run for run in runs if run not in bears)
    cameras = orbit(24, EMBEDDED_CAMERAS, torch.device("cpu"), 7.5)
    figure = figure_or_none("a red bear")
    assert figure is not None
    for run in bears:
        finished_run(run.folder, old)
        write_sheet(run.folder / "views.png", true_views(figure, cameras, 64), 24)
    finished_run(bird.folder, old)
    (bird.folder / "views.png").unlink()
    points = true_surface(figure, 20_000).points.astype(np.float16)
    np.savez_compressed(bears[0].folder / "surface.npz", points=points)
    said = recount(small, runs)
    assert said.startswith("R of 2 of 3 finished runs was counted again. Ears of 1 were counted on the hull")
    assert said.endswith(f"Not enough has been kept by {bird.folder.name}.")
    for run, source in zip(bears, ("surface", "pictures"), strict=True):
        renewed = job_runs.read_row(run.folder)
        assert renewed["janus_score"] == 0 and renewed["success"] == 1 and renewed["seconds"] == 20
        assert renewed["ears_from"] == source
    assert job_runs.read_row(bird.folder) == old
    facts = collect(small, runs)["facts"]
    assert facts["ears counted by an earlier version"] == "1 runs"
    assert facts["ears counted on the hull of pictures"] == "1 runs"
    with pytest.raises(RequestError, match="Only objects"):
        recount(bench(tmp_path, "control"), [])


def test_plots_and_tables_show_what_they_are_given(tmp_path: Path) -> None:
    assert "M34.0,144.0 L322.0,8.0" in lines("up", [0, 10], {"front": [0.0, 1.0]})
    assert "<td>&amp;</td>" in table(["a"], [["&"]])
    write_picture(tmp_path / "one.png", torch.zeros(3, 2, 2))
    assert 'alt="&lt;a&gt;"' in picture(tmp_path / "one.png", "<a>")
    write_report(tmp_path, "<b>", [], [], {"what it asks": "?"})
    assert "Benchmark: &lt;b&gt;" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_command_says_how_long_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "janus", "--out", str(tmp_path / "b"), "--device", "cpu", "--estimate"])
    assert ended.value.code == 0
    assert "4 of 4 runs are left" in capsys.readouterr().out
    assert not (tmp_path / "b").exists()


def test_the_methods_of_the_bench_are_those_of_jobs() -> None:
    from typing import get_args

    from recdreamer.shared.protocol import Method

    assert {settings["method"] for settings in METHODS.values()} == set(get_args(Method))
