"""Everything that reads what someone else wrote, each with a whole file to damage, in one list."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from addon_readers import EVENTS, addon_readers, told
from model_readers import model_readers
from PIL import Image
from reader import Reader

from recdreamer.report import JobError
from recdreamer.shared.protocol import JobFolder, JobRequest, JobState, RequestError, Template

import mutators

TOLD = (RequestError, JobError, *told())
"""What a reader may raise: one sentence and its remedy."""

REQUEST = JobRequest(
    "a red bear", templates=(Template("front", "front.png", azimuth_deg=0.0), Template("back", "back.png")),
    overrides={"optimize.num_steps": 3, "cameras.distance": [2.0, 3.0]}, seed=5,
)  # fmt: skip
CUBE = {
    "verts": np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32),
    "faces": np.array(
        [[0, 2, 1], [1, 2, 3], [4, 5, 6], [5, 7, 6], [0, 1, 4], [1, 5, 4], [2, 6, 3]], np.int32
    ),
    "region": np.ones(8, np.float32),
    "rgb": np.full((8, 3), 0.5, np.float32),
    "slots": np.array([0, 1, 0, 1, 2, 2, 0], np.int32),
    "slot_names": np.frombuffer(b"oak\n\ntin", np.uint8),
}
NOTES = np.frombuffer(b"It was changed.\nTwo lines.", np.uint8)
UVS = np.random.default_rng(0).random((7, 3, 2)).astype(np.float32)


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def obj() -> bytes:
    lines = [f"v {x} {y} {z}" for x, y, z in CUBE["verts"].tolist()] + [
        "vt 0 0",
        "vt 1 0",
        "vt 0 1",
        "vn 0 0 1",
    ]
    return "\n".join(
        [*lines, *(f"f {a + 1}/1/1 {b + 1}/2/1 {c + 1}/3/1" for a, b, c in CUBE["faces"].tolist())]
    ).encode()


def obj_of_two() -> bytes:
    """Two materials whose UVs lie upon each other."""
    half, other = (f"usemtl {name}\nf 1/1 2/2 4/3\nf 1/1 4/3 3/1\n" for name in ("oak", "tin"))
    return obj() + b"\n" + (half + other).encode()


def ply(is_binary: bool) -> bytes:
    kind = "binary_little_endian" if is_binary else "ascii"
    head = f"ply\nformat {kind} 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 7\nproperty list uchar int vertex_indices\nend_header\n"
    if is_binary:
        return (
            head.encode()
            + CUBE["verts"].tobytes()
            + b"".join(b"\x03" + face.tobytes() for face in CUBE["faces"])
        )
    rows = [" ".join(map(str, row)) for row in CUBE["verts"].tolist()]
    return (
        head + "\n".join([*rows, *(f"3 {a} {b} {c}" for a, b, c in CUBE["faces"].tolist())]) + "\n"
    ).encode()


def stl() -> bytes:
    corners = CUBE["verts"][CUBE["faces"]]
    return (
        b"\0" * 80
        + struct.pack("<I", 7)
        + b"".join(b"\0" * 12 + face.tobytes() + b"\0\0" for face in corners)
    )


def glb() -> bytes:
    data = CUBE["verts"].tobytes() + CUBE["faces"].tobytes()
    document = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "buffers": [{"byteLength": len(data)}],
        "bufferViews": [{"buffer": 0, "byteLength": 96}, {"buffer": 0, "byteOffset": 96, "byteLength": 84}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 1]},
            {"bufferView": 1, "componentType": 5125, "count": 21, "type": "SCALAR"},
        ],
    }  # fmt: skip
    return _glb(json.dumps(document).encode(), data)


def glb_of_two() -> bytes:
    """Two materials whose UVs lie upon each other."""
    data = CUBE["verts"].tobytes() + UVS.reshape(-1, 2)[:8].tobytes() + CUBE["faces"].tobytes()
    attributes = {"POSITION": 0, "TEXCOORD_0": 1}
    document = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0, 1]}],
        "nodes": [{"mesh": 0}, {"mesh": 0, "translation": [2, 0, 0], "scale": [1, -1, 1]}],
        "materials": [{"name": "oak"}, {"name": "tin"}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 2, "material": slot} for slot in range(2)]}],
        "buffers": [{"byteLength": len(data)}],
        "bufferViews": [
            {"buffer": 0, "byteLength": 96}, {"buffer": 0, "byteOffset": 96, "byteLength": 64},
            {"buffer": 0, "byteOffset": 160, "byteLength": 84},
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": 8, "type": "VEC2"},
            {"bufferView": 2, "componentType": 5125, "count": 21, "type": "SCALAR"},
        ],
    }  # fmt: skip
    return _glb(json.dumps(document).encode(), data)


def _glb(text: bytes, data: bytes) -> bytes:
    text = text.ljust(-(-len(text) // 4) * 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def glb_changed(data: bytes, rng: random.Random) -> bytes:
    """Another document in a file whose sizes are right."""
    (length,) = struct.unpack_from("<I", data, 12)
    return _glb(mutators.json_changed(data[20 : 20 + length], rng), data[28 + length :])


def pictures() -> tuple[bytes, ...]:
    """Pictures of the usual formats, and of formats whose readers start other programs or are seldom tried."""
    found = []
    for kind, mode in (("PNG", "RGBA"), ("JPEG", "RGB"), ("WEBP", "RGB"), ("TIFF", "RGB"), ("GIF", "P")):
        stream = io.BytesIO()
        Image.effect_noise((24, 20), 90).convert("RGB").convert(mode).save(stream, kind)
        found.append(stream.getvalue())
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
    return (*found, postscript, b"DDS " + b"\0" * 124, b"BLP2" + b"\1" * 200)


def _state(job: JobFolder, path: Path) -> None:
    state = job.read_state()
    json.dumps(asdict(state), ensure_ascii=False, allow_nan=False).encode()
    job.running_on(state)


def _seeds(job: JobFolder, path: Path) -> None:
    from recdreamer.job.repeat import repeated_seeds

    job.request.write_text(JobRequest("a bear").to_json())
    json.dumps(repeated_seeds(job))


def _again(job: JobFolder, path: Path) -> None:
    from recdreamer.job.repeat import is_repeated, put_back, repeated_seeds

    job.request.write_text(JobRequest("a bear").to_json())
    is_repeated(job)
    repeated_seeds(job)
    put_back(job)


def _checkpoint(job: JobFolder, path: Path) -> None:
    from recdreamer.job.checkpoint import CheckpointStore

    tensors, _ = _checkpoint_files()
    if path.name == "meta.json":
        path.with_name("tensors.safetensors").write_bytes(tensors)
    else:  # With the right checksum, else nothing of the damage would be read.
        path.with_name("meta.json").write_bytes(_meta_of(path.read_bytes()))
    CheckpointStore(job.checkpoints).newest("shape")


def _overrides(job: JobFolder, path: Path) -> None:
    from recdreamer.presets import resolve
    from recdreamer.shared.json_values import parsed

    found = parsed("overrides", path.read_bytes())
    if isinstance(found, dict):
        resolve(JobRequest("a bear", overrides=found))


def _setting(job: JobFolder, path: Path) -> None:
    from recdreamer.cli.settings import parse_setting

    parse_setting(path.read_bytes().decode("utf-8", "surrogateescape"))


def _report(job: JobFolder, path: Path) -> None:
    from recdreamer.evaluation.job_report import add_to_report

    add_to_report(job, "x", {})


def _yaw(job: JobFolder, path: Path) -> None:
    from recdreamer.start.earlier_job import written_yaw_deg

    assert np.isfinite(written_yaw_deg(job))


def _events(job: JobFolder, path: Path) -> None:
    """As a shell shows them; and as the next worker finds the file, which appends to it."""
    from rich.console import Console

    from recdreamer.cli.follow import EventView

    view = EventView(Console(file=io.StringIO()), None)
    for line in path.read_bytes().decode("utf-8", "replace").split("\n"):
        view.hear(line)


def _trace(job: JobFolder, path: Path) -> None:
    from recdreamer.evaluation.particles_2d_job import Album
    from recdreamer.report import NullReport

    json.dumps(Album(job, 4, None, NullReport()).trace)


def _notes(job: JobFolder, path: Path) -> None:
    from recdreamer.start.mesh_file import start_notes

    assert all(line.isprintable() for line in start_notes(path))


def _result(job: JobFolder, path: Path) -> None:
    """As `recdreamer evaluate mesh` and a job that continues it read it."""
    from recdreamer.shared.protocol import START_ARRAYS
    from recdreamer.shared.safe_files import read_npz
    from recdreamer.start.mesh_file import checked

    checked(read_npz(path, START_ARRAYS))


def _gallery(job: JobFolder, path: Path) -> None:
    from recdreamer.pose.gallery import remove_gallery

    remove_gallery(job.root)


def _stop(job: JobFolder, path: Path) -> None:
    from recdreamer.shared.folder_lock import take_stop_request

    assert take_stop_request(job.root) in ("", "pause", "cancel")


def _start_mesh(job: JobFolder, path: Path) -> None:
    from recdreamer.start.mesh_file import check_start, read_start_mesh

    check_start(read_start_mesh(path), "texture")


def _mesh_file(job: JobFolder, path: Path) -> None:
    """As a job reads it that is started in a shell, to change it and to paint it; the second reads the UVs, too."""
    from recdreamer.start.mesh_file import start_mesh_bytes

    start_mesh_bytes(path)
    start_mesh_bytes(path, "texture")


def _picture(job: JobFolder, path: Path) -> None:
    from recdreamer.pose.templates import load_templates

    load_templates(job, (Template("front", path.name),), 32)


def _checkpoint_files() -> tuple[bytes, bytes]:
    import torch
    from safetensors.torch import save

    data = save({"x": torch.zeros(3)})
    return data, _meta_of(data)


def _meta_of(data: bytes) -> bytes:
    return json.dumps({"meta": {"seconds": 1.0}, "bytes": len(data), "crc32": zlib.crc32(data)}).encode()


def all_readers() -> Iterator[Reader]:
    """All readers, of the backend and of the add-on."""
    as_json, as_npz = (mutators.json_changed, mutators.bytes_changed), (mutators.npz_changed,)
    as_text, as_bytes = (mutators.text_changed, mutators.bytes_changed), (mutators.bytes_changed,)
    state = json.dumps(
        asdict(JobState("running", 7, "farm", "token", pose_distribution={"front": 0.5}))
    ).encode()
    tensors, meta = _checkpoint_files()
    checkpoint = "checkpoints/shape-00000001"
    overrides = json.dumps(
        {"optimize.num_steps": 4, "cameras.distance": [2.0, 3.0], "geometry.picture": "normals",
         "rectifier.target": {"front": 1.0}, "prompt": "a", "seed": 1, "stages": ["shape"], "height_m": 2.0}
    ).encode()  # fmt: skip
    yield Reader(
        "job.json", "job.json", (REQUEST.to_json().encode(),), as_json, lambda job, path: job.read_request()
    )
    yield Reader("state.json", "state.json", (state,), as_json, _state)
    yield Reader("seeds.json", "seeds.json", (b'{"shape": 4, "texture": 5}',), as_json, _seeds)
    yield Reader(
        "again.json", "checkpoints/earlier/again.json", (b'{"stage": "texture", "seed": 5}',), as_json, _again
    )
    yield Reader("checkpoint: meta", f"{checkpoint}/meta.json", (meta,), as_json, _checkpoint)
    yield Reader(
        "checkpoint: tensors", f"{checkpoint}/tensors.safetensors", (tensors,), as_bytes, _checkpoint
    )
    yield Reader("overrides", "overrides.json", (overrides,), as_json, _overrides)
    yield Reader("a setting", "setting", (b"optimize.num_steps=30", b"a=[1, 2]"), as_text, _setting)
    yield Reader(
        "report.json", "result/report.json", (b'{"prompt": "a", "meshes": [{"faces": 1}]}',), as_json, _report
    )
    yield Reader("gallery.json", "gallery.json", (b'{"samples": [{"image": "a.png"}]}',), as_json, _gallery)
    yield Reader("stop", "stop", (b"pause", b"cancel"), as_bytes, _stop)
    yield Reader("start mesh", "start/mesh.npz", (npz(**CUBE), npz(**CUBE, uvs=UVS)), as_npz, _start_mesh)
    yield Reader("mesh .npz", "mesh.npz", (npz(**CUBE), npz(**CUBE, uvs=UVS)), as_npz, _mesh_file)
    yield Reader("mesh .obj", "mesh.obj", (obj(), obj_of_two()), as_text, _mesh_file)
    yield Reader("mesh .ply", "mesh.ply", (ply(False), ply(True)), as_text, _mesh_file)
    yield Reader("mesh .stl", "mesh.stl", (stl(),), as_bytes, _mesh_file)
    yield Reader(
        "mesh .glb", "mesh.glb", (glb(), glb_of_two()), (glb_changed, mutators.bytes_changed), _mesh_file
    )
    yield Reader("picture", "front.png", pictures(), as_bytes, _picture)
    yield Reader(
        "report.json: yaw", "result/report.json", (b'{"meshes": [{"yaw_deg": 90.0}]}',), as_json, _yaw
    )
    lines = (mutators.json_lines_changed, mutators.bytes_changed)
    yield Reader("events", "events.jsonl", (EVENTS,), lines, _events)
    trace = b'{"labels": ["front"], "records": [{"step": 1, "marginal": [0.5, 0.5]}]}'
    yield Reader("trace.json", "trace.json", (trace,), as_json, _trace)
    yield Reader("notes of a start", "start/mesh.npz", (npz(**CUBE, notes=NOTES),), as_npz, _notes)
    yield Reader("result mesh", "result/mesh.npz", (npz(**CUBE, uvs=UVS),), as_npz, _result)
    yield from addon_readers(pictures())
    yield from model_readers()
