"""Where the processes of a job find each other is open to this computer alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from recdreamer.parallel.team import own_port

LISTENS, LOOPBACK = "0A", "0100007F"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc")
def test_nobody_in_the_network_can_talk_to_the_processes_of_a_job() -> None:
    store = own_port()
    assert listening_at(store.port) == {LOOPBACK}
    other = dist.TCPStore("127.0.0.1", store.port, is_master=False)
    other.set("here-1", "")
    assert store.check(["here-1"])
    # Negative control: a store as torch opens it.
    usual = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert not listening_at(usual.port) <= {LOOPBACK}


def listening_at(port: int) -> set[str]:
    """Addresses, as the kernel writes them."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    places = [row[1].split(":") for row in rows if row[3] == LISTENS]
    return {address for address, number in places if int(number, 16) == port}
