"""The connection to a cluster by Ray, and each of its failures as one sentence.

Ray's token authentication is required on both sides: a cluster that answers without a token is refused, before anything
is sent to it. Ray is imported when a connection is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from recdreamer import __version__
from recdreamer.cluster.destination import Destination
from recdreamer.cluster.host import JobHost
from recdreamer.report import JobError
from recdreamer.shared.safe_files import printable, reason_of

ANSWER_S = 10.0
"""Time for the head to answer at all."""
CALL_S = 120.0
"""Time for a node to answer: one mebibyte over a slow link."""
TRIES = 3
LOSSES = {
    "ActorDiedError": "its host or its node died",
    "ActorUnavailableError": "its host does not answer",
    "GetTimeoutError": "it does not answer in time",
    "NodeDiedError": "its node died",
    "OutOfMemoryError": "its node ran out of memory",
}
"""Ray's names of errors, in words."""
RAY = "ray[client]==2.60.0"
"""As backend/pyproject.toml pins it: the extension has this package without its metadata."""
CLOSE_S = 15.0
"""Time for a node to remove the copy of a folder."""
NO_RAY = "Ray is not installed in this environment"
KEPT = "Nothing is lost: when it is back, run or resume the job again, and it goes on from its newest checkpoint."


class NodeLost(Exception):
    """The node, or the host of the job on it, does not answer any more. The job can go on elsewhere."""


class Cluster:
    """A connection to a cluster. One for each process; threads may share it."""

    def __init__(self, to: Destination) -> None:
        """Raises JobError "cluster", in one sentence, if there is no connection."""
        self.address = to.address
        # Read when Ray is imported. It has no other way to ask for authentication.
        os.environ["RAY_AUTH_MODE"] = "token"
        # Without this, a question after the loss of the connection would look for another cluster to ask.
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import grpc
            import ray
        except ImportError as error:
            raise JobError(
                "cluster", f"{NO_RAY} ({reason_of(error)}).", f"Install it there: {RAY}."
            ) from error
        self._ray, self._grpc = ray, grpc
        self._token = own_token()
        self._refuse_open_or_absent()
        self._connect()

    def gpus(self) -> tuple[float, float]:
        """GPUs of the node that has the most, and of all nodes. Raises JobError "cluster"."""
        counts = [node["Resources"].get("GPU", 0.0) for node in self.ask(self._ray.nodes) if node["Alive"]]
        return max(counts, default=0.0), sum(counts)

    def hosts(self, name: str, to: Destination, gpus: float, count: int) -> tuple[list[Any], Any]:
        """The actors of a job, which start when nodes are free, and what reserves their places: all of them, or none.

        One actor needs no reservation.
        """
        options: list[dict[str, Any]] = [{"scheduling_strategy": "SPREAD"}]
        group = None
        if count > 1:
            from ray.util.placement_group import placement_group
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Place

            place = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
            group = self.ask(lambda: placement_group([place] * count, strategy="PACK"))
            options = [
                {"scheduling_strategy": Place(group, placement_group_bundle_index=i)} for i in range(count)
            ]
        actor = self._ray.remote(JobHost)

        def start() -> list[Any]:
            fixed = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
            return [actor.options(**fixed, **own).remote(name, to.program, to.storage) for own in options]

        return self.ask(start), group

    def promise(self, host: Any, method: str, *arguments: Any) -> Any:
        """Call a method of a host, without waiting for it. Raises NodeLost and JobError "cluster"."""
        return self.ask(lambda: getattr(host, method).remote(*arguments))

    def is_ready(self, promise: Any, wait_s: float) -> bool:
        """Whether a node has answered. Raises NodeLost and JobError "cluster"."""
        return bool(self.ask(lambda: self._ray.wait([promise], timeout=wait_s)[0]))

    def answer(self, host: Any, method: str, *arguments: Any) -> Any:
        """What a method of a host returns. Raises NodeLost, or JobError "cluster" if the cluster is gone."""
        promise = self.promise(host, method, *arguments)
        return self.ask(lambda: self._ray.get(promise, timeout=CALL_S))

    def ask(self, question: Callable[[], Any]) -> Any:
        """What Ray answers. Raises NodeLost, or JobError "cluster" if the cluster is gone."""
        try:
            if not self._ray.is_initialized():
                raise ConnectionError("the connection was lost")
            return question()
        except Exception as error:
            text = str(error)
            if "No module named 'recdreamer" in text:
                raise JobError(
                    "cluster",
                    "The nodes of the cluster have no RecDreamer, or one without clusters.",
                    f"Install the package of this release, recdreamer[cluster] {__version__}, on each of them.",
                ) from error
            # Whether the head answers tells a lost node from a lost cluster.
            if not isinstance(error, self._ray.exceptions.RayError) or self._answers(self._token) is not None:
                raise self._gone() from error
            raise NodeLost(_short(error)) from error

    def end(self, host: Any, gently: bool) -> None:
        """End the host of a job, also one that has not started; `gently`: when it has removed its copy of the folder."""
        try:
            if gently:
                self.is_ready(self.promise(host, "close"), CLOSE_S)
            if self._ray.is_initialized():
                self._ray.kill(host)
        except Exception as error:  # It is gone already, or the cluster is.
            print(f"The host could not be ended: {reason_of(error)}")

    def give_back(self, group: Any) -> None:
        """Free the places of a job of several processes."""
        from ray.util.placement_group import remove_placement_group

        try:
            if self._ray.is_initialized():
                remove_placement_group(group)
        except Exception as error:
            print(f"The places could not be given back: {reason_of(error)}")

    def close(self) -> None:
        """Give the connection back; what this process has started there ends."""
        try:
            self._ray.shutdown()
        except Exception as error:
            print(f"The connection could not be closed: {reason_of(error)}")

    def _refuse_open_or_absent(self) -> None:
        """Ask the head without a token, and then with it. Raises JobError "cluster"."""
        missing = self._answers("")
        if missing is None:
            raise JobError(
                "cluster",
                f"The cluster at {self.address} takes jobs from anyone, because it was started without authentication.",
                "Stop it, and start every node with RAY_AUTH_MODE=token.",
            )
        if missing != self._grpc.StatusCode.UNAUTHENTICATED:
            raise JobError(
                "cluster",
                f"There is no Ray cluster at {self.address} ({missing.value[1]}).",
                "Check the address, the tunnel, and that the head runs: `ray start --head` with RAY_AUTH_MODE=token.",
            )
        if self._answers(self._token) == self._grpc.StatusCode.UNAUTHENTICATED:
            raise JobError(
                "cluster",
                f"The cluster at {self.address} refuses the token of this computer.",
                "Copy the token that `ray get-auth-token` prints on the head to ~/.ray/auth_token here.",
            )

    def _connect(self) -> None:
        """Connect, also to a head that needs more time than Ray gives it to start a server for us."""
        for left in range(TRIES - 1, -1, -1):
            try:
                self._ray.init(
                    f"ray://{self.address}",
                    log_to_driver=False,
                    logging_level="ERROR",
                    namespace="recdreamer",
                )
                return
            except Exception as error:
                self.close()
                if not left or not isinstance(error, ConnectionError):
                    raise self._why_not(error) from error

    def _answers(self, token: str) -> Any:
        """None if the head answers, else the status code that gRPC gives."""
        # Generated when they are imported, so that no type checker knows what is in them.
        messages = import_module("ray.core.generated.ray_client_pb2")
        services = import_module("ray.core.generated.ray_client_pb2_grpc")
        channel = self._grpc.insecure_channel(self.address)
        try:
            ping = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
            metadata = [("authorization", f"Bearer {token}")] if token else []
            services.RayletDriverStub(channel).ClusterInfo(ping, timeout=ANSWER_S, metadata=metadata)
        except self._grpc.RpcError as error:
            return error.code()
        finally:
            channel.close()
        return None

    def _why_not(self, error: Exception) -> JobError:
        """Why there is no connection although the head answers."""
        lines = [line.strip() for line in str(error).splitlines() if re.match(r"\s*(Ray|Python):", line)]
        if "ersion" in str(error) and len(lines) >= 4:
            return JobError(
                "cluster",
                f"The cluster has {lines[0]} and {lines[1]}, but this computer has {lines[2]} and {lines[3]}.",
                "Install the same versions on both sides; the minor version of Python counts, too.",
            )
        return JobError(
            "cluster",
            f"The cluster at {self.address} refuses the connection ({_last_words(error)}).",
            "The logs of the head say why; they are in /tmp/ray/session_latest/logs there.",
        )

    def _gone(self) -> JobError:
        return JobError("cluster", f"The cluster at {self.address} does not answer any more.", KEPT)


def _short(error: Exception) -> str:
    """What Ray says of a lost node, in a few words."""
    name = type(error).__name__
    return LOSSES.get(name, f"{name}: {reason_of(error)}"[:120])


def _last_words(error: Exception) -> str:
    """The last line of what Ray says; the others are a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[-1][:200]).rstrip(".") if lines else type(error).__name__


def own_token() -> str:
    """The token of this computer, from where Ray looks for it. Raises JobError "cluster" if there is none."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        token = os.environ.get("RAY_AUTH_TOKEN", "").strip() or path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        token = ""
    if not token:
        raise JobError(
            "cluster",
            f"This computer has no token for the cluster: {printable(path)} is missing, empty or cannot be read.",
            "Copy the token that `ray get-auth-token` prints on the head to that file.",
        )
    return token
