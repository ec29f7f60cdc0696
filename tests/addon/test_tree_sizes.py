"""What is on the disk is known soon, and measuring it holds nothing up."""

from __future__ import annotations

from pathlib import Path

import pytest
from recdreamer_extension.addon.jobs import folder_sizes as module
from recdreamer_extension.addon.jobs.folder_sizes import FolderSizes
from recdreamer_extension.addon.jobs.job import Job
from recdreamer_extension.addon.setup.tree_sizes import AT_ONCE, TreeSizes, sizes_below, tree_size

from recdreamer.shared.protocol import JobFolder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"12345")
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    return tmp_path


def test_each_file_counts_once_and_no_link_is_followed(tree):
    assert tree_size(tree) == 8
    assert tree_size(tree / "absent") == 0


def test_a_large_folder_is_looked_at_in_parts(tmp_path):
    for index in range(3 * AT_ONCE + 5):
        (tmp_path / f"{index}").write_bytes(b"1")
    assert [*sizes_below(tmp_path)] == [AT_ONCE, AT_ONCE, AT_ONCE, 5]


def measured(sizes: TreeSizes) -> None:
    while sizes.is_behind:
        sizes.poll()


def test_what_is_removed_while_it_is_measured_counts_nothing(tree):
    sizes = TreeSizes()
    sizes.measure("tree", [tree])
    assert not sizes.poll(0.0) and sizes.is_behind
    next(sizes._left["tree"])
    (tree / "file").unlink()
    sizes.measure("tree", [tree])
    assert sizes.poll(60.0) and sizes.bytes_of == {"tree": 5}


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_job_that_grows_keeps_its_size_until_a_new_one_is_known(tree, clock):
    sizes, job = FolderSizes(), Job(JobFolder(tree), None, "")
    assert sizes.of(job) is None and sizes.total([job]) == (0, False)
    measured(sizes)
    assert sizes.of(job) == 8 and sizes.total([job, job]) == (16, True) and not sizes.is_behind
    (tree / "more").write_bytes(b"12")
    for second in range(3):  # Each event changes the state, and each redraw asks.
        clock[0] = float(second)
        job.state.updated_s += 1
        assert sizes.of(job) == 8 and not sizes.is_behind
    clock[0] = module.AGAIN_S
    assert sizes.of(job) == 8 and sizes.is_behind
    measured(sizes)
    assert sizes.of(job) == 10
    clock[0] = 10 * module.AGAIN_S
    assert sizes.of(job) == 10 and not sizes.is_behind, "nothing has changed"
