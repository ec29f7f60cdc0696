"""A stand-in for `python -m recdreamer run <job folder>`: same streams, same files, no torch.

`overrides["fake"]` of the request chooses what it does; by default it makes a textured box in `steps` steps.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np

# Workers run with PYTHONSAFEPATH, so the folder of this script is not in the import path.
sys.path.insert(0, str(Path(__file__).parent))
import fake_models
import fake_templates

from recdreamer.shared.device_lock import turn
from recdreamer.shared.folder_lock import FolderLock, take_stop_request
from recdreamer.shared.start_check import painted_uvs

ASKED = {"command": ""}


def send(kind: str, /, **values: object) -> None:
    print(json.dumps({"type": kind, **values}), flush=True)


def listen(stays: bool) -> None:
    for line in sys.stdin:
        word = line.strip()
        if word in ("stay", "leave"):
            stays = word == "stay"
        else:
            ASKED["command"] = word
    if not stays:
        ASKED["command"] = ASKED["command"] or "pause"


def write_state(folder: Path, **values: object) -> None:
    path = folder / "state.json"
    state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    state.update(values, pid=os.getpid(), updated_s=time.time())
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(state), encoding="utf-8")
    temporary.replace(path)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """`height width 3` bytes, top row first."""
    height, width = pixels.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def box(height_m: float) -> dict[str, np.ndarray]:
    """A box on its base, half as deep as wide; the front (-Y) has the lower left quarter of the texture."""
    verts = np.array([(x, y, z) for z in (0, 1) for y in (-0.25, 0.25) for x in (-0.5, 0.5)], np.float32)
    quads = [(0, 1, 5, 4), (1, 3, 7, 5), (3, 2, 6, 7), (2, 0, 4, 6), (4, 5, 7, 6), (2, 3, 1, 0)]
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32) * 0.5
    faces, uvs = [], []
    for index, quad in enumerate(quads):
        shift = np.float32((0, 0) if index == 0 else (0.5, 0.5))
        for triangle in ((0, 1, 2), (0, 2, 3)):
            faces.append([quad[corner] for corner in triangle])
            uvs.append(corners[list(triangle)] + shift)
    return {"verts": verts * height_m, "faces": np.array(faces, np.int32), "uvs": np.array(uvs, np.float32)}


def write_results(folder: Path, request: dict) -> None:
    (folder / "result").mkdir(exist_ok=True)
    report = {name: request["overrides"].get(name, {}) for name in ("seconds", "gpu_memory")}
    (folder / "result/report.json").write_text(json.dumps(report))
    mesh = painted(folder, request) if request["start"] == "texture" else box(request["height_m"])
    for index in range(request["overrides"].get("optimize.num_particles", 1)):
        write_result(folder / "result" / f"particle-{index}" if index else folder / "result", mesh, request)


def painted(folder: Path, request: dict) -> dict[str, np.ndarray]:
    """The start mesh of the job. If it has no UVs, they come from vertex positions, or with `seams` per triangle."""
    with np.load(folder / request["start_mesh"], allow_pickle=False) as arrays:
        mesh = {name: arrays[name] for name in arrays.files}
    if "uvs" not in mesh:
        low, high = mesh["verts"].min(0), mesh["verts"].max(0)
        mesh["uvs"] = ((mesh["verts"] - low) / (high - low).clip(1e-6))[mesh["faces"]][..., [0, 2]]
        if request["overrides"].get("seams"):
            mesh["uvs"] = mesh["uvs"] / 2 + np.arange(len(mesh["faces"]))[:, None, None] % 2 / 2
    else:
        mesh["uvs"] = painted_uvs(mesh)
    return {name: mesh[name] for name in ("verts", "faces", "uvs")}


def write_result(result: Path, mesh: dict[str, np.ndarray], request: dict) -> None:
    result.mkdir(parents=True, exist_ok=True)
    np.savez(result / "mesh.npz", **mesh)
    tiles = np.unique(1001 + np.floor(mesh["uvs"].mean(1)) @ (1, 10)).astype(int)
    names = [f".{tile}" for tile in tiles] if tiles.max() > 1001 else [""]
    texture = np.full((64, 64, 3), (60, 90, 200), np.uint8)
    texture[32:, :32] = (220, 40, 30)  # The lower left quarter, because rows count from the top.
    for number, name in enumerate(names):
        write_png(result / f"albedo{name}.png", np.roll(texture, number, axis=2))
        if request["overrides"].get("normal"):
            write_png(result / f"normal{name}.png", np.full((64, 64, 3), (128, 128, 255), np.uint8))


def begin_again(folder: Path, stage: str, seed: str) -> None:
    (folder / "seeds.json").write_text(json.dumps({stage: int(seed)}))
    write_state(folder, status="queued", stage="")


def write_preview(folder: Path, step: int) -> str:
    (folder / "previews").mkdir(exist_ok=True)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    inside = np.hypot(x, y) < 0.35 + 0.04 * (step % 10)
    pixels = np.where(inside[..., None], (220, 60, 40), (128, 128, 128)).astype(np.uint8)
    name = f"previews/{step:06d}.png"
    write_png(folder / name, pixels)
    return name


def write_coarse(folder: Path, step: int) -> None:
    """A box in scene units that grows with the steps, replaced at once."""
    mesh = box(1.0 + 0.01 * step)
    rgb = np.full((8, 3), (200, 40, 30), np.uint8)
    with (folder / "previews/.coarse.npz").open("wb") as file:
        np.savez(file, verts=mesh["verts"] - np.float32(0.5), faces=mesh["faces"], rgb=rgb)
    (folder / "previews/.coarse.npz").replace(folder / "previews/coarse.npz")


def main() -> int:
    if "templates" in sys.argv:
        with turn("auto", lambda: time.sleep(0.05)):
            return fake_templates.main(sys.argv[sys.argv.index("templates") + 1 :], write_png)
    if "evaluate" in sys.argv:
        return fake_templates.inspect(sys.argv[sys.argv.index("evaluate") + 1 :])
    if "models" in sys.argv:
        return fake_models.main(sys.argv[sys.argv.index("models") + 1 :])
    folder = Path(sys.argv[sys.argv.index("run") + 1])
    request = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    overrides = request["overrides"]
    mode = overrides.get("fake", "work")
    steps = overrides.get("optimize.num_steps", overrides.get("steps", 5))
    if "--again" in sys.argv:
        mode = overrides.get("again", mode)
        steps = 3000 if mode == "long" else steps
        if mode not in ("refuse", "busy"):
            begin_again(folder, *sys.argv[sys.argv.index("--again") :][1::2])
    threading.Thread(target=listen, args=(request["keep_running"],), daemon=True).start()
    lock = FolderLock(folder)
    if mode == "refuse":
        print("ModuleNotFoundError: No module named 'torch'", file=sys.stderr)
        return 1
    if mode == "mute":
        time.sleep(600)
    send("hello", protocol=99 if mode == "other protocol" else request["protocol"], version="0", device="cpu")
    if mode == "other protocol":
        time.sleep(600)
    if mode == "busy":
        send("error", kind="busy", message="Another worker is on this job already.", hint="Wait for it.")
        return 1
    write_state(folder, status="running")
    print("a line that is no event", flush=True)
    send("from the future", anything=[1, 2])
    if mode == "die":
        print("Segmentation fault", file=sys.stderr, flush=True)
        os._exit(7)
    if mode == "fail":
        kind = overrides.get("kind", "out_of_memory")
        text = {
            "message": "There is not enough memory for this job.",
            "hint": "Close other programs, or use the quick quality or fewer views per step.",
            "kind": kind,
        }
        write_state(folder, status="failed", **text)
        send("error", **text)
        return 1
    with turn(request["device"], lambda: wait_for_device(folder)):
        return work(folder, request, mode, steps, lock)


def wait_for_device(folder: Path) -> None:
    write_state(folder, stage="waiting")
    send("stage", name="waiting", index=0, count=1)
    time.sleep(0.05)


def work(folder: Path, request: dict, mode: str, steps: int, lock: FolderLock) -> int:
    overrides = request["overrides"]
    send("stage", name="shape", index=0, count=2)
    for number in range(overrides.get("chatter", 0)):
        now = {"step": 0, "total": steps, "it_per_s": 4.0, "eta_s": float(number)}
        print(json.dumps({"type": "progress", **now}))
    for step in range(1, steps + 1):
        command = take_stop_request(folder)
        if mode != "stubborn":
            command = command or ASKED["command"]
        if command:
            status = "cancelled" if command == "cancel" else "paused"
            write_state(folder, status=status)
            send(status)
            return 0
        time.sleep(overrides.get("step_s", 0.01))
        probs = {"front": 0.4, "right": 0.2, "back": 0.22, "left": 0.18}
        now = {"step": step, "total": steps, "it_per_s": 4.0, "eta_s": (steps - step) / 4.0}
        preview = write_preview(folder, step)
        if overrides.get("coarse"):
            write_coarse(folder, step)
        write_state(folder, stage="shape", preview=preview, pose_distribution=probs, **now)
        send("progress", **now)
        send("preview", path=preview)
        send("pose_distribution", probs=probs)
    write_results(folder, request)
    write_state(folder, status="done", eta_s=None)
    lock.release()
    send("result", path="result")
    return 0


if __name__ == "__main__":
    sys.exit(main())
