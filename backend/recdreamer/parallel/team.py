"""One job over several processes: the views of a step are divided among them, and what follows from them is added up.

Processes talk by torch.distributed: over gloo on CPUs, and over NCCL on GPUs, one for each. All hold the same state and
follow the same steps; the one of rank 0 also reads and writes the job. Alone, every function here changes nothing.

A process joins by the environment variables that torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK (its GPU on its computer),
MASTER_ADDR and MASTER_PORT, where rank 0 can be reached. So whoever has processes of his own starts the same command in
each of them, and need not know of anything here: `torchrun --nproc-per-node 2 -m recdreamer run JOB`. All must be able to
read the job's folder.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recdreamer.parallel.view_shares import Share
from recdreamer.report import JobError

STEP_LIMIT = timedelta(minutes=10)
"""How long one process waits for the others in a step."""
WAIT_LIMIT = timedelta(days=7)
"""How long the others wait for rank 0 between steps, while it extracts meshes, for example."""
HERE = "127.0.0.1"


@dataclass
class Team:
    """The processes of this job, as one of them sees it."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    talk: dist.ProcessGroup | None = None
    """For what the host has to know."""
    reason: Callable[[], str] = lambda: ""
    """Why a process was lost, as far as it is known."""
    is_broken: threading.Event = field(default_factory=threading.Event)


_team = Team()
_has_lost = False


def rank() -> int:
    return _team.rank


def count() -> int:
    return _team.count


def share_of_views(num_views: int) -> Share:
    """This process's share of a step's views."""
    return Share.of(num_views, _team.rank, _team.count)


def own_port() -> dist.TCPStore:
    """Where the others will find this process, rank 0; its `port` is a free one, of this computer alone.

    Left to itself, a store listens to the whole network, and asks nobody for a password.
    """
    if sys.platform == "win32":  # Where a store takes no socket.
        return dist.TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
    with socket.create_server((HERE, 0)) as server:
        port = server.getsockname()[1]
        return dist.TCPStore(
            HERE, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach()
        )


def join(
    device: torch.device,
    number: int,
    count: int,
    store: dist.TCPStore | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> None:
    """Become one of `count` processes and wait for the others. Raises JobError if they do not come.

    `store` is that of rank 0; others look for it by the environment. `waiting` is called meanwhile, and may raise.
    """
    global _team
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    try:
        if store is None:
            of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(
                address, port, is_master=number == 0 and not of_launcher, wait_for_workers=False
            )
        # NCCL's watchdog would end the whole process, before it could say why; see `give_up`.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        store.set(f"here-{number}", "")
        while number == 0 and not store.check([f"here-{other}" for other in range(count)]):
            waiting()
            time.sleep(0.05)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=dist.PrefixStore("recdreamer", store), rank=number,
            world_size=count, timeout=STEP_LIMIT, device_id=device if device.type == "cuda" else None,
        )  # fmt: skip
        talk = dist.new_group(backend="gloo", timeout=WAIT_LIMIT)
    except (RuntimeError, KeyError, ValueError) as error:
        raise JobError(
            "processes",
            f"The {count} processes that share the views do not find each other ({str(error).splitlines()[0][:200]}).",
            "Set processes to 1, or see log.txt in the job folder.",
        ) from error
    _team = Team(number, count, device, talk if isinstance(talk, dist.ProcessGroup) else None)


def has_lost() -> bool:
    """Whether a process was lost at any time: then NCCL may end this one at its exit with a signal, or never."""
    return _has_lost or _team.is_broken.is_set()


def on_loss(reason: Callable[[], str]) -> None:
    """`reason()` says why a process was lost, in words; asked once one is."""
    _team.reason = reason


def leave() -> None:
    """Go on alone."""
    global _team, _has_lost
    left, _team = _team, Team()
    _has_lost = _has_lost or left.is_broken.is_set()
    if left.count > 1 and not left.is_broken.is_set():
        with suppress(RuntimeError):
            dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process has all views to itself, as in a job of one."""
    global _team
    kept, _team = _team, Team()
    try:
        yield
    finally:
        _team = kept


def give_up() -> None:
    """A process is gone, so nobody will answer: ends what waits for it. From any thread."""
    if _team.count > 1 and not _team.is_broken.is_set():
        _team.is_broken.set()
        if _team.device.type == "cuda":
            # A kernel of NCCL waits for ever, and the host with it.
            with suppress(Exception):
                group: Any = dist.distributed_c10d._get_default_group()
                group._get_backend(torch.device("cuda")).abort()


def check() -> None:
    """Raise JobError if a process was lost; what was computed since may be wrong."""
    if _team.is_broken.is_set():
        raise lost(_team.reason())


def lost(reason: str) -> JobError:
    return JobError(
        "processes",
        f"One of the {_team.count} processes that share the views of a step has ended{f' ({reason})' if reason else ''}.",
        "Resume to continue from the newest checkpoint; with processes=1 the job needs no other process.",
    )


@contextmanager
def _together() -> Iterator[None]:
    check()
    try:
        yield
    except (RuntimeError, ValueError) as error:
        give_up()
        print(error, file=sys.stderr)
        raise lost(_team.reason() or "its connection closed") from error


def added(values: Tensor, share: Share) -> Tensor:
    """The sum over the processes that have views, in the place of `values`.

    >>> added(torch.ones(2), Share(0, 4, 4)).tolist()
    [1.0, 1.0]
    """
    if share.is_split:
        with _together():
            dist.all_reduce(values)
    return values


def largest(values: Tensor, share: Share) -> Tensor:
    """The largest value over the processes that have views, in the place of `values`."""
    if share.is_split:
        with _together():
            dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def added_grads(parameters: Iterable[Tensor], share: Share) -> bool:
    """Let each parameter have the sum of its gradients over the processes. Whether there was any gradient at all.

    What has none in any process keeps none. Where the host cannot know that without waiting for a GPU, it is zero.
    """
    parameters = list(parameters)
    if not share.is_split:
        return True
    sizes = [parameter.numel() for parameter in parameters]
    joint = parameters[0].new_zeros(sum(sizes) + len(sizes))
    *parts, has_grad = joint.split([*sizes, len(sizes)])
    for index, (parameter, part) in enumerate(zip(parameters, parts, strict=True)):
        if parameter.grad is not None:
            part.copy_(parameter.grad.flatten())
            has_grad[index] = 1
    added(joint, share)
    there = [True] * len(sizes) if joint.is_cuda else (has_grad > 0).tolist()
    for parameter, part, is_there in zip(parameters, parts, there, strict=True):
        parameter.grad = part.view_as(parameter) if is_there else None
    return any(there)


def rows_of_all(rows: Tensor, share: Share) -> Tensor:
    """The rows of all views, in order, from those of each process's views.

    >>> rows_of_all(torch.eye(2), Share(0, 2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if not share.is_split:
        return rows
    every = rows.new_zeros(share.total, *rows.shape[1:])
    every[share.first : share.end] = rows
    return added(every, share)


def part_of_mean(total: Tensor, number: Tensor | int, share: Share) -> Tensor:
    """The mean of values of which this process has `number`, adding up to `total`, as its part of it.

    Parts are weighted by the share of the views before they are added up; unlike pixels, samples are not divided so.

    >>> part_of_mean(torch.tensor(6.0), 3, Share(0, 1, 1)).item()
    2.0
    """
    if not share.is_split:
        return total / (number.clamp(min=1) if isinstance(number, Tensor) else max(number, 1))
    everywhere = added(torch.as_tensor(number, device=total.device).to(total.dtype).clone(), share)
    return total / everywhere.clamp(min=1) / share.weight


def message(text: str = "") -> str:
    """What rank 0 says; the others wait for it."""
    if _team.count == 1:
        return text
    with _together():
        data = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0, group=_team.talk)
        data = data if _team.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, 0, group=_team.talk)
    return bytes(data.tolist()).decode().strip()


def same_tensors(tensors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The named tensors of rank 0, on the CPU; the others need not give any."""
    if _team.count == 1:
        return tensors or {}
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()}
    kinds = {
        name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in own.items()
    }
    kinds: dict[str, Any] = json.loads(message(json.dumps(kinds)))
    if _team.rank:
        own = {
            name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, (shape, dtype) in kinds.items()
        }
    with _together():
        for tensor in own.values():
            if tensor.numel():
                # As bytes, because not every type of number can be sent.
                dist.broadcast(tensor.view(-1).view(torch.uint8), 0, group=_team.talk)
    return own
