"""Job folders that a stranger, a bad disk or another program has made: every action on them ends with one sentence.

Nothing outside of them is read, written, signalled or waited for, the other jobs stay, and each can be deleted.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np
import pytest

from .test_pictures import flat, png

FAKE = runpy.run_path(str(Path(__file__).parents[1] / "addon/fake_worker.py"))
SECRET = b"nobody else's business"
DEEP = "[" * 100_000 + "]" * 100_000
MANY = "9" * 400
REQUEST = {
    "prompt": "a red bear", "method": "vsd", "start": "texture", "start_mesh": "start/mesh.npz",
    "templates": [{"label": label, "image": f"templates/{index}.png"} for index, label in enumerate(("front", "back"))],
}  # fmt: skip
PLACEMENT = {"object": "Cube", "object_id": "", "uv_map": "UVMap"}


def make_job(folder: Path) -> Path:
    """A finished job that painted a cube, with all the files that the add-on reads."""
    box = FAKE["box"](1.0)
    for name in ("templates", "start", "previews"):
        (folder / name).mkdir(parents=True)
    for index in range(2):
        (folder / f"templates/{index}.png").write_bytes(png(flat(16, 16, 90 * index, 40, 40)))
    (folder / "previews/1.png").write_bytes(png(flat(16, 16, 9, 9, 9)))
    np.savez(folder / "start/mesh.npz", **box)
    np.savez(folder / "start/faces.npz", is_painted=np.ones(6, bool))
    (folder / "start/placement.json").write_text(json.dumps(PLACEMENT))
    FAKE["write_result"](folder / "result", box, {"overrides": {"normal": True}})
    (folder / "result/report.json").write_text("{}")
    (folder / "job.json").write_text(json.dumps(REQUEST))
    (folder / "state.json").write_text(json.dumps(state()))
    return folder


def state(**values: object) -> dict[str, object]:
    return {"status": "done", "updated_s": time.time(), "preview": "previews/1.png"} | values


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda job: (
        (job / name).write_bytes(content.encode() if isinstance(content, str) else content) and None
    )


def request(**values: object) -> Callable[[Path], None]:
    return write("job.json", json.dumps(REQUEST | values))


def says(**values: object) -> Callable[[Path], None]:
    return write("state.json", json.dumps(state(**values)))


def templates(image: str) -> Callable[[Path], None]:
    return request(templates=[{"label": label, "image": image} for label in ("front", "back")])


def place(**values: object) -> Callable[[Path], None]:
    return write("start/placement.json", json.dumps(PLACEMENT | values))


def replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else where a file or folder was."""

    def damage(job: Path) -> None:
        path = job / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        make(path)

    return damage


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def secret(path: Path) -> None:
    path.symlink_to(path.parents[3 if path.parent.parent.name == "jobs" else 4] / "secret.png")


def arrays(name: str, **changes: np.ndarray) -> Callable[[Path], None]:
    def damage(job: Path) -> None:
        with np.load(job / name) as old:
            np.savez(job / name, **{**old, **changes})

    return damage


def bomb(job: Path) -> None:
    """Two gigabytes of zeros in two megabytes, of which the entry says so."""
    with zipfile.ZipFile(job / "result/mesh.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("verts", "faces", "uvs"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                shape = {"verts": "(200000000, 3)"}.get(name, "(4, 3)")
                header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
                stream.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
                for _ in range(64 if name == "verts" else 0):
                    stream.write(bytes(1 << 22))


def broken_zip(job: Path) -> None:
    path = job / "result/mesh.npz"
    with np.load(path) as old:
        np.savez_compressed(path, **old)
    data = bytearray(path.read_bytes())
    data[90:140] = b"\xff" * 50
    path.write_bytes(data)


def huge_png(width: int) -> bytes:
    data = bytearray(png(flat(16, 16, 9, 9, 9)))
    data[16:24] = width.to_bytes(4, "big") * 2
    return bytes(data)


def rename(name: bytes) -> Callable[[Path], None]:
    return lambda job: job.rename(job.with_name(os.fsdecode(name))) and None


def a_link(job: Path) -> None:
    job.rename(job.parents[1] / "elsewhere")
    job.symlink_to(job.parents[1] / "elsewhere")


UNC, DRIVE = "\\\\server\\share\\x.png", "C:\\Windows\\x.png"
FACES = FAKE["box"](1.0)["faces"]
DAMAGES = {
    "request: many digits": write("job.json", json.dumps(REQUEST)[:-1] + f', "seed": {MANY}}}'),
    "request: infinite": write("job.json", json.dumps(REQUEST)[:-1] + ', "height_m": 1e999}'),
    "request: deep": write("job.json", DEEP),
    "request: deep overrides": write("job.json", json.dumps(REQUEST)[:-1] + f', "overrides": {{"a": {DEEP}}}}}'),
    "request: not UTF-8": write("job.json", b'{"prompt": "\xe9"}'),
    "request: surrogate": request(prompt="a red \ud800 bear"),
    "request: zero": request(prompt="a red\0bear"),
    "request: lines": request(prompt="a red\nbear\n" * 1000),
    "request: invisible": request(prompt="\u200b\u202e"),
    "request: large": write("job.json", b" " * (9 << 20)),
    "request: negative seed": request(seed=-(10**30)),
    "request: pipe": replace("job.json", pipe),
    "request: device": replace("job.json", zeros),
    "request: folder": replace("job.json", Path.mkdir),
    "request: link": replace("job.json", secret),
    "template: device": templates("/dev/zero"),
    "template: elsewhere": templates("/etc/hostname"),
    "template: above": templates("../../secret.png"),
    "template: server": templates(UNC),
    "template: drive": templates(DRIVE),
    "template: zero": templates("a\0b"),
    "template: link": replace("templates/0.png", secret),
    "template: folder is a link": replace("templates", lambda path: path.symlink_to(path.parents[2])),
    "template: pipe": replace("templates/0.png", pipe),
    "template: text": write("templates/0.png", "%!PS"),
    "template: huge": write("templates/0.png", huge_png(100_000)),
    "template: weight": request(templates=[REQUEST["templates"][0] | {"weight": 1e39}, REQUEST["templates"][1]]),
    "start: itself": request(start="continue", start_mesh="", start_job="/x/jobs/HOSTILE"),
    "start: server": request(start="continue", start_mesh="", start_job="\\\\server\\share\\jobs\\x"),
    "start: mesh elsewhere": request(start="continue", start_mesh="/dev/zero", start_job="/x/jobs/HOSTILE"),
    "state: many digits": write("state.json", json.dumps(state())[:-1] + f', "step": {MANY}}}'),
    "state: long step": says(status="paused", step=10**39, total=1),
    "state: negative": says(status="paused", step=-5, total=7, it_per_s=-1, eta_s=-1e300),
    "state: infinite": write("state.json", json.dumps(state())[:-1] + ', "eta_s": 1e999}'),
    "state: texts": says(pose_distribution={"front": "many"}),
    "state: shares": says(pose_distribution={f"{'x' * 99}\n{i}": 1e300 for i in range(999)}),
    "state: message": says(status="failed", message="x " * 10**6, hint="\n" * 99),
    "state: deep": write("state.json", DEEP),
    "state: pipe": replace("state.json", pipe),
    "state: device": replace("state.json", zeros),
    "state: unknown": says(status="possessed"),
    "state: everybody": says(status="running", pid=-1, updated_s=4.1e9, host=socket.gethostname()),
    "state: bystander": says(status="running", pid=1, updated_s=time.time(), host=socket.gethostname()),
    "preview: server": says(preview=UNC),
    "preview: elsewhere": says(preview="/etc/hostname"),
    "preview: above": says(preview="../../secret.png"),
    "preview: link": replace("previews/1.png", secret),
    "preview: device": replace("previews/1.png", zeros),
    "preview: pipe": replace("previews/1.png", pipe),
    "preview: huge": write("previews/1.png", huge_png(2**31 - 1)),
    "preview: text": write("previews/1.png", "no picture"),
    "lock: pipe": replace("worker.lock", pipe),
    "lock: folder": replace("worker.lock", Path.mkdir),
    "log: link": replace("log.txt", secret),
    "log: pipe": replace("log.txt", pipe),
    "mesh: missing": replace("result/mesh.npz", lambda path: None),
    "mesh: text": write("result/mesh.npz", "no mesh"),
    "mesh: broken": broken_zip,
    "mesh: bomb": bomb,
    "mesh: pipe": replace("result/mesh.npz", pipe),
    "mesh: link": replace("result/mesh.npz", secret),
    "mesh: wrapped indices": arrays("result/mesh.npz", faces=FACES.astype(np.int64) + 2**32),
    "mesh: numbers for indices": arrays("result/mesh.npz", faces=FACES.astype(np.float64)),
    "mesh: not finite": arrays("result/mesh.npz", verts=np.full((8, 3), np.nan, np.float32)),
    "mesh: vast": arrays("result/mesh.npz", verts=np.full((8, 3), 1e300)),
    "mesh: objects": lambda job: np.savez(job / "result/mesh.npz", verts=np.array([{}], object)),
    "result: link": replace("result", lambda path: path.symlink_to(path.parents[2])),
    "result: odd folders": lambda job: [(job / f"result/particle-{n}").mkdir() for n in ("1 (copy)", "x", "-1")] and None,
    "texture: text": write("result/albedo.png", "no picture"),
    "texture: huge": write("result/albedo.png", huge_png(2**20)),
    "texture: link": replace("result/albedo.png", secret),
    "texture: pipe": replace("result/normal.png", pipe),
    "seeds: not UTF-8": write("seeds.json", b'{"texture": "\xe9"}'),
    "seeds: pipe": replace("seeds.json", pipe),
    "placement: deep": write("start/placement.json", DEEP),
    "placement: types": place(object=7),
    "placement: texts": place(place_m=["a", "b", "c"]),
    "placement: matrix": place(world=[[1.0]]),
    "placement: no list": place(children={"a": 1}),
    "placement: newer": place(made_by="a later version"),
    "placement: pipe": replace("start/placement.json", pipe),
    "placement: link": replace("start/placement.json", secret),
    "faces: too many": arrays("start/faces.npz", is_painted=np.ones(10**6, bool)),
    "faces: numbers": arrays("start/faces.npz", is_painted=np.full(6, 9)),
    "faces: other loops": arrays("start/faces.npz", triangle_loops=np.full((12, 3), 10**6)),
    "faces: missing": replace("start/faces.npz", lambda path: None),
    "name: not UTF-8": rename(b"HOSTILE \xe9"),
    "name: lines": rename(b"HOSTILE\nline"),
    "name: link": a_link,
}  # fmt: skip
ACTIONS = (
    "show_job",
    "import_result",
    "use_settings",
    "continue_job",
    "pause",
    "cancel",
    "open_folder",
    "resume",
)
KEPT = {"scenes", "objects", "meshes", "materials", "images", "cameras"}


@pytest.fixture
def watched(monkeypatch, preferences):
    """No signal, no waiting for ever, no look at a server, and the secret stays as it was."""

    def refuse(*args):
        raise AssertionError(f"a signal to {args}")

    def time_is_up(*args):
        raise AssertionError("it waits for ever")

    def locally(function):
        def look(path, *args, **options):
            assert "server" not in os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else True
            return function(path, *args, **options)

        return look

    monkeypatch.setattr(os, "kill", refuse)
    for function in ("stat", "lstat", "open"):
        monkeypatch.setattr(os, function, locally(getattr(os, function)))
    for function in ("isfile", "exists", "isdir"):
        monkeypatch.setattr(os.path, function, locally(getattr(os.path, function)))
    preferences.folder.mkdir(parents=True)
    secret = preferences.folder / "secret.png"
    secret.write_bytes(SECRET)
    signal.signal(signal.SIGALRM, time_is_up)
    signal.alarm(40)
    yield
    signal.alarm(0)
    assert secret.read_bytes() == SECRET
    copies = [path for path in (preferences.folder / "templates").glob("*") if path.stat().st_size > 1 << 16]
    assert not copies, "something large was copied"
    for path in (preferences.folder / "templates").glob("*"):
        assert path.read_bytes()[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0"), "something else was copied"


def names() -> dict[str, list[str]]:
    return {kind: sorted(data.name for data in getattr(bpy.data, kind)) for kind in KEPT}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_every_action_ends_with_one_sentence(
    fake_backend, watched, addon, preferences, draw, damage, monkeypatch
):
    session = addon("session")
    jobs = preferences.folder / "jobs"
    make_job(jobs / "GOOD")
    damage(make_job(jobs / "HOSTILE"))
    bpy.ops.mesh.primitive_cube_add()
    monkeypatch.setattr(addon("operators.jobs").bpy.types.RECDREAMER_OT_open_folder, "act", lambda *args: "")
    assert session._tick() > 0
    registry = session.session.registry
    assert len(registry.jobs) == 2 and registry.find("GOOD").condition == "done"
    hostile = next(job for job in registry.jobs if job.id != "GOOD")
    session.session.shown_id = hostile.id
    for action in ACTIONS:
        before = names()
        operator = getattr(bpy.ops.recdreamer, action)
        try:
            assert operator("EXEC_DEFAULT", job_id=hostile.id) == {"FINISHED"}
        except RuntimeError as error:
            text = str(error)
            assert text.startswith("Error: ") and "\n" not in text.strip(), text
            assert "Traceback" not in text and "please report" not in text and len(text) < 700, text
            assert names() == before, action
        session.pump()
        draw()
        if action == "resume" and hostile.client is not None:
            deadline = time.monotonic() + 20
            while hostile.client is not None and time.monotonic() < deadline:
                session.pump()
                time.sleep(0.01)
    for data in (*bpy.data.objects, *bpy.data.materials, *bpy.data.meshes):
        assert data.name.isprintable()
    bpy.ops.object.select_all(action="DESELECT")
    assert bpy.ops.recdreamer.import_result(job_id="GOOD") == {"FINISHED"}
    assert bpy.ops.recdreamer.delete_job("EXEC_DEFAULT", job_id=hostile.id) == {"FINISHED"}
    assert [path.name for path in jobs.iterdir()] == ["GOOD"]
    assert session._tick() > 0 and [job.id for job in registry.jobs] == ["GOOD"]


def test_the_untouched_job_is_good(fake_backend, watched, addon, preferences):
    """Negative control: each action works on it, so it is the damage that the sentences are about."""
    make_job(preferences.folder / "jobs/GOOD")
    bpy.ops.mesh.primitive_cube_add()
    for action in ("show_job", "import_result", "use_settings"):
        assert getattr(bpy.ops.recdreamer, action)(job_id="GOOD") == {"FINISHED"}
    assert bpy.context.object.get("recdreamer_painted_by") == "GOOD"
    assert len(bpy.context.scene.recdreamer.templates) == 2
    assert re.fullmatch(r"[0-9a-f]{32}\.png", bpy.context.scene.recdreamer.templates[0].image)
