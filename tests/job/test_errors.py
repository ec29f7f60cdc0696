"""Every exception becomes one sentence and one remedy."""

import errno
import os

import pytest
import torch

from recdreamer.job.errors import explain
from recdreamer.protocol import RequestError
from recdreamer.report import JobError


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "some/file")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (JobError("weights", "No weights.", "Get some."), "weights"),
        (RequestError("The prompt is empty.", "Write one."), "request"),
        (os_error(errno.ENOSPC), "disk_full"),
        (os_error(errno.EFBIG), "disk_full"),
        (os_error(errno.EACCES), "not_writable"),
        (os_error(errno.EROFS), "not_writable"),
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (ModuleNotFoundError("No module named 'xatlas'"), "install"),
        (RuntimeError("shapes differ"), "internal"),
        (os_error(errno.EIO), "internal"),
        (AssertionError(), "internal"),
    ],
)
def test_kind_message_and_hint(error, kind):
    failure = explain(error)
    assert failure.kind == kind
    assert failure.message.endswith(".") and "\n" not in failure.message
    assert failure.hint.endswith(".")


def test_it_names_what_was_being_written():
    assert (
        "the checkpoint of step 4"
        in explain(OSError(errno.ENOSPC, "full"), "the checkpoint of step 4").message
    )


def test_a_very_long_message_is_cut():
    assert len(explain(RuntimeError("x" * 10_000)).message) < 400
