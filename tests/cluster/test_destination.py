"""Addresses: what is one, and that other computers are reached by an explicit act only."""

import pytest

from recdreamer.cluster.destination import destination, gpus_for
from recdreamer.shared.protocol import JobRequest, RequestError


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("localhost", "localhost:10001"),
        (" ray://127.0.0.1:20001 ", "127.0.0.1:20001"),
        ("[::1]:5", "[::1]:5"),
        ("LOCALHOST:5", "LOCALHOST:5"),
    ],
)
def test_this_computer_needs_no_permission(typed, address):
    assert destination(typed).address == address


@pytest.mark.parametrize(
    "typed", ["gpu-box", "192.0.2.7:10001", "127.0.0.1.example.org", "localhost.example.org"]
)
def test_another_computer_needs_one(typed):
    with pytest.raises(RequestError, match=r"another computer.*ssh -N -L"):
        destination(typed)
    assert destination(typed, allow_remote=True).address.startswith(typed.split(":")[0])


@pytest.mark.parametrize(
    "typed", ["", "http://x:1", "a b", "localhost:0", "localhost:70000", "x:y", "-x;rm:1:2"]
)
def test_what_is_no_address_is_said(typed):
    with pytest.raises(RequestError, match="is no address"):
        destination(typed, allow_remote=True)


@pytest.mark.parametrize("gpus", [-1.0, 1.5, 1000.0, float("nan")])
def test_parts_of_a_gpu_or_whole_ones(gpus):
    with pytest.raises(RequestError, match="cannot have"):
        destination("localhost", gpus)


def test_a_job_that_no_node_can_hold_does_not_wait_for_ever():
    with pytest.raises(RequestError, match=r"needs 2 GPU.*more than 1"):
        gpus_for(JobRequest("a red bear"), 2.0, 1.0)
    with pytest.raises(RequestError, match=r"needs 0.25 GPU.*more than 0"):
        gpus_for(JobRequest("a red bear", device="cuda"), None, 0.0)
    assert gpus_for(JobRequest("a red bear", prior="sd", device="cuda:1"), None, 8.0) == 1.0
