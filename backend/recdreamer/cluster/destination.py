"""Where a job is to run: the address of a cluster, and what the job wants of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recdreamer.shared.protocol import JobRequest, RequestError
from recdreamer.shared.safe_files import printable
from recdreamer.shared.worlds import world_of

DEFAULT_PORT = 10001
"""Of Ray's client server on the head."""
SMALL_JOB = 0.25
"""Share of a GPU for a job of an embedded world."""
ADDRESS = re.compile(r"(?:ray://)?(?P<host>\[[0-9a-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?", re.IGNORECASE)
HERE = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]", re.IGNORECASE)


@dataclass(frozen=True)
class Destination:
    """A cluster, and what a job wants of it."""

    address: str
    """HOST:PORT of the client server of the head."""
    gpus: float | None = None
    """GPUs for each process of the job, also a part of one; None: as `gpus_for` says."""
    storage: str = ""
    """URL of fsspec that this computer and the nodes can write; empty: files travel through Ray."""
    processes: int | None = None
    """Processes that share the views of a step, each on its own GPU and perhaps its own node; None: as the job says."""
    program: tuple[str, ...] = ()
    """What runs a job on a node, before `run FOLDER`; empty: this package."""


def destination(
    address: str, gpus: float | None = None, storage: str = "", allow_remote: bool = False
) -> Destination:
    """A destination as typed. Raises RequestError if it cannot be one, or is another computer and that is not allowed.

    >>> destination("localhost").address
    'localhost:10001'
    >>> destination("ray://gpu-box:20001", allow_remote=True).address
    'gpu-box:20001'
    >>> try:
    ...     destination("gpu-box")
    ... except RequestError as error:
    ...     print(error.message)
    gpu-box is another computer, and neither the token nor the job would be encrypted on the way.
    """
    text = address.strip()
    found = ADDRESS.fullmatch(text)
    port = int(found["port"] or DEFAULT_PORT) if found else 0
    if found is None or not 0 < port < 2**16:
        raise RequestError(
            f"{printable(text)[:100]!r} is no address of a cluster.",
            "Write it as HOST:PORT, for example localhost:10001.",
        )
    if not allow_remote and not HERE.fullmatch(found["host"]):
        raise RequestError(
            f"{found['host']} is another computer, and neither the token nor the job would be encrypted on the way.",
            f"Open a tunnel (ssh -N -L {DEFAULT_PORT}:localhost:{port} {found['host']}) and give "
            f"localhost:{DEFAULT_PORT}, or allow other computers (--allow-remote) in a network that you trust.",
        )
    if gpus is not None and not (0 <= gpus < 1 or (1 <= gpus <= 64 and gpus == int(gpus))):
        raise RequestError(
            f"A job cannot have {gpus:g} GPUs.", "Give a part of one, such as 0.25, or a whole number."
        )
    return Destination(f"{found['host']}:{port}", gpus, storage.strip())


def gpus_for(request: JobRequest, chosen: float | None, largest: float) -> float:
    """GPUs for a job in a cluster whose largest node has `largest` of them. Raises RequestError if it has too few.

    >>> gpus_for(JobRequest("a red bear"), None, 4.0), gpus_for(JobRequest("a red bear", prior="sd"), None, 4.0)
    (0.25, 1.0)
    >>> gpus_for(JobRequest("a red bear"), None, 0.0), gpus_for(JobRequest("a red bear", device="cpu"), None, 4.0)
    (0.0, 0.0)
    """
    if chosen is not None:
        wanted = chosen
    elif request.device == "cpu" or (request.device == "auto" and not largest):
        wanted = 0.0
    else:
        wanted = 1.0 if world_of(request.prior) is None else SMALL_JOB
    if wanted > largest:
        raise RequestError(
            f"The job needs {wanted:g} GPU(s), but no node of the cluster has more than {largest:g}.",
            "Ask for fewer (--gpus), or choose the CPU as the device of the job.",
        )
    return wanted
