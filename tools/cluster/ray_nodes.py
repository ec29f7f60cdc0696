"""Several nodes of a Ray cluster on this machine, to be killed at will: Ray's own test cluster in a process of its own.

    python tools/cluster/ray_nodes.py FOLDER PORT [--nodes 2] [--cpus 2] [--gpus 0]

`Nodes` starts that process and talks to it. Token authentication is on; the token is FOLDER/token.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PATIENCE = {
    "gcs_rpc_server_reconnect_timeout_s": 5,
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
"""Nodes notice the end of the head, and the head that of nodes, within seconds; Ray's own values suit large clusters."""


class Nodes:
    """A cluster in a process of its own."""

    def __init__(
        self,
        folder: Path,
        nodes: int = 2,
        cpus: int = 2,
        gpus: float = 0,
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_port()
        self.address = f"localhost:{self.port}"
        token = folder / "token"
        if not token.exists():
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)} | (environment or {})
        self._arguments = ["--nodes", str(nodes), "--cpus", str(cpus), "--gpus", str(gpus)]
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start the head and all nodes; after the end of a head, a new cluster at the same address."""
        self._log = (self.folder / "nodes.log").open("a")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), str(self.port), *self._arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, start_new_session=True,
            env=os.environ | self.environment,
        )  # fmt: skip
        self._answer()

    def ask(self, command: str, *arguments: Any) -> Any:
        """A command of `serve`, and its answer."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End all of it."""
        if self._process is not None:
            with suppress(OSError, RuntimeError):
                self.ask("end")
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._log.close()
            self._process = None

    def _answer(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the cluster has ended; see {self.folder / 'nodes.log'}")
        return json.loads(line)


def free_port() -> int:
    """A port below those that Ray gives to its workers."""
    while True:
        port = 20000 + secrets.randbelow(9000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def serve(options: argparse.Namespace) -> None:
    """Start the cluster, and obey commands on standard input: add, kill N, kill_head, end."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What Ray prints is no answer.
    from ray.cluster_utils import Cluster

    home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Short: the names of its sockets are limited.
    Path("/tmp/ray").mkdir(exist_ok=True)  # Where Ray notes its address, whatever folder it has.
    head = {
        "num_cpus": 0, "ray_client_server_port": options.port, "include_dashboard": False, "temp_dir": home,
        "_system_config": PATIENCE, "include_log_monitor": False,
    }  # fmt: skip
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
    own = {"num_cpus": options.cpus, "num_gpus": options.gpus or None, "include_log_monitor": False}
    nodes = [cluster.add_node(**own) for _ in range(options.nodes)]
    wait_for_port(options.port)
    print(json.dumps("ready"), file=answers)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        answer: Any = None
        match command:
            case "kill":
                node = nodes.pop(arguments[0] % len(nodes))
                cluster.remove_node(node, allow_graceful=False)
            case "add":
                nodes.append(cluster.add_node(**own))
            case "kill_head":
                cluster.remove_node(cluster.head_node, allow_graceful=False)
            case "count":
                answer = len(nodes)
            case "end":
                cluster.shutdown()
                shutil.rmtree(home, ignore_errors=True)
        print(json.dumps(answer), file=answers)
        if command == "end":
            return


def wait_for_port(port: int, limit_s: float = 60.0) -> None:
    """Until somebody listens there."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens at port {port}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0)
    serve(parser.parse_args())
