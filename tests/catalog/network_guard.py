"""Lets connections to this machine through, and fails on any other: no test may reach a real host."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

reached: list[str] = []
"""Hosts outside of this machine that were asked for since `watch` was called."""


def is_local(host: Any) -> bool:
    """Whether a host is this machine.

    >>> [is_local(host) for host in ("127.0.0.1", "::1", "localhost", b"localhost", "huggingface.co", "10.0.0.1", None)]
    [True, True, True, True, False, False, True]
    """
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def watch() -> None:
    """Guard the sockets of this process from now on."""
    connect, connect_ex, find = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(host: Any) -> None:
        if not is_local(host):
            reached.append(str(host))
            raise AssertionError(f"a test tried to reach {host}")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse(address[0])
        return connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse(address[0])
        return connect_ex(self, address)

    def guarded_find(host: Any, *arguments: Any, **options: Any) -> Any:
        refuse(host)
        return find(host, *arguments, **options)

    socket.socket.connect = guarded_connect  # type: ignore[method-assign]
    socket.socket.connect_ex = guarded_connect_ex  # type: ignore[method-assign]
    socket.getaddrinfo = guarded_find
