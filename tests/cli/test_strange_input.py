"""What users and disks do to the commands: one sentence, no traceback, and nothing left of what was made."""

import errno
import json
import os
import pty
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recdreamer.cli import main
from recdreamer.cli.follow import worker_environment
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically

BACKEND = Path(main.__file__).parents[2]
COMMAND = Path(sys.executable).parent / "recdreamer"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(BACKEND), "OMP_NUM_THREADS": "1"}


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def sentence(capsys) -> str:
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "Traceback" not in told and "Unexpected" not in told and len(told) < 600
    return told


@pytest.fixture
def prepared(monkeypatch) -> list[Path]:
    folders = []
    monkeypatch.setattr(main, "follow", lambda folder, *options: folders.append(folder) or 0)
    return folders


CUBE = [f"v {x} {y} {z}" for x in (0, 1) for y in (0, 1) for z in (0, 1)]
FACES = ["f 1 2 4 3", "f 5 7 8 6", "f 1 5 6 2", "f 3 4 8 7", "f 1 3 7 5", "f 2 6 8 4"]


def write_cube(path: Path, height: object = 1) -> Path:
    path.write_text("\n".join([*CUBE, f"v 0 0 {height}", *FACES, "f 1 2 9"]))
    return path


def generate(out: Path, *options: object, prompt: str = "a bear") -> tuple[object, ...]:
    return ("generate", "--prompt", prompt, "--out", out, *options)


@pytest.mark.parametrize("is_begun", [False, True])
def test_another_mesh_of_the_same_name_is_used_or_refused(is_begun, tmp_path, prepared, capsys):
    out, mesh = tmp_path / "job", write_cube(tmp_path / "part.obj", 2)
    command = generate(out, "--start", "object", "--start-mesh", mesh)
    assert call(*command) == 0
    (before := JobFolder(out).root / "start" / "mesh.npz").touch()
    first = np.load(before)["verts"]
    assert call(*command) == 0
    if is_begun:
        (out / "checkpoints" / "shape-00000001").mkdir(parents=True)
    write_cube(mesh, 3)
    if is_begun:
        assert call(*command) == 1
        assert "the mesh to start from changed since the job in" in sentence(capsys)
        assert np.array_equal(np.load(before)["verts"], first) and len(prepared) == 2
    else:
        assert call(*command) == 0 and len(prepared) == 3
        assert abs(np.load(before)["verts"]).max() == 3 != abs(first).max()


@pytest.mark.parametrize("is_begun", [False, True])
def test_other_pictures_of_the_same_names_are_used_or_refused(is_begun, tmp_path, prepared, capsys):
    out, poses = tmp_path / "job", tmp_path / "poses"
    poses.mkdir()
    for name in ("front", "back"):
        Image.new("RGB", (20, 20), "red").save(poses / f"{name}.png")
    command = generate(out, "--templates", poses)
    assert call(*command) == 0
    if is_begun:
        (out / "checkpoints" / "shape-00000001").mkdir(parents=True)
    Image.new("RGB", (20, 20), "lime").save(poses / "front.png")
    assert call(*command) == int(is_begun)
    used = Image.open(out / "templates" / "front.png").getpixel((0, 0))
    if is_begun:
        assert "templates/front.png changed since the job in" in sentence(capsys) and used == (255, 0, 0)
    else:
        assert used == (0, 255, 0)


def test_a_typo_in_the_first_call_is_repaired_by_the_second(tmp_path, prepared, capsys):
    out, mesh = tmp_path / "deep" / "job", write_cube(tmp_path / "part.obj", "nan")
    assert call(*generate(out, "--start", "object", "--start-mesh", mesh)) == 1
    sentence(capsys)
    assert not (tmp_path / "deep").exists()
    write_cube(mesh)
    assert call(*generate(out, "--start-mesh", mesh)) == 1
    assert "the job starts from the prompt alone" in sentence(capsys) and not (tmp_path / "deep").exists()
    assert call(*generate(out, "--start", "object", "--start-mesh", mesh)) == 0
    assert call(*generate(out, "--seed", 5)) == 0
    assert JobFolder(out).read_request().seed == 5 and not (out / "start").exists() and len(prepared) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", 2**64], "The seed is 18446744073709551616."),
        (["--seed", -1], "The seed is -1."),
        (["--height-m", "1e39"], "The height is 1e+39 meters."),
        (["--height-m", "nan"], "The height is nan meters."),
        (["--device", "meta"], "'meta' cannot be used: this machine has a CPU and"),
        (["--device", "mps"], "'mps' cannot be used: this machine has a CPU and"),
        (["--device", "cuda:77"], "this machine has a CPU and"),
        (["--prior", "nowhere/"], "There is no image model nowhere/."),
        (["--prior", "/nowhere"], "There is no image model /nowhere."),
        (["--prior", "someone/model"], "The image model someone/model is not on this machine."),
        (["--prior", " "], "The image model has no name."),
        (["--prior", "x" * 5000], "cannot be read"),
        (["--prior", "FILE"], "FILE is not a model file"),
        (["--prior", "'FILE'"], "FILE is not a model file"),
        (["--prior", "FOLDER"], "is a folder without a model: it has no model_index.json"),
        (["--set", "optimize.num_steps=" + "9" * 100], "a number has 100 digits"),
        (["--set", "optimize.num_steps=" + "9" * 5000], "a text of 5000 letters"),
        (["--set", "optimize.num_steps=1e999"], "1e999 is no finite number"),
        (["--set", "height_m=NaN"], "NaN is no finite number"),
        (["--set", "optimize.num_steps=-4"], "it must be from 0 to"),
        (["--set", "optimize.preview_every=0"], "it must be from 1 to"),
        (["--set", "optimize.render_px=1000000"], "it must be from 1 to 8192"),
        (["--set", "cameras.distance=[1]"], "expected 2 values"),
        (["--set", "cameras.distance=5"], "expected a list"),
        (["--set", "optimize=5"], "does not fit the setting 'optimize'"),
        (["--set", "nothing=" + "[" * 100_000], "nested too deeply"),
        (["--set", "no such=1"], "There is no setting 'no such'."),
        (["--start", "continue", "--start-job", "FOLDER"], "job.json"),
        (["--start", "object", "--start-mesh", "FILE.obj"], "There is no mesh"),
        (["--templates", "FILE"], "No pictures in"),
    ],
)
def test_a_wrong_option_is_one_sentence_before_there_is_a_job(options, words, tmp_path, prepared, capsys):
    (tmp_path / "FILE").write_text("x")
    (tmp_path / "FOLDER").mkdir()
    options = [
        str(option).replace("FILE", str(tmp_path / "FILE")).replace("FOLDER", str(tmp_path / "FOLDER"))
        for option in options
    ]
    assert call(*generate(tmp_path / "job", *options)) == 1 and not prepared
    told = sentence(capsys)
    if words != "a text of 5000 letters":
        assert words in told
    assert not (tmp_path / "job").exists()


def test_what_else_is_in_the_folder_stays(tmp_path, prepared):
    """Also what looks temporary; only what a killed command left goes."""
    (tmp_path / ".new-ideas").mkdir()
    (tmp_path / ".recdreamer-new-x").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert call(*generate(tmp_path)) == 0
    assert {path.name for path in tmp_path.iterdir()} == {".new-ideas", "notes.txt", "job.json"}


def test_a_job_does_not_continue_itself(tmp_path, prepared, capsys):
    assert call(*generate(tmp_path / "job")) == 0
    assert call(*generate(tmp_path / "job", "--start", "continue", "--start-job", tmp_path / "job")) == 1
    assert "would continue itself" in sentence(capsys)


def test_quotes_and_the_home_folder_are_understood(tmp_path, prepared, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_cube(tmp_path / "part.obj")
    assert call(*generate("~/my job", "--start", "object", "--start-mesh", '"~/part.obj"')) == 0
    assert prepared == [tmp_path / "my job"] and (tmp_path / "my job" / "job.json").is_file()


@pytest.mark.parametrize("out", ["file/job", "file", "a" * 300, "/proc/x"])
def test_a_place_that_takes_no_job_is_one_sentence(out, tmp_path, prepared, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    assert call(*generate(out)) == 1
    sentence(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and not prepared


def test_bytes_that_are_not_utf_8_are_refused_in_one_sentence(tmp_path):
    """As the shell gives it: bytes."""
    poses = tmp_path / "poses"
    poses.mkdir()
    for name in ("front.png", "back.png"):
        Image.new("RGB", (20, 20)).save(poses / name)
    (poses / "back.png").rename(poses / os.fsdecode(b"left \xe9.png"))
    for options in (
        [b"--prompt", b"a red b\xe9ar"],
        [b"--prompt", b"a bear", b"--templates", os.fsencode(poses)],
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "recdreamer", "generate", "--out", str(tmp_path / "job"), *options],
            env=ENVIRONMENT | {"LC_ALL": "C.UTF-8"}, capture_output=True, check=False,
        )  # fmt: skip
        told = done.stderr.decode()
        assert done.returncode == 1 and told.count("\n") == 1 and "\\" in told and "Traceback" not in told
        assert not (tmp_path / "job").exists()


def test_a_full_disk_leaves_nothing_of_a_job(tmp_path):
    options = ("--start", "object", "--start-mesh", write_cube(tmp_path / "part.obj"))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "recdreamer", *map(str, generate(tmp_path / "job", *options))],
        env=ENVIRONMENT, capture_output=True, check=False, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )  # fmt: skip
    assert (
        done.returncode == 1 and done.stderr.startswith("The disk is full:") and done.stderr.count("\n") == 1
    )
    assert not (tmp_path / "job").exists()


def test_what_nobody_expected_is_one_sentence_and_a_log(tmp_path, monkeypatch, capsys):
    def fail(command: object) -> int:
        raise ZeroDivisionError("what a bug\nlooks like")

    monkeypatch.setattr(main, "_run", fail)
    monkeypatch.setattr(main.tempfile, "tempdir", str(tmp_path))
    assert call("doctor") == 1
    told = capsys.readouterr().err
    (log,) = tmp_path.glob("recdreamer-*.log")
    assert (
        told
        == f"Unexpected ZeroDivisionError: what a bug. This is a fault of the program; {log} tells more.\n"
    )
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.ENOENT])
@pytest.mark.parametrize(
    "command", [("doctor",), ("evaluate", "job", "x"), ("templates", "check", "x"), ("bench", "field")]
)
def test_every_command_says_what_the_system_refused(command, number, monkeypatch, capsys):
    def refuse(command: object) -> int:
        raise OSError(number, os.strerror(number), "some file")

    monkeypatch.setattr(main, "_run", refuse)
    assert call(*command) == 1
    assert "some file" in sentence(capsys)


EVIL = "import pathlib; pathlib.Path(__file__).with_suffix('.ran').write_text('x')\n"


@pytest.mark.parametrize("how", ["command on a terminal", "command", "python -m", "python -P -m"])
def test_nothing_in_the_folder_where_one_works_is_imported(how, tmp_path):
    """A job folder with files named like modules, and one who runs it from inside."""
    job = JobFolder(tmp_path)
    request = JobRequest("a bear", overrides={"optimize.no_such_thing": 1})
    write_atomically(job.request, request.to_json())
    names = ["json", "random", "queue", "tyro", "torch", "recdreamer", "types", "socket", "numpy", "rich"]
    for name in names if how != "python -m" else names[:4]:  # Python itself has loaded the others before us.
        (tmp_path / f"{name}.py").write_text(EVIL)
    start = {"command": [COMMAND], "python -m": [sys.executable, "-m", "recdreamer"]}.get(
        how, [sys.executable, "-P", "-m", "recdreamer"]
    )
    if how == "command on a terminal":
        start, (ours, theirs) = [COMMAND], pty.openpty()
    output = theirs if how == "command on a terminal" else subprocess.PIPE
    done = subprocess.run(
        [*start, "run", "."], cwd=tmp_path, env=ENVIRONMENT | {"TERM": "dumb"},  # Without a spinner.
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, check=False, timeout=120,
    )  # fmt: skip
    if how == "command on a terminal":
        os.close(theirs)
        told = ""
        with suppress(OSError):  # The end of a terminal.
            while part := os.read(ours, 4096):
                told += part.decode()
        os.close(ours)
    else:
        told = done.stdout.decode()
        assert [json.loads(line)["type"] for line in told.splitlines()][-1] == "error"
    assert done.returncode == 1 and "There is no setting" in told, done.stderr
    assert not list(tmp_path.glob("*.ran"))


def test_the_environment_of_a_worker_has_no_folder_where_one_works(monkeypatch):
    """An empty or relative entry of PYTHONPATH means just that."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "here", "/there", str(BACKEND)]))
    found = worker_environment()
    assert (
        found["PYTHONPATH"].split(os.pathsep) == [str(BACKEND), "/there"] and found["PYTHONSAFEPATH"] == "1"
    )
