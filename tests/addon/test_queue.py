"""Jobs that wait: their order, after restarts and beside another Blender, and one at a time on a device."""

from __future__ import annotations

import json

import pytest
from recdreamer_extension.addon.jobs.registry import JobRegistry
from recdreamer_extension.addon.jobs.task import BACKEND
from recdreamer_extension.addon.jobs.turns import next_turn, one_before
from recdreamer_extension.addon.jobs.waiting import Queue
from recdreamer_extension.backend.recdreamer.shared.protocol import JobRequest, RequestError


@pytest.fixture
def queue(tmp_path) -> Queue:
    queue = Queue(tmp_path / "queue")
    for name in ("a", "b", "c"):
        queue.add(name)
    return queue


def order(queue: Queue) -> str:
    return "".join(turn.job_id for turn in queue.turns)


def test_the_order_is_there_after_a_restart(queue):
    assert order(queue) == "abc"
    queue.move("c", -1)
    queue.add("d", "texture", 7, first=True)
    again = Queue(queue.folder)
    assert order(again) == "dacb" and again.turns == queue.turns
    assert (again.find("d").again, again.find("d").seed) == ("texture", 7)


@pytest.mark.parametrize(("name", "by", "expected"), [
    ("a", 1, "bac"), ("a", 2, "bca"), ("c", -2, "cab"), ("a", -1, "abc"), ("c", 1, "abc"), ("x", 1, "abc"),
])  # fmt: skip
def test_moving(queue, name, by, expected):
    queue.move(name, by)
    assert order(queue) == expected == order(Queue(queue.folder))


def test_two_blenders_take_a_job_once(queue):
    other = Queue(queue.folder)
    assert queue.take("a") and not other.take("a")
    assert order(other) == "bc" and not queue.refresh()
    assert other.take("b") and queue.refresh() and order(queue) == "c"


def test_what_was_put_back_has_its_place(queue):
    turn = queue.turns[0]
    queue.take("a")
    queue.add("d")
    queue.put_back(turn)
    assert order(queue) == "abcd"


def test_a_held_queue_is_held_after_a_restart(queue):
    queue.hold(True)
    assert Queue(queue.folder).is_held
    queue.hold(False)
    queue.hold(False)
    assert not Queue(queue.folder).is_held


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"place": "x"}', '{"place": 1e999}', '{"job_id": "../../x"}', "null"]
)
def test_a_damaged_turn_is_left_out(queue, text):
    (queue.folder / "b.json").write_text(text)
    assert order(Queue(queue.folder)) == "ac"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="The queue cannot be written"):
        Queue(tmp_path / "file" / "queue").add("a")


@pytest.fixture
def registries(tmp_path):
    """What two Blenders have of one data folder."""
    both = JobRegistry(tmp_path), JobRegistry(tmp_path)
    yield both
    for registry in both:
        registry.shut_down(timeout_s=0)


def new_job(registry, device="cpu", **overrides):
    job = registry.create(JobRequest(prompt="a red bear", device=device, overrides=overrides), [])
    registry.enqueue(job)
    return job


def start_next(registry, command):
    """As session.start_next does."""
    turn = next_turn(registry)
    if turn is None or not registry.queue.take(turn.job_id):
        return None
    job = registry.find(turn.job_id)
    job.is_waiting = False
    registry.start(job, command, BACKEND, turn.again, turn.seed)
    return job


def test_one_job_at_a_time_on_a_device_and_the_next_afterwards(registries, fake_command, wait_until):
    registry, _ = registries
    first, second = new_job(registry, steps=20, step_s=0.02), new_job(registry)
    on_gpu = new_job(registry, "cuda")
    assert start_next(registry, fake_command) is first
    assert second.condition == "waiting" and second.why_not_resume == "This job waits for its turn."
    assert start_next(registry, fake_command) is on_gpu, "another device is free"
    assert start_next(registry, fake_command) is None
    wait_until(lambda: registry.poll() and first.client is None)
    assert start_next(registry, fake_command) is second
    wait_until(lambda: registry.poll() and second.condition == "done")
    assert first.condition == "done" and registry.queue.turns == []


def test_a_job_of_another_blender_is_waited_for(registries, fake_command, wait_until):
    here, there = registries
    theirs = new_job(there, steps=3000)
    assert start_next(there, fake_command) is theirs
    wait_until(lambda: there.poll() and theirs.state.step > 1)
    ours = new_job(here, "auto")
    assert start_next(here, fake_command) is None, "auto may become the CPU"
    there.ask_to_stop(theirs, "cancel")
    wait_until(lambda: there.poll() and theirs.client is None)
    assert start_next(here, fake_command) is ours
    wait_until(lambda: here.poll() and ours.condition == "done")


def test_which_job_a_waiting_one_comes_after(registries, fake_command, wait_until):
    here, there = registries
    theirs = new_job(there, "cuda", steps=3000)
    assert start_next(there, fake_command) is theirs
    wait_until(lambda: there.poll() and theirs.state.step > 1)
    running, on_gpu = new_job(here, "cpu", steps=3000), new_job(here, "cuda")
    assert start_next(here, fake_command) is running
    second, third = new_job(here, "cpu"), new_job(here, "cpu")
    wait_until(lambda: here.poll() and here.elsewhere)
    assert [one_before(here, job) for job in (second, third)] == [running, second]
    assert one_before(here, on_gpu).id == theirs.id, "it is that of another Blender"
    assert one_before(here, new_job(here, "cuda:1")) is None, "nothing is before it"
    here.elsewhere[theirs.id].running_on = "another computer"
    assert one_before(here, on_gpu) is None, "it does not use the GPU of this one"


def test_two_workers_that_are_started_at_once_do_not_work_at_once(registries, fake_command, wait_until):
    """Each Blender has seen a free device; the workers agree between themselves."""
    jobs = []
    for registry in registries:
        jobs.append(registry.create(JobRequest("a red bear", device="cpu", overrides={"steps": 3000}), []))
        registry.start(jobs[-1], fake_command, BACKEND)
    wait_until(lambda: [r.poll() for r in registries] and any(job.state.stage == "waiting" for job in jobs))
    waits, works = sorted(
        zip(jobs, registries, strict=True), key=lambda pair: pair[0].state.stage != "waiting"
    )
    wait_until(lambda: works[1].poll() and works[0].state.step > 3)
    waits[1].poll()
    assert waits[0].state.stage == "waiting" and waits[0].state.step == 0
    works[1].ask_to_stop(works[0], "pause")
    wait_until(lambda: [r.poll() for r in registries] and waits[0].state.step > 1)
    wait_until(lambda: works[1].poll() and works[0].condition == "paused")


def test_a_deleted_job_leaves_the_queue_and_a_missing_one_is_passed_over(registries, fake_command):
    registry, other = registries
    first, second, third = (new_job(registry) for _ in range(3))
    registry.delete(first)
    other.refresh()
    other.delete(other.find(second.id))
    registry.queue.add(second.id, first=True)  # Its folder is gone.
    registry.refresh()
    assert next_turn(registry).job_id == third.id
    assert [turn.job_id for turn in registry.queue.turns] == [third.id]


def test_a_turn_survives_the_end_of_blender(registries, tmp_path):
    registry, _ = registries
    first, second = new_job(registry), new_job(registry)
    registry.queue.move(second.id, -1)
    registry.shut_down()
    again = JobRegistry(tmp_path)
    assert [turn.job_id for turn in again.queue.turns] == [second.id, first.id]
    assert again.find(first.id).condition == "waiting"
    json.loads((tmp_path / "queue" / f"{first.id}.json").read_text())


def test_a_job_that_cannot_run_is_not_let_in(registries, fake_command, wait_until):
    registry, _ = registries
    job = new_job(registry)
    start_next(registry, fake_command)
    with pytest.raises(RequestError, match="This job is running"):
        registry.enqueue(job)
    wait_until(lambda: registry.poll() and job.client is None)
    with pytest.raises(RequestError, match="This job is done"):
        registry.enqueue(job)
    registry.enqueue(job, "texture", 3)
    assert registry.queue.find(job.id).again == "texture" and job.has_result
    registry.leave_queue(job)
    assert job.condition == "done"
