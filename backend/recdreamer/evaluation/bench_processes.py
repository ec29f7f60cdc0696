"""Views a second of one process and of several, in turns in one run, and whether both do the same.

With random weights of Stable Diffusion 2.1's size, so that anyone with GPUs can repeat it. All processes run this; that
of rank 0 measures, alone in some of the turns.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recdreamer.cameras import orbit
from recdreamer.config import GenerateConfig
from recdreamer.device import choose_dtype
from recdreamer.evaluation.bench_step import Subject, prepare
from recdreamer.models.radiance import Particles
from recdreamer.parallel import team
from recdreamer.recorded_step import RecordedSteps
from recdreamer.shared.protocol import Method

ROUNDS = 3
WARM_UP_STEPS = 4
PICTURE_PX = 128


def bench_processes(
    methods: Sequence[Method], views: Sequence[int], prior_name: str, num_steps: int, field_steps: int,
    device: torch.device, settings: dict[str, Any], precision: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What each method costs for each number of views, alone and together; the same settings in each process.

    `field_steps` steps are run twice alone and once together, and the fields compared; 0 leaves that out. With
    `precision` the gradients are compared with those in float32, too. Returns an empty dict except in rank 0.
    """
    facts: dict[str, Any] = {
        "processes": team.count(),
        "device": _name_of(device),
        "prior": prior_name,
        "cases": [],
    }
    for method in methods:
        exact: dict[int, dict[str, Tensor]] | None = None
        if precision and not team.rank():
            with team.alone():
                subject = prepare(method, "shape", prior_name, device, torch.float32, settings)
                exact = {count: _Case(subject, count, device).gradients() for count in views}
            del subject
            _free(device)
        subject = prepare(method, "shape", prior_name, device, choose_dtype(prior_name, device), settings)
        for count in views:
            case = _Case(subject, count, device)
            found = {"method": method, "views": count} | case.speed(num_steps)
            found["gradients"] = case.agreement(exact[count] if exact else None)
            if field_steps and count == views[0]:
                found["field"] = case.fields(field_steps)
            facts["cases"].append(found)
            if not team.rank():
                print(json.dumps(found), flush=True)
            del case
            _free(device)
        del subject
        _free(device)
    return {} if team.rank() else facts


@dataclass
class _Case:
    """A method with a number of views a step."""

    subject: Subject
    num_views: int
    device: torch.device

    def __post_init__(self) -> None:
        optimize = replace(self.subject.config.optimize, num_views=self.num_views)
        self.config: GenerateConfig = replace(self.subject.config, optimize=optimize)
        parts = (self.subject.lora, *self.subject.guide.rectifiers)
        self.parts = [part for part in parts if part is not None]
        self.start = [{name: t.clone() for name, t in part.tensors().items()} for part in self.parts]

    def fresh(self) -> Particles:
        """The model at its start, and the branch and the rectifiers at theirs."""
        for part, start in zip(self.parts, self.start, strict=True):
            part.load(start)
        lora = self.subject.lora
        for state in lora.optimizer.state.values() if lora is not None else ():
            for moment in state.values():
                moment.zero_()
        return Particles(self.config, self.device)

    def steps(self) -> RecordedSteps:
        subject = self.subject
        return RecordedSteps(self.config.step("shape"), subject.prior, subject.guide, subject.lora, print)

    def speed(self, num_steps: int) -> dict[str, Any]:
        """Seconds of a step, views a second and peak memory, of one process and of all, in turns."""
        seconds: dict[str, list[float]] = {"alone": [], "together": []}
        gib = {}
        with team.alone():
            alone, one = (self.steps(), self.fresh()) if not team.rank() else (None, None)
            _reset_peak(self.device)
            if alone and one:
                _run(alone, one, range(WARM_UP_STEPS), self.device)
            gib["alone"] = [_peak_gib(self.device)]
        team.message("go")
        _reset_peak(self.device)
        together, many = self.steps(), self.fresh()
        _run(together, many, range(WARM_UP_STEPS), self.device)
        gib["together"] = self._of_each(_peak_gib(self.device))
        per_round = range(WARM_UP_STEPS, WARM_UP_STEPS + -(-num_steps // ROUNDS))
        for _ in range(ROUNDS):
            with team.alone():
                if alone and one:
                    seconds["alone"].append(_run(alone, one, per_round, self.device))
            team.message("go")
            seconds["together"].append(_run(together, many, per_round, self.device))
        best = {kind: min(values, default=float("nan")) for kind, values in seconds.items()}
        return {
            "seconds": seconds,
            "views_per_s": {kind: self.num_views / value for kind, value in best.items()},
            "ratio": best["alone"] / best["together"],
            "peak_gib": gib,
        }

    def gradients(self) -> dict[str, Tensor]:
        """Of the field and of the branch in the first step as written, and the marginal after it."""
        model, steps = self.fresh(), self.steps()
        steps.recorder = None
        steps.run(0, model.at(0))
        found = {"field": _flat([p.grad for p in model.scenes[0].field.parameters()])}
        if self.subject.lora is not None:
            found["branch"] = _flat([p.grad for p in self.subject.lora.branch.learning()])
        for rectifier in self.subject.guide.rectifiers:
            found[rectifier.key] = rectifier.marginal.probs.double().flatten().clone()
        return found

    def agreement(self, exact: dict[str, Tensor] | None) -> dict[str, Any]:
        """Cosine and relative difference of the gradients together to those alone; of two alone, and to float32."""
        first = second = None
        if not team.rank():
            with team.alone():
                first, second = self.gradients(), self.gradients()
        team.message("go")
        together = self.gradients()
        if first is None or second is None:
            return {}
        pairs = {"together, alone": (together, first), "alone, alone": (second, first)}
        if exact is not None:
            pairs |= {"alone, float32": (first, exact), "together, float32": (together, exact)}
        return {
            pair: {name: _compared(one[name], other[name]) for name in one}
            for pair, (one, other) in pairs.items()
        }

    def fields(self, num_steps: int) -> dict[str, Any]:
        """How far fields are apart after some steps: together and alone, and alone twice, as atomics add in any order."""
        first = second = None
        if not team.rank():
            with team.alone():
                first, second = (self._field_after(num_steps) for _ in range(2))
        team.message("go")
        together = self._field_after(num_steps)
        if first is None or second is None:
            return {}
        pairs = {"together, alone": (together, first), "alone, alone": (second, first)}
        return {"steps": num_steps} | {
            pair: {name: _compared(one[name], other[name]) for name in one}
            for pair, (one, other) in pairs.items()
        }

    def _field_after(self, num_steps: int) -> dict[str, Tensor]:
        model, steps = self.fresh(), self.steps()
        before = _flat(list(model.scenes[0].field.parameters()))
        _run(steps, model, range(num_steps), self.device)
        cameras = orbit(4, self.config.cameras, self.device)
        return {
            "movement": _flat(list(model.scenes[0].field.parameters())) - before,
            "pictures": model.scenes[0].picture(cameras, PICTURE_PX).double().flatten(),
        }

    def _of_each(self, value: float) -> list[float]:
        """The number of each process."""
        values = torch.zeros(team.count(), device=self.device)
        values[team.rank()] = value
        return team.added(values, team.share_of_views(self.num_views)).tolist()


def as_table(found: dict[str, Any]) -> str:
    """The measurement as a Markdown table."""
    lines = [
        "| method | views | views/s, 1 process | views/s, "
        f"{found['processes']} processes | ratio | peak GiB, 1 | peak GiB, each |",
        "|---" * 7 + "|",
    ]
    for case in found["cases"]:
        speed, gib = case["views_per_s"], case["peak_gib"]
        each = ", ".join(f"{value:.1f}" for value in gib["together"])
        lines.append(
            f"| {case['method']} | {case['views']} | {speed['alone']:.2f} | {speed['together']:.2f} | "
            f"{case['ratio']:.2f} | {gib['alone'][0]:.1f} | {each} |"
        )
    lines += ["", "| compared | of | cosine | relative difference |", "|---" * 4 + "|"]
    for case in found["cases"]:
        for part in ("gradients", "field"):
            for pair, of in case.get(part, {}).items():
                if isinstance(of, dict):
                    lines += [
                        f"| {case['method']}, {case['views']} views: {pair} | {name} | {value['cosine']:.6f} | "
                        f"{value['difference']:.1e} |"
                        for name, value in of.items()
                    ]
    return "\n".join(lines)


def _run(steps: RecordedSteps, model: Particles, numbers: range, device: torch.device) -> float:
    """Seconds of a step."""
    _wait(device)
    started = time.perf_counter()
    for number in numbers:
        steps.run(number, model.at(number), model.cameras(number))
    _wait(device)
    return (time.perf_counter() - started) / len(numbers)


def _compared(one: Tensor, other: Tensor) -> dict[str, float]:
    difference = ((one - other).norm() / other.norm().clamp_min(1e-30)).item()
    return {
        "cosine": torch.nn.functional.cosine_similarity(one, other, dim=0).item(),
        "difference": difference,
    }


def _flat(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors if t is not None])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _reset_peak(device: torch.device) -> None:
    _free(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
