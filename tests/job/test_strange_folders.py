"""Job folders that a stranger filled, that are shared, or that vanish: one sentence, and nothing is followed or lost."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from recdreamer.shared.folder_lock import LOCK, FolderLock, ask_to_stop
from recdreamer.shared.protocol import STALE_S, JobFolder, JobState, write_atomically

from .test_worker import expect_result, finish, recorded, start, wait_for_step, write


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "jöb")


def expect_error(events: list[dict], words: str) -> None:
    """One error event, in one sentence with its remedy."""
    assert [event["type"] for event in events].count("error") == 1 and events[-1]["type"] == "error"
    told = f"{events[-1]['message']} {events[-1]['hint']}"
    assert words in told and "\n" not in told and len(told) < 500
    assert events[-1]["hint"] and "Unexpected" not in told and "Traceback" not in told


PLACES = ("events.jsonl", "log.txt", "state.json", "seeds.json", "config.json", LOCK, "stop", "job.json",
          "checkpoints", "checkpoints/earlier", "templates", "previews", "result", "result/mesh.npz")  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_written_through_a_link(place, job, tmp_path):
    write(job, save_every=10)
    is_folder = "." not in Path(place).name and place != "stop"
    outside = tmp_path / "outside"
    if is_folder:
        (outside / ".new-x").mkdir(parents=True)
        (outside / "texture-00000001").mkdir()
    else:
        outside.write_text(job.request.read_text() if place == "job.json" else "# precious\n")
    before = sorted(outside.rglob("*")) if is_folder else outside.read_bytes()
    (job.root / place).unlink(missing_ok=True)
    (job.root / place).parent.mkdir(exist_ok=True)
    (job.root / place).symlink_to(outside)
    code, events = finish(start(job))
    assert code == 1
    expect_error(events, f"{Path(place).name if place == 'job.json' else place} is a link.")
    assert (sorted(outside.rglob("*")) if is_folder else outside.read_bytes()) == before


@pytest.mark.parametrize("place", ["events.jsonl", "log.txt", LOCK])
def test_nothing_is_written_to_a_file_with_a_second_name(place, job, tmp_path):
    write(job)
    (tmp_path / "outside").write_text("# precious\n")
    (job.root / place).hardlink_to(tmp_path / "outside")
    code, events = finish(start(job))
    assert code == 1
    expect_error(events, f"{place} has a second name elsewhere.")
    assert (tmp_path / "outside").read_text() == "# precious\n"


@pytest.mark.parametrize("place", ["state.json", "job.json"])
def test_what_is_replaced_may_have_a_second_name(place, job, tmp_path):
    """As in a copy of a folder by hard links: the other name keeps its content."""
    write(job)
    (job.root / place).touch()
    (tmp_path / "outside").hardlink_to(job.root / place)
    before = (tmp_path / "outside").read_bytes()
    assert finish(start(job))[0] == 0
    assert (tmp_path / "outside").read_bytes() == before


@pytest.mark.parametrize(
    "place", ["events.jsonl", "log.txt", "state.json", LOCK, "job.json", "seeds.json", "stop"]
)
def test_a_fifo_holds_nothing_up(place, job):
    write(job)
    (job.root / place).unlink(missing_ok=True)
    os.mkfifo(job.root / place)
    code, events = finish(start(job), timeout_s=20)
    assert code == 1
    expect_error(events, f"{place} is no file.")


def test_leftovers_of_killed_writers_are_swept(job):
    write(job)
    job.previews.mkdir()
    names = ".config.json.0123456789ab", ".seeds.json.x_1y2z3w", "previews/.a.png.0123456789ab"
    for name in names:
        (job.root / name).write_text("half")
    assert finish(start(job))[0] == 0
    assert not [name for name in names if (job.root / name).exists()]
    expect_result(job)


@pytest.mark.parametrize("what", ["deleted", "moved", "made again"])
def test_a_folder_that_vanishes_ends_the_job_and_does_not_come_back(what, job, tmp_path):
    write(job, step_s=0.02, num_steps=2000, save_every=50)
    process = start(job)
    wait_for_step(job, 5)
    job.root.rename(tmp_path / "elsewhere")
    if what == "made again":
        job.root.mkdir()
    if what == "deleted":
        shutil.rmtree(tmp_path / "elsewhere")
    code, events = finish(process, timeout_s=20)
    assert code == 1
    expect_error(
        events, "was deleted or moved while the job ran. If it was moved, resume the job at its new place."
    )
    assert events[-1]["kind"] == "folder"
    assert not job.root.exists() or not list(job.root.iterdir())
    if what == "moved":
        moved = JobFolder(tmp_path / "elsewhere")
        write(moved, save_every=50)
        assert finish(start(moved))[0] == 0
        expect_result(moved)


def test_a_deleted_lock_file_comes_back(job):
    write(job, step_s=0.02)
    process = start(job)
    wait_for_step(job, 5)
    (job.root / LOCK).unlink()
    deadline = time.monotonic() + 10
    while not (job.root / LOCK).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    code, events = finish(start(job))
    assert code == 1 and events[-1]["kind"] == "busy"
    assert finish(process)[0] == 0
    expect_result(job)


def test_who_lost_the_lock_to_another_leaves_the_folder_to_it(job):
    write(job, step_s=0.02, num_steps=2000)
    process = start(job)
    wait_for_step(job, 5)
    (job.root / LOCK).unlink()
    lock = FolderLock(job.root)  # Another worker, faster than the next heart-beat.
    code, events = finish(process, timeout_s=20)
    assert code == 1
    expect_error(events, "Another worker has taken over the job folder")
    assert job.read_state().status == "running" and recorded(job)[-1]["type"] != "error"
    lock.release()


def test_where_locks_are_not_seen_the_state_tells_that_another_took_over(job):
    write(job, step_s=0.02, num_steps=2000)
    process = start(job)
    wait_for_step(job, 5)
    deadline, theirs = time.monotonic() + 10, JobState("running", 1, "farm-7", "their token")
    while process.poll() is None and time.monotonic() < deadline:
        theirs.updated_s = time.time()
        write_atomically(job.state, json.dumps(asdict(theirs)))
        time.sleep(0.1)
    code, events = finish(process, timeout_s=20)
    assert code == 1
    expect_error(events, "Another worker has taken over the job folder")
    assert job.read_state().token == "their token"


def running(host: str, age_s: float) -> JobState:
    return JobState("running", os.getpid(), host, "token", updated_s=time.time() - age_s)


def test_a_job_of_another_computer_is_busy_while_its_heart_beats(job):
    write(job)
    write_atomically(job.state, json.dumps(asdict(running("farm-7", 1))))
    code, events = finish(start(job))
    assert code == 1
    expect_error(events, f"Another worker (process {os.getpid()} on farm-7) is already running this job.")
    assert events[-1]["kind"] == "busy" and job.read_state().host == "farm-7"


@pytest.mark.parametrize(
    ("host", "age_s"),
    [("farm-7", STALE_S + 10), ("farm-7", -1e9), (socket.gethostname(), 1), (socket.gethostname(), -1e9)],
)
def test_a_state_that_nobody_renews_is_taken_over(host, age_s, job):
    """Also one from the future, and one that names a living process of this computer."""
    write(job)
    write_atomically(job.state, json.dumps(asdict(running(host, age_s))))
    assert finish(start(job))[0] == 0
    expect_result(job)


@pytest.mark.parametrize(("command", "code", "last"), [("pause", 3, "paused"), ("cancel", 4, "cancelled")])
def test_a_worker_is_stopped_through_its_folder(command, code, last, job):
    write(job, step_s=0.02, num_steps=2000)
    ask_to_stop(job.root, "cancel")  # For an earlier worker: it does not count.
    process = start(job)
    wait_for_step(job, 5)
    state = job.read_state()
    assert (state.host, state.pid, len(state.token)) == (socket.gethostname(), process.pid, 16)
    assert job.running_on(state) == socket.gethostname()
    ask_to_stop(job.root, command)
    got, events = finish(process, timeout_s=20)
    assert (got, events[-1]["type"]) == (code, last)
    assert job.read_state().status == last and not (job.root / "stop").exists()
    assert job.running_on(job.read_state()) == ""


@pytest.mark.parametrize("name", ["state.json", "seeds.json"])
@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"step": 1' + "0" * 400 + "}", '{"status": "\\ud800"}', "\xff", "[]", "1e999"],
)
def test_a_damaged_file_of_the_worker_itself_holds_nothing_up(name, text, job):
    write(job)
    (job.root / name).write_bytes(text.encode("latin-1"))
    assert finish(start(job))[0] == 0
    expect_result(job)


@pytest.mark.parametrize(
    "change",
    [{"height_m": 1e39}, {"height_m": 1e-39}, {"seed": 2**64}, {"seed": -1}, {"device": "meta"}, {"device": "mps"},
     {"device": "cuda:x"}, {"start_mesh": "../a.npz", "start": "object"}, {"prompt": "x" * 20_000},
     {"overrides": {"a": 10**50}}, {"strength": -1}, {"prompt": "\ud800"}],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_the_worker(change, job):
    write(job)
    raw = json.loads(job.request.read_text()) | change
    job.request.write_text(json.dumps(raw))
    code, events = finish(start(job))
    assert code == 1
    expect_error(events, "")
    assert events[-1]["kind"] == "request" and job.read_state().status == "failed"


OFFLINE = """
import sys
asked = []
sys.addaudithook(lambda name, found: asked.append((name, found)) if name.startswith("socket.") else None)
from pathlib import Path
from recdreamer.cli.work import work
from recdreamer.job import worker
worker.run(Path(sys.argv[1]), work)
asked = [name for name, found in asked if name in ("socket.getaddrinfo", "socket.connect", "socket.gethostbyname")]
Path(sys.argv[1], "asked.json").write_text(__import__("json").dumps(asked))
"""


def test_a_model_that_is_not_here_is_not_asked_for(job):
    """By its id on the hub: no name server and no server hears of it."""
    write(job)
    raw = json.loads(job.request.read_text()) | {"prior": "someone/a-model", "method": "sds"}
    job.request.write_text(json.dumps(raw))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "backend")}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(job.root)], env=environment, capture_output=True, check=False
    )
    expect_error([json.loads(line) for line in done.stdout.splitlines()], "someone/a-model")
    assert json.loads((job.root / "asked.json").read_text()) == []
