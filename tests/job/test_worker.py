"""The worker as others meet it: a process with pipes, a folder, and troubles that really happen."""

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from recdreamer.shared.protocol import HEARTBEAT_S, PROTOCOL_VERSION, JobFolder, JobRequest, write_atomically

TOY = Path(__file__).parent / "toy_job.py"
SEED, NUM_STEPS = 3, 300


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "jöb with spaces")


def write(job: JobFolder, **overrides: object) -> None:
    keep_running = bool(overrides.pop("keep_running", False))
    request = JobRequest("a toy", seed=SEED, keep_running=keep_running, overrides=overrides)
    job.root.mkdir(exist_ok=True)
    write_atomically(job.request, request.to_json())


def start(job: JobFolder, *arguments: str, **options) -> subprocess.Popen:
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    backend = Path(__file__).parents[2] / "backend"
    environment = os.environ | {"PYTHONPATH": str(backend), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOY), str(job.root), *arguments]
    return subprocess.Popen(command, env=environment, **options)


def finish(process: subprocess.Popen, timeout_s: float = 60) -> tuple[int, list[dict]]:
    """Exit code and events, once the process has ended by itself."""
    try:
        process.wait(timeout_s)
    finally:
        process.kill()
    with process.stdout as stream:
        lines = stream.read().splitlines()
    for pipe in (process.stdin, process.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    return process.returncode, [json.loads(line) for line in lines]


def wait_for_step(job: JobFolder, step: int) -> None:
    """Until the job has really got somewhere: its progress is in the event file."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(event.get("step", 0) >= step for event in recorded(job)):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was never reached")


def recorded(job: JobFolder) -> list[dict]:
    """Whole lines of the event file."""
    lines = job.events.read_bytes().split(b"\n")[:-1] if job.events.exists() else []
    events = []
    for line in lines:
        with suppress(ValueError):
            events.append(json.loads(line))
    return events


def expect_result(job: JobFolder, num_steps: int = NUM_STEPS) -> None:
    x = 0.1 + 0.01 * SEED
    for _ in range(num_steps):
        x = 3.9 * x * (1 - x)
    assert json.loads((job.result / "x.json").read_text()) == x
    assert job.read_state().status == "done"


def test_a_job_from_hello_to_result(job):
    write(job)
    code, events = finish(start(job))
    assert code == 0
    assert events[0]["type"] == "hello" and events[0]["protocol"] == PROTOCOL_VERSION
    assert events[-1] == {"type": "result", "path": "result"}
    progress = [event for event in events if event["type"] == "progress"]
    assert [event["step"] for event in progress] == sorted(event["step"] for event in progress)
    assert progress[-1]["step"] == NUM_STEPS and progress[-1]["eta_s"] == 0
    assert recorded(job) == events
    expect_result(job)

    # Asked again, it says the same without working.
    code, again = finish(start(job))
    assert code == 0
    assert [event["type"] for event in again] == ["hello", "result"]


def test_twenty_kills_at_random_moments(job):
    # Longer than all kills together: 20 times at most a quarter of a second.
    write(job, num_steps=1200, step_s=0.005, save_every=10)
    killer = start(job, "--kill", "20", stdin=subprocess.DEVNULL)
    output, _ = killer.communicate(timeout=120)
    assert output.split().count(str(-signal.SIGKILL).encode()) == 20, "a worker ended before it was killed"
    assert job.read_state().status == "running"
    starts = [event for event in recorded(job) if event["type"] == "stage"]
    assert len(starts) >= 5, "too few of them came to work"
    code, events = finish(start(job))
    assert code == 0
    assert min(event["step"] for event in events if event["type"] == "progress") > 1, "it began anew"
    expect_result(job, num_steps=1200)
    assert not list(job.root.glob(".state.json.*"))
    assert not list(job.checkpoints.glob(".new-*"))


@pytest.mark.parametrize(
    ("ask", "code", "last"),
    [
        ("cancel", 4, "cancelled"),
        ("pause", 3, "paused"),
        ("end of file", 3, "paused"),
        ("SIGTERM", 3, "paused"),
    ],
)
def test_a_request_to_stop_saves_and_the_job_goes_on_later(job, ask, code, last):
    write(job, step_s=0.01, save_every=1000)
    process = start(job)
    wait_for_step(job, 20)
    if ask == "end of file":
        process.stdin.close()
    elif ask == "SIGTERM":
        process.terminate()
    else:
        process.stdin.write(f"nonsense\n{ask}\n".encode())
        process.stdin.flush()
    got, events = finish(process)
    assert (got, events[-1]["type"]) == (code, last)
    assert job.read_state().status == last
    assert job.read_state().pid is None

    code, events = finish(start(job))
    assert code == 0
    assert min(event["step"] for event in events if event["type"] == "progress") > 20
    expect_result(job)


def test_keep_running_outlives_its_parent(job):
    write(job, keep_running=True, step_s=0.01)
    process = start(job)
    wait_for_step(job, 5)
    process.stdin.close()
    process.stdout.close()  # Its events reach nobody; it must not mind.
    assert process.wait(60) == 0
    process.stderr.close()
    assert recorded(job)[-1]["type"] == "result"
    expect_result(job)


@pytest.mark.parametrize("stays", [True, False])
def test_what_a_worker_does_without_its_parent_can_be_said_while_it_runs(job, stays):
    write(job, keep_running=not stays, step_s=0.01)
    process = start(job)
    wait_for_step(job, 5)
    process.stdin.write(b"stay\n" if stays else b"leave\n")
    process.stdin.close()
    process.stdout.close()
    assert process.wait(60) == (0 if stays else 3)
    process.stderr.close()
    assert recorded(job)[-1]["type"] == ("result" if stays else "paused")


def test_a_worker_that_hangs_without_its_parent_exits(tmp_path):
    """Nobody else would end it, and it holds the device."""
    program = (
        "import os, time\n"
        "from recdreamer.job import process\n"
        "process.ALONE_S = 0.3\n"
        "process.StopRequests().listen(stop_at_end=True)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.stdin.close()
    assert process.wait(30) == 1
    process.stdout.close()


@pytest.mark.parametrize("kind", ["terminal", "/dev/null", "closed"])
def test_only_the_end_of_a_pipe_means_that_the_parent_died(job, kind):
    write(job)
    if kind == "terminal":
        ours, theirs = pty.openpty()
        process = start(job, stdin=theirs)
        os.close(theirs)
    elif kind == "/dev/null":
        process = start(job, stdin=subprocess.DEVNULL)
    else:
        process = start(job, stdin=None, preexec_fn=lambda: os.close(0))
    code, events = finish(process)
    assert (code, events[-1]["type"]) == (0, "result")
    if kind == "terminal":
        os.close(ours)


def test_ctrl_c_saves_and_stops(job):
    write(job, step_s=0.01)
    # Tests in the background of a shell inherit that Ctrl-C is ignored.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    process = start(job, stdin=subprocess.DEVNULL, **listening)
    wait_for_step(job, 5)
    process.send_signal(signal.SIGINT)
    code, events = finish(process)
    assert (code, events[-1]["type"]) == (3, "paused")


def test_noise_stays_out_of_the_events(job):
    write(job, trouble="noise")
    code, events = finish(start(job))
    assert code == 0 and events[-1]["type"] == "result"
    log = job.log.read_text()
    for noise in ("of python", "of descriptor 1", "of C", "of a child"):
        assert f"noise {noise}" in log


def test_a_reader_that_does_not_read_holds_nothing_up(job):
    write(job, step_s=0.01)
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while True:
            os.write(theirs, b"x" * 65536)
    os.set_blocking(theirs, True)
    process = start(job, stdout=theirs)
    os.close(theirs)
    wait_for_step(job, NUM_STEPS)
    os.close(ours)
    assert process.wait(60) == 0
    process.stdin.close()
    process.stderr.close()
    expect_result(job)


def test_a_second_worker_gives_its_reason_and_harms_nothing(job):
    write(job, step_s=0.01)
    first = start(job)
    wait_for_step(job, 5)
    code, events = finish(start(job))
    assert code == 1
    assert [event["type"] for event in events] == ["hello", "error"]
    assert events[-1]["kind"] == "busy"
    assert events[-1]["message"] == f"Another worker (process {first.pid}) is already running this job."
    code, events = finish(first)
    assert code == 0
    assert recorded(job) == events
    expect_result(job)


def test_the_heart_beats_while_a_step_takes_long(job):
    write(job, num_steps=1, step_s=3 * HEARTBEAT_S)
    process = start(job)
    beats = set()
    while process.poll() is None:
        beats.add(job.read_state().updated_s)
        time.sleep(0.05)
    beats = sorted(beats - {0.0})
    assert finish(process)[0] == 0
    assert len(beats) >= 3
    assert max(later - earlier for earlier, later in pairwise(beats)) < 2 * HEARTBEAT_S


@pytest.mark.parametrize(
    ("trouble", "kind", "message"),
    [
        ("expected", "weights", "The weights are missing."),
        ("unexpected", "internal", "Unexpected ZeroDivisionError: what a bug."),
        ("nan_share", "non_finite", "The share of pose front became nan at step 29 of toy."),
        (
            "nan_checkpoint",
            "non_finite",
            "Stage toy has infinite or undefined numbers at step 30 (x).",
        ),
        ("disk_full", "disk_full", "The disk is full: the checkpoint of step 30 could not be written."),
    ],
)
def test_a_failure_is_one_event_and_the_newest_good_checkpoint_stays(job, trouble, kind, message):
    write(job, trouble=trouble, save_every=10)
    code, events = finish(start(job))
    assert code == 1
    assert [event["type"] for event in events].count("error") == 1
    assert events[-1]["kind"] == kind and events[-1]["message"] == message and events[-1]["hint"]
    assert "Traceback" not in json.dumps(events)
    assert "Traceback" in job.log.read_text()
    state = job.read_state()
    assert (state.status, state.message, state.hint) == ("failed", message, events[-1]["hint"])
    assert not job.result.exists()
    assert [path.name for path in sorted(job.checkpoints.iterdir())] == ["toy-00000010", "toy-00000020"]

    write(job, save_every=10)
    code, _ = finish(start(job))
    assert code == 0
    expect_result(job)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ('{"prompt": "a to', "request", "job.json cannot be read ("),
        ("[]", "request", "job.json cannot be read (expected an object, not list)."),
        ('{"prompt": 3}', "request", "job.json cannot be read (prompt cannot be 3)."),
        (
            '{"prompt": "a toy", "protocol": 99}',
            "request",
            "The request speaks protocol 99, but this backend speaks 1.",
        ),
        ('{"prompt": "  "}', "prompt", "The prompt is empty."),
        (
            '{"prompt": "a toy", "templates": [{"label": "front", "image": "a.png"}]}',
            "template",
            "The templates show 1 pose class(es), but 2 to 6 are needed.",
        ),
    ],
)
def test_a_bad_request_is_one_clear_sentence(job, text, kind, message):
    job.root.mkdir()
    job.request.write_text(text)
    code, events = finish(start(job))
    assert code == 1
    assert [event["type"] for event in events] == ["hello", "error"]
    assert events[1]["kind"] == kind
    assert events[1]["message"].startswith(message) and events[1]["hint"]
    assert job.read_state().status == "failed"
    assert "Traceback" not in json.dumps(events)


def test_a_missing_folder(job):
    code, events = finish(start(job))
    assert (code, events[-1]["kind"]) == (1, "request")
    assert not job.root.exists()


@pytest.mark.parametrize("blocked", ["worker.lock", "log.txt", "events.jsonl"])
def test_a_folder_that_takes_no_file(job, blocked):
    write(job)
    (job.root / blocked).mkdir()
    code, events = finish(start(job))
    assert code == 1 and events[-1]["kind"] in ("request", "not_writable")
    assert blocked in events[-1]["message"]


def test_a_full_disk_under_the_events_is_still_told(job):
    write(job, step_s=0.01, num_steps=3000)
    # No file may grow beyond this, which is what a full disk looks like.
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))}
    code, events = finish(start(job, **full))
    assert (code, events[-1]["kind"]) == (1, "disk_full")


def test_a_log_that_cannot_be_written_hides_no_failure(tmp_path):
    """On a full disk the log is full, too: seen on a real one, where the worker ended with 120 and without a word."""
    script = (
        "import resource, signal, sys; from pathlib import Path; from recdreamer.job.process import send_prints_to\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "send_prints_to(Path(sys.argv[1])); print('before')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "print('lost'); print('lost', file=sys.stderr); sys.exit(1)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "backend")}
    log = tmp_path / "log.txt"
    assert subprocess.run([sys.executable, "-c", script, log], env=environment, check=False).returncode == 1
    assert log.read_text() == "before\n"
