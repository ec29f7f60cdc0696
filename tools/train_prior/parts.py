"""Training in parts: each stops in time or on SIGTERM, and the next one goes on where it stopped.

A part leaves two files: a checkpoint with everything, for another part on the same machine, and a packed one, the moving
average of the weights in half precision, small enough to travel. From a packed one alone the optimizer starts anew.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class PartsConfig:
    minutes: float
    """Time of all parts together."""
    learning_rate: float
    warmup_steps: int = 300
    weight_decay: float = 1e-4
    ema_decay: float = 0.9995
    cooldown: float = 0.3
    """Share of the time, at its end, in which the rate falls to zero."""
    checkpoint_every_s: float = 60.0
    report_every_s: float = 15.0
    max_steps: int | None = None
    """Ends the training before its time; for tests."""

    def rate(self, progress: float) -> float:
        """
        >>> [PartsConfig(10, 1.0).rate(progress) for progress in (0.0, 0.7, 0.85, 1.0)]
        [1.0, 1.0, 0.5, 0.0]
        """
        return self.learning_rate * min(1.0, round((1 - progress) / self.cooldown, 6))


class Stop:
    """When a part has to end: after its minutes, or as soon as the process is asked to terminate."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._is_asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self._is_asked = True

    def __bool__(self) -> bool:
        return self._is_asked or (self._end is not None and time.monotonic() >= self._end)


def log(folder: Path, **values: object) -> None:
    """Append one JSON line to the folder's log, and print it."""
    line = json.dumps({"time": time.strftime("%H:%M:%S"), **values})
    with (folder / "log.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    print(line, flush=True)


def packed_path(folder: Path, name: str) -> Path:
    return folder / "packed" / f"{name}.safetensors"


def pack(
    folder: Path, name: str, weights: dict[str, Tensor], step: int, seconds: float, is_done: bool
) -> None:
    """Write weights in half precision, with the state of the training beside them."""
    path = packed_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"step": str(step), "seconds": f"{seconds:.1f}", "is_done": str(int(is_done))}
    temporary = path.with_suffix(".tmp")
    save_file(
        {key: value.detach().half().cpu().contiguous() for key, value in weights.items()}, temporary, state
    )
    temporary.replace(path)


def unpack(
    folder: Path, name: str, device: torch.device | str
) -> tuple[dict[str, Tensor], int, float, bool] | None:
    """Weights in single precision, steps, seconds, and whether the training is done; None if there is no such file."""
    path = packed_path(folder, name)
    if not path.exists():
        return None
    with safe_open(path, "pt", device=str(device)) as file:
        state = file.metadata()
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    return weights, int(state["step"]), float(state["seconds"]), state["is_done"] == "1"


class Recorded:
    """A step's loss and gradients. On a GPU it is recorded as a CUDA graph: the models are small, so that without
    one a step mostly waits for the host."""

    def __init__(
        self, model: nn.Module, draw: Callable[[torch.Generator], tuple[Tensor, ...]],
        loss_of: Callable[..., Tensor], is_recorded: bool = True,
    ) -> None:  # fmt: skip
        """`loss_of(*draw(generator))` is the loss; of the two only `draw` has randomness."""
        self.model, self.draw, self.loss_of = model, draw, loss_of
        self.is_recorded = is_recorded and next(model.parameters()).device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, generator: torch.Generator) -> Tensor:
        inputs = self.draw(generator)
        if not self.is_recorded:
            return self._eager(inputs)
        if self._graph is None:
            try:
                self._record(inputs)
            except RuntimeError as error:
                print(f"A step cannot be recorded: {error}", flush=True)
                self.is_recorded = False
                return self._eager(inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        assert self._graph is not None
        self._graph.replay()
        return self._loss

    def _eager(self, inputs: tuple[Tensor, ...]) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        loss = self.loss_of(*inputs)
        loss.backward()
        return loss.detach()

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(tensor.clone() for tensor in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._eager(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self.loss_of(*self._inputs)
            loss.backward()
            self._loss = loss.detach()
        self._graph = graph


def fit_in_parts(
    name: str, model: nn.Module, gradient: Callable[[torch.Generator], Tensor], config: PartsConfig,
    folder: Path, seed: int, stop: Stop,
) -> bool:  # fmt: skip
    """Train `model` until `stop` or the end; leave the moving average of its weights in it. Whether the end was reached.

    `gradient` leaves a step's gradients in the model and returns its loss, as `Recorded` does.

    Each step draws from its own seed, so that parts do not repeat the same numbers.
    """
    device = next(model.parameters()).device
    named = dict(model.named_parameters())
    parameters = list(named.values())
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )  # fmt: skip
    path = folder / f"{name}.pt"
    step, before_s, is_warm = 0, 0.0, False
    packed = unpack(folder, name, device)
    if path.exists():
        saved = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average = [tensor.to(device) for tensor in saved["average"]]
        step, before_s, is_warm = saved["step"], saved["seconds"], True
    else:
        if packed is not None:
            weights, step, before_s, _ = packed
            with torch.no_grad():
                for key, parameter in named.items():
                    parameter.copy_(weights[key])
        average = [parameter.detach().clone() for parameter in parameters]
    first_step, started = step, time.monotonic()
    generator = torch.Generator(device=device)
    last_save = last_report = started
    running: Tensor | None = None

    def spent_s() -> float:
        return before_s + time.monotonic() - started

    def progress() -> float:
        share = spent_s() / (60 * config.minutes)
        return min(1.0, share if config.max_steps is None else max(share, step / config.max_steps))

    def save() -> None:
        is_done = progress() >= 1
        temporary = path.with_suffix(".tmp")
        torch.save(
            {"step": step, "seconds": spent_s(), "model": model.state_dict(),
             "optimizer": optimizer.state_dict(), "average": average}, temporary,
        )  # fmt: skip
        temporary.replace(path)
        pack(folder, name, dict(zip(named, average, strict=True)), step, spent_s(), is_done)

    size = sum(parameter.numel() for parameter in parameters)
    log(
        folder,
        part=name,
        event="start",
        step=step,
        seconds=round(before_s),
        parameters=size,
        device=str(device),
    )
    model.train()
    while progress() < 1 and not stop:
        generator.manual_seed(seed * 1_000_003 + step)
        warmth = 1.0 if is_warm else min(1.0, (step - first_step + 1) / config.warmup_steps)
        rate = config.rate(progress()) * warmth
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = gradient(generator)
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        # An average over fewer steps than its memory would retain the random start.
        decay = min(config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - decay)
        running = loss.clone() if running is None else running.lerp_(loss, 0.01)
        step += 1
        now = time.monotonic()
        if now - last_report > config.report_every_s:
            value = running.item()
            if value != value:
                raise FloatingPointError(f"The loss of {name} is no number any more at step {step}.")
            log(folder, part=name, step=step, seconds=round(spent_s()), loss=round(value, 5), rate=round(rate, 7),
                per_s=round((step - first_step) / (now - started), 2))  # fmt: skip
            last_report = now
        if now - last_save > config.checkpoint_every_s:
            save()
            last_save = now
    is_done = progress() >= 1
    save()
    log(folder, part=name, event="done" if is_done else "stop", step=step, seconds=round(spent_s()),
        loss=None if running is None else round(running.item(), 5))  # fmt: skip
    with torch.no_grad():
        for parameter, smooth in zip(parameters, average, strict=True):
            parameter.copy_(smooth)
    model.eval()
    return is_done
