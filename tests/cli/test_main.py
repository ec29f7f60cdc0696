"""The command line as typed: arguments, job folders, sentences, exit codes."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from recdreamer.cli import main
from recdreamer.cli.follow import EventView
from recdreamer.job import worker
from recdreamer.shared.protocol import JobFolder, JobRequest

BACKEND = Path(main.__file__).parents[2]


def call(*arguments: object) -> int:
    """Exit code of `recdreamer ...` in this process."""
    with pytest.raises(SystemExit) as caught:
        main.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture
def prepared(monkeypatch) -> list[Path]:
    """`generate` up to the worker; the folders it would have been started on."""
    folders = []
    monkeypatch.setattr(main, "follow", lambda folder, *options: folders.append(folder) or 0)
    return folders


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, grey in (("front.png", 200), ("back-1.png", 90), ("back-2.png", 80), ("left.png", 120)):
        Image.new("RGB", (20, 30), (grey, grey, grey)).save(folder / name)
    return folder


def test_the_arguments_are_the_fields_of_the_request():
    """One name, one type, one default; a field added to the request must be reachable from here."""
    request = {f.name: f for f in dataclasses.fields(JobRequest)}
    arguments = {f.name: f for f in dataclasses.fields(main.Generate)}
    elsewhere = {"protocol", "overrides", "keep_running", "kind"}
    cluster = {f.name for f in dataclasses.fields(main.OnCluster)}
    assert set(arguments) == (set(request) - elsewhere) | {"out", "set", "processes"} | cluster
    for name in set(arguments) & set(request) - {"templates"}:
        assert arguments[name].default == request[name].default, name
        assert arguments[name].type == request[name].type, name


def test_generate_writes_a_job_and_takes_it_up_again(tmp_path, pictures, prepared, capsys):
    out = tmp_path / "jöb 1"
    arguments = ["generate", "--prompt", "a red bear", "--seed", 7, "--templates", pictures, "--out", out]
    arguments += ["--set", "optimize.num_steps=40", "cameras.distance=[2.5, 2.6]", "geometry.picture=normals"]
    assert call(*arguments) == 0
    request = JobFolder(out).read_request()
    assert (request.prompt, request.seed) == ("a red bear", 7)
    assert request.overrides == {
        "optimize.num_steps": 40,
        "cameras.distance": [2.5, 2.6],
        "geometry.picture": "normals",
    }
    assert [t.label for t in request.templates] == ["back", "back", "front", "left", "right"]
    assert all((out / template.image).is_file() for template in request.templates)

    assert call(*arguments) == 0
    assert prepared == [out, out]
    (out / "checkpoints" / "shape-00000001").mkdir(parents=True)
    assert call(*arguments, "--method", "sds") == 1
    assert "other settings (method)" in capsys.readouterr().err
    assert JobFolder(out).read_request() == request


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--prompt", " "], "The prompt is empty."),
        (["--prompt", "a bear", "--height-m", "-1"], "The height is -1.0 meters."),
        (["--prompt", "a bear", "--set", "optimize.num_steps"], "'optimize.num_steps' is not a setting."),
        (["--prompt", "a bear", "--templates", "/nowhere"], "No pictures in /nowhere."),
    ],
)
def test_a_bad_request_is_one_sentence_and_leaves_nothing(arguments, sentence, tmp_path, prepared, capsys):
    assert call("generate", "--out", tmp_path / "job", *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(sentence) and error.count("\n") == 1
    assert not prepared and not (tmp_path / "job").exists()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_stage_is_repeated_by_the_worker(is_terminal, tmp_path, monkeypatch):
    """Who knows what to do when that fails."""
    monkeypatch.setattr(main.sys.stdout, "isatty", lambda: is_terminal, raising=False)
    told = []
    monkeypatch.setattr(main, "follow", lambda *given: told.append(given) or 0)
    monkeypatch.setattr(worker, "run", lambda *given: told.append((given[0], given[2])) or 0)
    assert call("run", tmp_path, "--again", "texture", "--seed", 7) == 0
    expected = ("--again", "texture", "--seed", "7") if is_terminal else ("texture", 7)
    assert told == [(tmp_path, expected)]


def test_a_resumed_job_keeps_its_seed(tmp_path, prepared, capsys):
    assert call("run", tmp_path, "--seed", 3) == 1
    assert capsys.readouterr().err.startswith("A resumed job keeps its seed.") and not prepared


def test_bench_field_passes_its_options_on(tmp_path, monkeypatch, capsys):
    import torch

    from recdreamer.evaluation import bench_field

    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(bench_field, "bench_field", lambda *arguments: given.append(arguments))
    monkeypatch.setattr(bench_field, "as_tables", lambda found: "a table")
    options = ("--tables", "faces", "--repeats", 2, "--seconds", 0.5, "--threads", 3, "--device", "cpu")
    assert call("bench", "field", *options, "--against", tmp_path) == 0
    assert given == [3, (("faces",), torch.device("cpu"), 2, 0.5, tmp_path)]
    assert capsys.readouterr().out == "a table\n"


def test_templates_checks_a_folder(pictures, capsys):
    assert call("templates", "check", pictures) == 0
    assert "right: left.png (mirrored)" in capsys.readouterr().out
    (pictures / "front.png").write_bytes(b"")
    assert call("templates", "check", pictures) == 1
    assert "'front.png' cannot be read" in capsys.readouterr().err
    for name in ("back-1.png", "back-2.png", "left.png"):
        (pictures / name).unlink()
    assert call("templates", "check", pictures) == 1
    assert "1 pose class(es), but 2 to 6" in capsys.readouterr().err


def test_a_gallery_is_drawn_and_checked(tmp_path, capsys):
    """The three commands that follow one another: gallery, check, generate."""
    out = tmp_path / "Bär"
    assert call("templates", "gallery", "--prompt", "a red bear", "--out", out) == 0
    told = capsys.readouterr().out
    assert "3 of 3" in told and told.count(".png (") == 24
    assert call("templates", "check", out, "--prompt", "a red bear") == 0
    assert (out / "check" / "check.json").is_file()


@pytest.mark.parametrize(
    ("image", "told"),
    [("nowhere.png", "'nowhere.png' cannot be read"), ("front.png", "is not a Zero-1-to-3 model")],
)
def test_views_of_a_missing_picture_are_refused_in_one_sentence(pictures, tmp_path, capsys, image, told):
    arguments = ["--image", pictures / image, "--model", tmp_path, "--out", tmp_path / "out"]
    assert call("templates", "views", *arguments) == 1
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error


def test_a_failing_job_is_shown_and_gives_its_code(tmp_path, capsys):
    """Through a real worker: the job was damaged after it had been written, so only the worker can know."""
    out = tmp_path / "job"
    JobFolder(out).root.mkdir()
    JobFolder(out).request.write_text('{"prompt": "a bear", "overrides": {"optimize.no_such_thing": 1}}')
    assert main.follow(out) == 1
    assert "There is no setting 'optimize.no_such_thing'." in capsys.readouterr().out
    assert JobFolder(out).read_state().status == "failed"


def test_the_view_tells_each_tenth_without_a_terminal(capsys):
    view = EventView(console=None, status=None)
    view.show({"type": "stage", "name": "shape", "index": 0, "count": 1})
    for step in range(1, 101):
        view.show({"type": "progress", "step": step, "total": 100, "it_per_s": 2.0, "eta_s": 75.0})
    view.show({"type": "something new"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[0] == "shape 1/100, 2.00 it/s, 1:15 left"


def test_help_needs_no_heavy_import():
    script = "import sys; sys.argv = ['recdreamer', '--help']; from recdreamer.cli.main import main\n"
    script += "try: main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=BACKEND, capture_output=True, text=True, check=True
    )
    for command in ("generate", "run", "templates", "doctor"):
        assert command in done.stdout
    assert not {"torch", "diffusers", "numpy", "warp"} & set(done.stderr.split())
