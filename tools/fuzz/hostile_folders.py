"""Whole workers on job folders that a stranger filled: each must end by itself, with one error event or its result."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import mutators

BACKEND = Path(__file__).resolve().parents[2] / "backend"
LIMIT_S = 300
QUICK = {
    "optimize.num_steps": 2, "optimize.num_views": 1, "optimize.render_px": 16, "geometry.num_steps": 1,
    "geometry.render_px": 16, "geometry.resolution": 12, "texture.num_steps": 1, "texture.render_px": 16,
    "texture.cached_views": 1, "mesh.resolution": 12, "mesh.texture_size_px": 32, "occupancy.resolution": 8,
}  # fmt: skip
FILES = {
    "state.json": b'{"status": "running", "pid": -1, "updated_s": 4100000000}',
    "seeds.json": b'{"shape": 4}',
    "checkpoints/earlier/again.json": b'{"stage": "texture", "seed": 4}',
    "checkpoints/shape-00000001/meta.json": b'{"meta": {"seconds": 1}, "bytes": 3, "crc32": 0}',
    "checkpoints/shape-00000001/tensors.safetensors": b"abc",
    "config.json": b"{}",
    "stop": b"cancel",
    "events.jsonl": b'{"type": "hel',
    "json.py": b"raise SystemExit('code of the folder was run')",
    "torch.py": b"raise SystemExit('code of the folder was run')",
}
LINKS = ("events.jsonl", "log.txt", "worker.lock", "templates", "previews", "checkpoints", "checkpoints/earlier",
         "result", "state.json", "config.json")  # fmt: skip


def fill(folder: Path, seed: int) -> None:
    """A job folder with a request that runs in seconds, and some hostile or damaged things."""
    rng = random.Random(seed)
    request = json.dumps(
        {"prompt": "a red bear", "method": "sds", "device": "cpu", "overrides": QUICK}
    ).encode()
    (folder / "job.json").write_bytes(mutators.json_changed(request, rng) if rng.random() < 0.4 else request)
    for name in rng.sample(sorted(FILES), rng.randrange(4)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.choice((mutators.json_changed, mutators.bytes_changed))(FILES[name], rng))
    if rng.random() < 0.4:
        path = folder / rng.choice(LINKS)
        if not path.exists() and path.parent.is_dir():
            if rng.random() < 0.3:
                os.mkfifo(path)
            else:
                path.symlink_to(rng.choice(("/dev/zero", "../victim", "..")))


def run_all(count: int, wrong_with: Callable[[str], str]) -> tuple[int, int, list[str]]:
    """Number of jobs that were done, that were refused in one sentence, and the escapes."""
    done, told, escapes = 0, 0, []
    environment = os.environ | {"PYTHONPATH": str(BACKEND), "OMP_NUM_THREADS": "1"}
    for seed in range(count):
        with tempfile.TemporaryDirectory(prefix="recdreamer-hostile-") as name:
            root = Path(name)
            (root / "victim").write_text("precious")
            (root / "job").mkdir()
            fill(root / "job", seed)
            try:
                worker = subprocess.run(
                    [sys.executable, "-P", "-m", "recdreamer", "run", str(root / "job")], env=environment, cwd=root,
                    stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                escapes.append(f"seed {seed}: did not end within {LIMIT_S} s")
                continue
            problem = _problem(worker.stdout, root, wrong_with)
            escapes += [f"seed {seed}: {problem}"] * bool(problem)
            done, told = done + (worker.returncode == 0), told + (worker.returncode == 1 and not problem)
    return done, told, escapes


def _problem(output: bytes, root: Path, wrong_with: Callable[[str], str]) -> str:
    """What is wrong with the end of a worker; empty if nothing."""
    if {path.name for path in root.iterdir()} != {"victim", "job"} or (
        root / "victim"
    ).read_text() != "precious":
        return "wrote outside of the job"
    try:
        last = [json.loads(line) for line in output.splitlines()][-1]
    except (ValueError, IndexError):
        return "no events"
    if last["type"] != "error":
        return "" if last["type"] in ("result", "paused", "cancelled") else f"ended with {last['type']}"
    sentence = f"{last['message']} {last['hint']}"
    return sentence[:100] if sentence.startswith("Unexpected") else wrong_with(sentence)
