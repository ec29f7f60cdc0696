"""A repeat of a stage succeeds, or leaves the job as it was."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from recdreamer.job.repeat import (
    begin_again,
    empty_result,
    is_repeated,
    put_back,
    repeated_seeds,
    take_result,
)
from recdreamer.report import JobError
from recdreamer.shared.folder_lock import FolderLock
from recdreamer.shared.protocol import JobFolder, JobRequest, RequestError, write_atomically

from .test_worker import finish, start, wait_for_step

BEFORE = {"shape-00000002-final", "geometry-00000004-final", "geometry_1-00000004-final", "texture-00000002",
          "texture-00000004-final", "detail_1-00000004-final"}  # fmt: skip


def done_job(folder: Path, **changes) -> tuple[JobFolder, JobRequest]:
    job, request = JobFolder(folder), JobRequest("a bear", **changes)
    job.root.mkdir(exist_ok=True)
    write_atomically(job.request, request.to_json())
    write_atomically(job.state, '{"status": "done"}')
    job.result.mkdir()
    write_atomically(job.result / "report.json", "first")
    for name in BEFORE:
        (job.checkpoints / name).mkdir(parents=True)
        write_atomically(job.checkpoints / name / "meta.json", "first")
    return job, request


def checkpoints_of(job: JobFolder) -> set[str]:
    return {path.parent.name for path in job.checkpoints.glob("*/meta.json")}


def expect_as_before(job: JobFolder) -> None:
    assert checkpoints_of(job) == BEFORE == {path.name for path in job.checkpoints.iterdir()}
    assert {path.read_text() for path in job.checkpoints.glob("*/meta.json")} == {"first"}
    assert (job.result / "report.json").read_text() == "first" and not repeated_seeds(job)


def test_the_same_repeat_goes_on_and_another_takes_its_place(tmp_path, monkeypatch):
    job, request = done_job(tmp_path)
    moved, rename = [], Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: moved.append(path.name) or rename(path, to))
    begin_again(job, request, "texture", 5)
    assert moved == ["detail_1-00000004-final", "texture-00000004-final", "texture-00000002"], "last first"
    (job.checkpoints / "texture-00000001").mkdir()
    write_atomically(job.checkpoints / "texture-00000001" / "meta.json", "second")
    begin_again(job, request, "texture", 5)
    assert "texture-00000001" in checkpoints_of(job) and repeated_seeds(job) == {"texture": 5}
    begin_again(job, request, "geometry", 7)
    assert checkpoints_of(job) == {"shape-00000002-final"}
    assert repeated_seeds(job) == {"geometry": 7, "texture": 7} and job.read_request() == request
    assert put_back(job)
    expect_as_before(job)


def test_a_new_result_takes_the_place_of_the_earlier_one(tmp_path):
    job, request = done_job(tmp_path)
    begin_again(job, request, "texture", 5)
    write_atomically(empty_result(job) / "report.json", "second")
    take_result(job)
    assert (job.result / "report.json").read_text() == "second" and repeated_seeds(job) == {"texture": 5}
    assert {path.name for path in job.checkpoints.iterdir()} == {n for n in BEFORE if n[0] in "sg"}
    begin_again(job, request, "texture")
    assert repeated_seeds(job) == {"texture": request.seed}, "without a seed, the job's"


@pytest.mark.parametrize("kind", ["disk_full", "not_writable"])
def test_a_folder_that_cannot_be_written_is_one_sentence(kind, tmp_path, monkeypatch):
    job, request = done_job(tmp_path)
    rename = Path.rename
    number = {"disk_full": errno.ENOSPC, "not_writable": errno.EACCES}[kind]

    def fail(path: Path, target: Path) -> Path:
        if path.name == "texture-00000002" and Path(target).parent.name == "earlier":
            raise OSError(number, os.strerror(number))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(JobError) as caught:
        begin_again(job, request, "texture")
    assert caught.value.kind == kind
    expect_as_before(job)


@pytest.mark.parametrize(
    ("stage", "changes", "sentence"),
    [
        ("geometry", {"stages": ("shape", "texture")}, "not part of this job, which has shape, texture."),
        ("shape", {"start": "texture", "start_mesh": "m.npz"}, "not part of this job, which has texture."),
        ("shape", {"kind": "particles"}, "The stage shape is not part of this job, which has none."),
        ("texture", {"geometry": "unfinished"}, "The stage texture cannot be repeated: the stage geometry"),
    ],
)  # fmt: skip
def test_what_cannot_be_repeated_is_one_sentence(stage, changes, sentence, tmp_path):
    is_unfinished = changes.pop("geometry", "") == "unfinished"
    job, request = done_job(tmp_path, **changes)
    for path in job.checkpoints.glob("geometry*") if is_unfinished else ():
        path.rename(path.with_name(path.name.removesuffix("-final")))
    before = checkpoints_of(job)
    with pytest.raises(RequestError, match=sentence):
        begin_again(job, request, stage)
    assert checkpoints_of(job) == before and not is_repeated(job)


@pytest.mark.parametrize("end", ["failure", "cancel", "refusal"])
def test_what_ends_early_leaves_a_job_that_is_done(end, tmp_path):
    overrides = {"trouble": "expected" if end == "failure" else "", "step_s": 0.02}
    changes = {"stages": ("shape", "geometry")} if end == "refusal" else {}
    job, _ = done_job(tmp_path / "job", overrides=overrides, **changes)
    # As the add-on has written it.
    write_atomically(job.state, '{"status": "queued"}')
    process = start(job, "--again", "texture")
    assert process.stdin is not None
    if end == "cancel":
        wait_for_step(job, 1)
        process.stdin.write(b"cancel\n")
        process.stdin.flush()
    code, events = finish(process)
    state = job.read_state()
    assert state.status == "done"
    if end == "cancel":
        assert code == 4 and events[-1]["type"] == "cancelled"
    else:
        assert code == 1 and events[-1]["type"] == "error" and state.message == events[-1]["message"]
        assert state.message.startswith("The stage texture is not" if end == "refusal" else "The weights are")
        assert ("The earlier result is kept" in state.hint) == (end == "failure")
    expect_as_before(job)


def test_what_was_paused_goes_on(tmp_path):
    job, _ = done_job(tmp_path / "job", overrides={"step_s": 0.02, "num_steps": 60})
    process = start(job, "--again", "texture")
    assert process.stdin is not None
    wait_for_step(job, 1)
    process.stdin.write(b"pause\n")
    process.stdin.flush()
    assert finish(process)[0] == 3 and job.read_state().status == "paused" and is_repeated(job)
    # Killed before the state was written, that would still be the earlier one.
    write_atomically(job.state, '{"status": "done"}')
    code, events = finish(start(job))
    assert code == 0 and any(event["type"] == "progress" for event in events)


def test_a_repeat_that_was_killed_before_it_began_is_put_back(tmp_path):
    job, _ = done_job(tmp_path / "job")
    (job.checkpoints / "earlier").mkdir()
    (job.checkpoints / "texture-00000002").rename(job.checkpoints / "earlier" / "texture-00000002")
    assert finish(start(job))[0] == 0
    expect_as_before(job)


DAMAGED = [
    "", "{", "[]", "null", "[" * 100_000, "\xff", '{"stage": "texture"}', '{"stage": "roof", "seed": 5}',
    '{"stage": "texture", "seed": -1}', '{"stage": "texture", "seed": 1e999}', '{"stage": ["texture"], "seed": 5}',
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_repeat_whose_file_is_damaged_is_put_back(text, tmp_path):
    """The stages that it had begun are known by what it had set aside."""
    job, request = done_job(tmp_path)
    begin_again(job, request, "texture", 5)
    (job.checkpoints / "texture-00000001").mkdir()
    (job.checkpoints / "texture-00000001" / "meta.json").write_text("second")
    (job.checkpoints / "earlier" / "again.json").write_bytes(text.encode("latin-1"))
    assert not is_repeated(job)
    assert put_back(job)
    expect_as_before(job)


@pytest.mark.parametrize("text", DAMAGED[:3])
@pytest.mark.parametrize("again", [(), ("--again", "texture")])
def test_a_job_with_a_damaged_repeat_goes_on(text, again, tmp_path):
    job, request = done_job(tmp_path / "job")
    begin_again(job, request, "texture", 5)
    (job.checkpoints / "earlier" / "again.json").write_bytes(text.encode("latin-1"))
    code, events = finish(start(job, *again))
    assert code == 0 and events[-1]["type"] == "result" and job.read_state().status == "done"


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"texture": "5"}', '{"texture": 18446744073709551616}', "[" * 100_000]
)
def test_damaged_seeds_are_reported_and_left_out(text, tmp_path):
    job, request = done_job(tmp_path)
    job.seeds.write_text(text)
    told = []
    assert repeated_seeds(job, told.append) == {} and len(told) == 1 and told[0].startswith("seeds.json ")
    begin_again(job, request, "texture", 5)
    assert repeated_seeds(job) == {"texture": 5}


def test_a_running_job_is_not_repeated(tmp_path):
    job, _ = done_job(tmp_path / "job")
    lock = FolderLock(job.root)
    code, events = finish(start(job, "--again", "texture"))
    lock.release()
    assert code == 1 and events[-1]["kind"] == "busy"
    expect_as_before(job)
