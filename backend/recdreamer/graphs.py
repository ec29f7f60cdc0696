"""Work that is recorded once and replayed: CUDA graphs, and the same interface without a GPU.

A step of guidance launches some ten thousand kernels, and for most of its time the GPU waits for the next one. A CUDA
graph replays all of them by one launch. What it replays is what was recorded, down to every number that Python had at
hand: whatever changes from step to step must be a tensor that is filled in before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

_is_recording = False


@contextmanager
def _recording():
    global _is_recording
    _is_recording = True
    try:
        yield
    finally:
        _is_recording = False


class Scalar:
    """A number on the device that the host sets before a step, as a learning rate.

    A recording reads it when it is replayed. So nothing is set while one is made: a replay would set it back.

    >>> rate = Scalar(0.1, "cpu")
    >>> rate.set(0.5)
    >>> rate.tensor.item()
    0.5
    """

    tensor: Float[Tensor, ""]

    def __init__(self, value: float, device: torch.device | str) -> None:
        self.tensor = torch.full((), value, device=device)

    def set(self, value: float) -> None:
        """Has no effect inside of a recording."""
        if not _is_recording:
            self.tensor.fill_(value)


@runtime_checkable
class Recording(Protocol):
    """A function that was recorded with the tensors in its reach, by identity."""

    @property
    def result(self) -> Tensor | None:
        """What the latest replay returned, always in the same memory."""
        ...

    def replay(self) -> None:
        """Run it again."""
        ...


@contextmanager
def _as_before(pool: tuple[int, int], generators: Sequence[torch.Generator]):
    """Undo what torch leaves behind of a graph that could not be recorded.

    It neither goes back to the stream, nor stops allocating from the graph's memory, and all generators believe for
    ever that they are being recorded, the default one included: every later draw would raise.
    """
    device, stream = torch.cuda.current_device(), torch.cuda.current_stream()
    before = [(one, one.clone_state()) for one in (*generators, torch.cuda.default_generators[device])]
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(stream)
        for generator, state in before:
            generator.graphsafe_set_state(state)
        # The first raises if torch itself had come as far.
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(device, pool)
            torch._C._cuda_releasePool(device, pool)
        raise


Recorder = Callable[..., Recording]
"""Records a function, with the generators that it draws from, and another recording to share memory with."""


class CudaGraph:
    """A function recorded as a CUDA graph."""

    def __init__(
        self, function: Callable[[], Tensor], generators: Sequence[torch.Generator] = (), like: CudaGraph | None = None
    ) -> None:  # fmt: skip
        """Record `function`, which must have run before, for it must neither allocate state nor load kernels now.

        Nothing is computed yet: `result` is valid after a replay. Draws from `generators` continue from their state at
        each replay. Recordings of which one is `like` another share memory; the result of one is gone once the other
        is replayed. Raises RuntimeError for what cannot be recorded, such as reading a number from the device; the
        generators are then as they were.
        """
        self.graph, self.pool = torch.cuda.CUDAGraph(), like.pool if like else torch.cuda.graph_pool_handle()
        for generator in generators:
            # Another object with the same state, as torch takes no subclass here.
            self.graph.register_generator_state(generator.graphsafe_get_state())
        # What the run before left in torch's cache would be held twice.
        torch.cuda.empty_cache()
        # Other threads may go on with whatever they do.
        capturing = torch.cuda.graph(self.graph, pool=self.pool, capture_error_mode="thread_local")
        with _as_before(self.pool, generators), _recording(), capturing:
            self.result = function()

    def replay(self) -> None:
        self.graph.replay()


class Rerun:
    """The same interface without a GPU: each replay calls the function again, with what Python had at hand before.

    It has the faults of a graph, numbers that are stuck and inputs that are not filled in, but not its speed.
    """

    def __init__(
        self, function: Callable[[], Tensor], generators: Sequence[torch.Generator] = (), like: Rerun | None = None
    ) -> None:  # fmt: skip
        self.function = function
        # A CUDA graph does not run while it is recorded, and leaves all state alone.
        self.result: Tensor | None = None

    def replay(self) -> None:
        with _recording():
            result = self.function()
        if self.result is None:
            self.result = result
        else:
            self.result.copy_(result)
