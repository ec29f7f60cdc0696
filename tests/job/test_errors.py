"""Every exception becomes one sentence and one remedy."""

import errno
import os

import pytest
import torch

from recdreamer.job.errors import explain
from recdreamer.report import JobError
from recdreamer.shared.protocol import RequestError


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
        (os_error(errno.EIO), "file"),
        (os_error(errno.ENAMETOOLONG), "file"),
        (os_error(errno.ELOOP), "file"),
        (os_error(errno.ENOENT), "missing"),
        (UnicodeEncodeError("utf-8", "a\udce9", 1, 2, "surrogates not allowed"), "text"),
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"), "text"),
        (RecursionError("maximum recursion depth exceeded"), "file"),
        (OverflowError("int too large to convert to float"), "number"),
        (OSError("of a library, without a number"), "internal"),
        (AssertionError(), "internal"),
    ],
)
def test_kind_message_and_hint(error, kind):
    failure = explain(error)
    assert failure.kind == kind
    assert failure.message.endswith(".") and "\n" not in failure.message and ".." not in failure.message
    assert failure.hint.endswith(".")


def test_it_names_what_was_being_written():
    assert (
        "the checkpoint of step 4"
        in explain(OSError(errno.ENOSPC, "full"), "the checkpoint of step 4").message
    )


def test_a_name_that_cannot_be_printed_is_written_out():
    error = OSError(errno.ENOENT, "No such file", "left \udce9\n.png")
    assert explain(error).message == "left \\udce9\\n.png does not exist."


def test_it_says_where_a_traceback_is():
    assert "See log.txt in the job folder" in explain(AssertionError("x")).hint
    assert explain(AssertionError("x"), log="/tmp/a.txt").hint.endswith("/tmp/a.txt tells more.")


def test_a_very_long_message_is_cut():
    assert len(explain(RuntimeError("x" * 10_000)).message) < 400
