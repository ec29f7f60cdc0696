"""A hub on 127.0.0.1 that speaks what huggingface_hub asks for, and that fails in every way that a network can."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 10_000
"""Files from this size on are listed with a SHA-256, as in Git LFS."""


@dataclass(frozen=True)
class Fault:
    """What happens to the next request for a file's bytes."""

    kind: str
    """cut, stall, trickle, slow, wrong, status, no_range; of lists also page"""
    at: int = 0
    """Bytes that are sent before, or the status."""
    seconds: float = 0.0


@dataclass
class LocalHub:
    """Repositories by name and commit, and the faults of the next answers."""

    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    """For requests of bytes, in turn; after the last one all is well."""
    listing_faults: deque[Fault] = field(default_factory=deque)
    """For requests of lists."""
    redirects: bool = False
    """Large files are behind a redirect to another origin, as on the real Hub."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of every request."""
    sent: int = 0
    """Bytes of files that were sent."""

    def __enter__(self) -> LocalHub:
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler()) for _ in range(2)]
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    def origin(self, number: int) -> str:
        return f"http://127.0.0.1:{self._servers[number].server_port}"

    def add(self, repo: str, commit: str, files: dict[str, bytes]) -> None:
        self.files[repo, commit] = files

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with suppress(ConnectionError):  # The client was killed.
                    super().handle()

            def log_message(self, *arguments: Any) -> None: ...

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.answer_list(self, parse_qs(body.decode()).get("paths", []))

            def do_GET(self) -> None:
                if self.path.startswith("/api/"):
                    hub.answer_list(self, [])
                else:
                    hub.answer_bytes(self)

            do_HEAD = do_GET

        return Handler

    def answer_list(self, request: BaseHTTPRequestHandler, paths: list[str]) -> None:
        self.requests.append((request.command, request.path, dict(request.headers)))
        if self.listing_faults:
            fault = self.listing_faults.popleft()
            time.sleep(fault.seconds)
            if fault.kind == "cut":
                return cut(request)
            if fault.kind == "page":
                return reply(
                    request, 200, b"<!DOCTYPE html><title>Log in to this network</title>", "text/html"
                )
            if fault.kind == "status":
                return reply(request, fault.at, b"{}")
        path = unquote(urlsplit(request.path).path)
        if found := re.fullmatch(r"/api/models/(.+)/(paths-info|revision)/([^/]+)", path):
            repo, what, revision = found.groups()
        else:
            return reply(request, 404, b"{}")
        commits = [commit for name, commit in self.files if name == repo]
        if not commits:
            return reply(request, 404, b"{}", error="RepoNotFound")
        commit = commits[-1] if revision == "main" else revision
        if commit not in commits:
            return reply(request, 404, b"{}", error="RevisionNotFound")
        if what == "revision":
            raw: Any = {"_id": "0", "id": repo, "sha": commit, "siblings": []}
        else:
            content = self.files[repo, commit]
            raw = [listed(name, content[name]) for name in paths if name in content]
        return reply(request, 200, json.dumps(raw).encode())

    def answer_bytes(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append((request.command, request.path, dict(request.headers)))
        path = unquote(urlsplit(request.path).path)
        found = re.fullmatch(r"(/cdn)?/(.+?/.+?)/resolve/([0-9a-f]{40})/(.+)", path)
        content = self.files.get((found[2], found[3]), {}).get(found[4]) if found else None
        if content is None or found is None:
            return reply(request, 404, b"", error="EntryNotFound")
        if self.redirects and len(content) >= LARGE and not found[1]:
            request.send_response(302)
            request.send_header("Location", f"{self.origin(1)}/cdn{request.path}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return None
        return self.send(request, content, self.faults.popleft() if self.faults else Fault("none"))

    def send(self, request: BaseHTTPRequestHandler, content: bytes, fault: Fault) -> None:
        if fault.kind == "status":
            return reply(request, fault.at, b"{}")
        if fault.kind == "slow":
            time.sleep(fault.seconds)
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if asked and fault.kind != "no_range":
            start = int(asked[1])
            if start >= len(content):
                return reply(request, 416, b"")
        body = content[start:]
        if fault.kind == "wrong":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        request.send_response(206 if asked and fault.kind != "no_range" else 200)
        if asked and fault.kind != "no_range":
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if fault.kind in ("cut", "stall", "trickle"):
            body = body[: fault.at]
        step = 4096 if fault.kind == "trickle" else max(1, len(body))
        for place in range(0, len(body), step):
            request.wfile.write(body[place : place + step])
            request.wfile.flush()
            if fault.kind == "trickle":
                time.sleep(fault.seconds)
        self.sent += len(body)
        if fault.kind in ("cut", "trickle"):
            cut(request)
        elif fault.kind == "stall":
            time.sleep(fault.seconds)
            cut(request)
        return None


def listed(name: str, content: bytes) -> dict[str, Any]:
    """A file as the Hub's API lists it."""
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    raw: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if len(content) >= LARGE:
        raw["lfs"] = {"size": len(content), "oid": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
    return raw


def reply(
    request: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "application/json", error: str = ""
) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    if error:
        request.send_header("X-Error-Code", error)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def cut(request: BaseHTTPRequestHandler) -> None:
    """Break the connection at once, without a farewell."""
    request.wfile.flush()
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
    request.close_connection = True
