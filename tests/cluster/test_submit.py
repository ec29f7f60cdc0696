"""A job that runs elsewhere is for its caller a job that runs here: through losses, stops, repeats and failures."""

import json
import threading
import time
from dataclasses import replace

import pytest

from recdreamer.cli.work import PROCESSES
from recdreamer.cluster import host as host_module
from recdreamer.cluster import submit as module
from recdreamer.cluster.host import JobHost, sweep_abandoned
from recdreamer.cluster.mirror import Mirror
from recdreamer.cluster.submit import MAX_LOSSES, run_on
from recdreamer.report import Cancelled, JobError, Paused
from recdreamer.shared.folder_lock import FolderLock
from recdreamer.shared.protocol import RequestError

from .conftest import Cluster, Told, lose_at, result_of
from stand_in_worker import DEFAULTS, expected

RIGHT = expected(3, DEFAULTS["num_steps"])


def names_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_the_result_comes_back_with_what_a_worker_leaves(copies, to, make_job):
    (job, request), cluster, told = make_job(), Cluster(), Told()
    run_on(cluster, to, job, request, told)
    assert result_of(job) == RIGHT
    assert told.stages == ["waiting", "shape"] and told.steps[-1] == 20
    assert told.previews == ["previews/half.png"] and (job.root / told.previews[0]).read_bytes() == b"\x89PNG"
    assert names_in(job.checkpoints)[-1] == "shape-00000020"
    assert job.request.read_text() == request.to_json(), "the request stays as it was"
    assert cluster.ended == cluster.hosts_so_far and names_in(copies) == [], "nothing is left on the node"


@pytest.mark.parametrize("method", ["receive", "begin", "news", "pack", "part"])
def test_a_lost_node_costs_what_came_after_the_newest_checkpoint(copies, to, make_job, method):
    (job, request), cluster, told = make_job(), Cluster(), Told()
    cluster.before = lose_at(method, {"news": 2}.get(method, 1))
    run_on(cluster, to, job, request, told)
    assert result_of(job) == RIGHT and len(cluster.hosts_so_far) == 2
    assert len(told.warnings) == 1 and "its node died" in told.warnings[0]
    assert told.steps[-1] == 20


def test_the_next_node_begins_at_the_newest_checkpoint(copies, to, make_job):
    (job, request), cluster, told = make_job(overrides={"step_s": 0.1}), Cluster(), Told()
    seen = {}

    def before(method, count):
        if method == "news" and count == 1 and names_in(job.checkpoints):
            seen["checkpoints"], seen["steps"] = names_in(job.checkpoints), len(told.steps)
            raise module.NodeLost("its node died")

    cluster.before = before
    run_on(cluster, to, job, request, told)
    saved = int(seen["checkpoints"][-1].split("-")[1])
    after = [step for step in told.steps[seen["steps"] :] if step > 1]
    assert saved >= 5 and min(after) >= saved and result_of(job) == RIGHT


def test_a_worker_that_is_killed_every_time_ends_with_a_sentence(copies, to, make_job):
    (job, request), cluster, told = (
        make_job(overrides={"trouble": "die", "save_every": 100}),
        Cluster(),
        Told(),
    )
    with pytest.raises(JobError, match=f"lost {MAX_LOSSES} times in a row.*its worker ended with code -9"):
        run_on(cluster, to, job, request, told)
    assert len(cluster.hosts_so_far) == MAX_LOSSES and not job.result.exists() and names_in(copies) == []


@pytest.mark.parametrize(("stop", "is_asked"), [(Paused, "pause"), (Cancelled, "cancel")])
def test_stop_and_pause_save_first_and_the_job_goes_on_from_there(copies, to, make_job, stop, is_asked):
    (job, request), cluster, told = make_job(overrides={"step_s": 0.1, "save_every": 100}), Cluster(), Told()

    def ask(step):
        if step >= 3:
            raise stop

    told.ask = ask
    with pytest.raises(stop):
        run_on(cluster, to, job, request, told)
    (checkpoint,) = names_in(job.checkpoints)
    assert 3 <= int(checkpoint.split("-")[1]) < 20 and not job.result.exists() and names_in(copies) == []
    again = Told()
    run_on(cluster, to, job, request, again)
    assert result_of(job) == RIGHT and len([step for step in again.steps if step > 1]) < 20


def test_a_stop_while_no_node_is_free_is_obeyed(copies, to, make_job):
    (job, request), cluster, told = make_job(), Cluster(), Told()
    cluster.is_ready = lambda promise, wait_s: False

    def ask(step):
        raise Cancelled

    told.ask = ask
    with pytest.raises(Cancelled):
        run_on(cluster, to, job, request, told)
    assert cluster.ended == cluster.hosts_so_far


@pytest.mark.parametrize("code", [1, 120], ids=["an orderly end", "prints could not be flushed"])
def test_a_full_disk_on_the_node_is_one_sentence_with_its_name(copies, to, make_job, monkeypatch, code):
    """On a disk that was really full, Python ended with 120."""
    news = JobHost.news
    monkeypatch.setattr(
        JobHost,
        "news",
        lambda self, wait_s: (found := news(self, wait_s)) | {"code": found["code"] and code},
    )
    (job, request), cluster = make_job(overrides={"trouble": "full"}), Cluster()
    with pytest.raises(JobError) as caught:
        run_on(cluster, to, job, request, Told())
    assert caught.value.kind == "disk_full" and len(cluster.hosts_so_far) == 1
    assert caught.value.message.startswith(f"{host_module.socket.gethostname()}: The disk is full")


def test_a_disk_that_is_full_before_the_job_begins_is_one_sentence(copies, to, make_job, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "meta.json")

    monkeypatch.setattr(host_module.parcel, "unpack", full)
    (job, request), cluster = make_job(), Cluster()
    with pytest.raises(JobError, match="The disk is full"):
        run_on(cluster, to, job, request, Told())
    assert names_in(copies) == []


def test_another_version_on_the_node_is_one_sentence(copies, to, make_job, monkeypatch):
    monkeypatch.setattr(host_module, "__version__", "0.0.1")
    job, request = make_job()
    with pytest.raises(JobError, match=r"has RecDreamer 0\.0\.1, but this computer has"):
        run_on(Cluster(), to, job, request, Told())


@pytest.mark.parametrize(
    ("ahead_s", "words"), [(3600.0, "3600 s ahead of"), (-60.0, "60 s behind"), (1.0, "")]
)
def test_a_clock_that_is_wrong_is_said_and_does_no_harm(copies, to, make_job, monkeypatch, ahead_s, words):
    about = JobHost.about
    monkeypatch.setattr(JobHost, "about", lambda self: about(self) | {"time_s": time.time() + ahead_s})
    (job, request), told = make_job(), Told()
    run_on(Cluster(), to, job, request, told)
    assert result_of(job) == RIGHT
    assert [words in warning for warning in told.warnings] == ([True] if words else [])


def test_a_slow_link_is_said_and_does_no_harm(copies, to, make_job, monkeypatch):
    monkeypatch.setattr(module, "PART", 1000)
    monkeypatch.setattr(module, "SLOW_S", 0.2)
    (job, request), cluster, told = make_job(overrides={"payload": 20_000}), Cluster(), Told()
    cluster.before = lambda method, count: time.sleep(0.03 if method == "part" else 0)
    run_on(cluster, to, job, request, told)
    assert result_of(job) == RIGHT
    (warning,) = told.warnings
    assert "The link to the node" in warning and "is slow" in warning


def test_files_may_take_another_way(copies, to, make_job, tmp_path):
    (job, request), cluster, told = make_job(), Cluster(), Told()
    asked = []
    cluster.before = lambda method, count: asked.append(method)
    run_on(cluster, replace(to, storage=f"file://{tmp_path / 'share'}"), job, request, told)
    assert result_of(job) == RIGHT and "part" not in asked and "receive" not in asked
    assert names_in(tmp_path / "share") == []


def test_a_storage_that_cannot_be_reached_is_one_sentence(copies, to, make_job):
    job, request = make_job()
    with pytest.raises(RequestError, match="The storage nosuch://share cannot be written"):
        run_on(Cluster(), replace(to, storage="nosuch://share"), job, request, Told())


def test_the_copy_knows_neither_this_computers_places_nor_its_gpu_numbers(copies, to, make_job):
    earlier, _ = make_job("earlier job")
    (earlier.checkpoints / "shape-00000020-final").mkdir(parents=True)
    (earlier.checkpoints / "shape-00000020-final" / "meta.json").write_text("{}")
    job, request = make_job(start="continue", start_job=str(earlier.root), device="cuda:3", keep_running=True)
    cluster, found = Cluster(), {}

    def before(method, count):
        if method == "news" and not found:
            (copy,) = copies.iterdir()
            found.update(json.loads((copy / "job" / "job.json").read_text()))
            found["earlier"] = sorted(p.name for p in (copy / "earlier-job").rglob("*"))

    cluster.before = before
    cluster.has_gpus = 8.0
    run_on(cluster, to, job, request, Told())
    assert found["device"] == "cuda" and found["keep_running"] is False
    assert found["start_job"].endswith("/earlier-job") and str(earlier.root) not in found["start_job"]
    assert found["earlier"] == ["checkpoints", "job.json", "meta.json", "shape-00000020-final"]


def test_each_process_has_a_host_and_finds_the_others(copies, to, make_job, monkeypatch):
    """As torchrun would start them; the stand-in does not talk to the others, but each has its own copy."""
    started = []
    start_worker = JobHost._start_worker

    def noted(self, job, variables):
        started.append(variables)
        start_worker(self, job, variables)

    monkeypatch.setattr(JobHost, "_start_worker", noted)
    (job, request), cluster = make_job(overrides={"processes": 3}), Cluster()
    run_on(cluster, to, job, request, Told())
    assert result_of(job) == RIGHT and [one["RANK"] for one in started] == ["0", "1", "2"]
    assert {(one["WORLD_SIZE"], one["LOCAL_RANK"], one["MASTER_ADDR"]) for one in started} == {
        ("3", "0", "127.0.0.1")
    }
    assert len({one["MASTER_PORT"] for one in started}) == 1
    assert cluster.ended == cluster.hosts_so_far and len(cluster.ended) == 3 and names_in(copies) == []
    # One process is told so, whatever the job says.
    started.clear()
    one, request = make_job("one", overrides={"processes": 3})
    run_on(cluster, replace(to, processes=1), one, request, Told())
    assert started == [{PROCESSES: "1"}]


def test_processes_that_lose_one_another_go_on_elsewhere(copies, to, make_job, monkeypatch):
    (job, request), cluster, told = make_job(overrides={"processes": 2}), Cluster(), Told()
    news = JobHost.news
    lost = {"type": "error", "kind": "processes", "message": "Process 1 was lost.", "hint": ""}

    def first_time_lost(self, wait_s):
        found = news(self, wait_s)
        is_first = self is cluster.hosts_so_far[0] and found["code"] is not None
        return found | {"lines": [json.dumps(lost)], "code": 1} if is_first else found

    monkeypatch.setattr(JobHost, "news", first_time_lost)
    run_on(cluster, to, job, request, told)
    assert result_of(job) == RIGHT and len(cluster.hosts_so_far) == 4
    assert "Process 1 was lost" in told.warnings[0]


def test_more_gpus_than_there_are_is_one_sentence(copies, to, make_job):
    (job, request), cluster = make_job(overrides={"processes": 3}), Cluster()
    cluster.has_gpus = 2.0
    with pytest.raises(RequestError, match="needs 3 GPUs for 3 processes, but the cluster has 2"):
        run_on(cluster, replace(to, gpus=1.0), job, request, Told())


def test_a_hostile_node_cannot_write_what_is_not_a_workers(make_job):
    job, request = make_job()
    mirror = Mirror(job, request)
    stamps = dict.fromkeys(
        ("job.json", "state.json", "worker.lock", "stop", "../x", "/x", "previews/../job.json", "start",
         "start/mesh.npz", "checkpoints", "checkpoints/a/b", "checkpoints/earlier", "previews/.x", "log.txt"), "1-1-1",
    )  # fmt: skip
    assert mirror.next(stamps) == ""
    assert mirror.next(stamps | {"previews/a.png": "1-1-1"}) == "previews/a.png"


def test_complete_stages_come_before_parts_and_of_parts_only_the_newest(make_job):
    job, request = make_job()
    mirror, order = Mirror(job, request), []
    units = {
        "checkpoints/texture-00000100": "50-1-1",
        "checkpoints/texture-00000200": "60-1-1",
        "checkpoints/shape-00000900-final": "40-1-1",
        "checkpoints/start-00000000-final": "10-1-1",
        "result": "70-1-1",
        "previews/1.png": "20-1-1",
        "previews/2.png": "30-1-1",
        "config.json": "15-1-1",
    }
    while unit := mirror.next(units, ["previews/1.png", "previews/2.png"]):
        order.append(unit)
        mirror.stamps[unit] = units[unit]
    assert order == [
        "previews/2.png", "previews/1.png", "config.json", "checkpoints/start-00000000-final",
        "checkpoints/shape-00000900-final", "checkpoints/texture-00000200", "result",
    ]  # fmt: skip


def test_a_checkpoint_that_is_removed_while_it_is_packed_does_not_travel(copies, to, monkeypatch):
    """Found by killing: the worker removes old checkpoints, and a part of one looks like a whole."""
    host = JobHost("job", to.program)
    folder = copies / "job" / "checkpoints" / "shape-00000005"
    folder.mkdir(parents=True)
    for name in ("meta.json", "tensors.bin"):
        (folder / name).write_text("x")
    host._folder = copies
    assert host.pack("checkpoints/shape-00000005")["size"] > 0
    pack = host_module.parcel.pack

    def removed_meanwhile(*sources):
        (folder / "tensors.bin").unlink()
        return pack(*sources)

    monkeypatch.setattr(host_module.parcel, "pack", removed_meanwhile)
    assert host.pack("checkpoints/shape-00000005") is None
    assert host.pack("checkpoints/shape-00000099") is None
    host.close()


def test_what_nobody_holds_is_swept_and_what_somebody_holds_is_not(copies, monkeypatch):
    monkeypatch.setattr(host_module, "ABANDONED_S", -1.0)
    for name in ("held", "works", "left"):
        (copies / name / "job").mkdir(parents=True)
    held, works = FolderLock(copies / "held"), FolderLock(copies / "works" / "job")
    sweep_abandoned(copies)
    assert names_in(copies) == ["held", "works"]
    held.release(), works.release()


def test_a_host_that_nobody_asks_lets_its_worker_save_and_ends(copies, to, make_job, monkeypatch):
    monkeypatch.setattr(host_module, "SILENCE_S", 1.0)
    ended = threading.Event()
    monkeypatch.setattr(host_module.os, "_exit", lambda code: ended.set())
    (job, request), told = make_job(overrides={"step_s": 0.2, "num_steps": 1000}), Told()
    cluster = Cluster()
    cluster.end = lambda host, gently: None  # As when the submitting computer vanishes.

    def ask(step):
        if step >= 2:
            raise JobError("test", "gone", "")

    told.ask = ask
    with pytest.raises(JobError, match="gone"):
        run_on(cluster, to, job, request, told)
    worker = cluster.hosts_so_far[0]._worker
    assert worker.poll() is None
    assert ended.wait(30) and worker.poll() == 3 and names_in(copies) == []
