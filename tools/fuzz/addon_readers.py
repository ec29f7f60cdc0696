"""Everything of the add-on that reads what someone else wrote, without Blender; Blender's part is in tests/blender."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
from reader import Reader

from recdreamer.shared.protocol import JobFolder, JobState

import mutators

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = "recdreamer_extension"


def addon(name: str) -> ModuleType:
    """A module of the add-on: like in Blender, a part of a package whose name is not that of its folder."""
    if EXTENSION not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            EXTENSION, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[EXTENSION] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[EXTENSION])
    return importlib.import_module(f"{EXTENSION}.{name}")


def told() -> tuple[type[Exception], ...]:
    """The add-on has its own copy of the shared files, and so of the exception."""
    return (addon("backend.recdreamer.shared.protocol").RequestError,)


def _placement(job: JobFolder, path: Path) -> None:
    placement = addon("addon.jobs.placement").StartPlacement.read(job)
    _ = sum(placement.place_m) + placement.front_deg
    sum(sum(row) for row in placement.world)
    assert not placement.world or len(placement.world) == 4
    "".join([placement.object, *placement.children, *placement.children_ids, *placement.fingerprint.values()])


def _events(job: JobFolder, path: Path) -> None:
    client = addon("addon.jobs.client")

    class Listener(client.JobClient):
        """A client without a process."""

        def __init__(self) -> None:
            self.state = JobState()

        def _fail(self, message: str, hint: str, kind: str) -> None:
            assert message.isprintable() and hint and kind

    listener = Listener()
    text = path.read_bytes()
    for line in (*text.split(b"\n"), *client.newest_events(text)):
        listener._apply(line)
    json.dumps(asdict(listener.state), ensure_ascii=False, allow_nan=False).encode()


def _registry(job: JobFolder, path: Path) -> None:
    """As the timer does: the job is listed, and what the panel shows of it can be shown."""
    registry = addon("addon.jobs.registry").JobRegistry(job.root.parent.parent)
    (found,) = registry.jobs
    registry.refresh()
    found.update()
    shown = f"{found.problem}{found.state.message}{found.why_not_continue}"
    assert found.condition and shown.isprintable(), ascii(shown)


def _gallery(job: JobFolder, path: Path) -> None:
    addon("addon.jobs.errands").read_gallery(job.root)


def _check(job: JobFolder, path: Path) -> None:
    addon("addon.jobs.errands").read_check(job.root, [("a.png", "front", False)])


def _header(job: JobFolder, path: Path) -> None:
    addon("addon.pictures.files").check_picture(path)


def _log(job: JobFolder, path: Path) -> None:
    assert len(addon("addon.jobs.client").read_last_line(path)) <= 200


def _origin(job: JobFolder, path: Path) -> None:
    addon("addon.jobs.origin").origin_of(job, None)


def _costs(job: JobFolder, path: Path) -> None:
    from readers import REQUEST

    costs = addon("addon.jobs.costs").Costs(job.root)
    addon("addon.describe").cost(costs.of(REQUEST))


def _coarse(job: JobFolder, path: Path) -> None:
    from readers import REQUEST

    addon("addon.jobs.coarse_mesh").read_coarse(addon("addon.jobs.job").Job(job, REQUEST, ""))


def _marker(job: JobFolder, path: Path) -> None:
    installation = addon("addon.setup.installation")
    interpreter = addon("addon.setup.uv").interpreter_of(installation.Places(job.root).environment)
    interpreter.parent.mkdir(parents=True)
    interpreter.touch()
    installation.read_status(job.root, ())


EVENTS = b"\n".join(
    json.dumps(event).encode()
    for event in (
        {"type": "hello", "protocol": 1, "version": "1", "device": "cpu"},
        {"type": "stage", "name": "shape", "index": 1, "count": 4},
        {"type": "progress", "step": 3, "total": 40, "it_per_s": 1.5, "eta_s": 60.0},
        {"type": "preview", "path": "previews/shape-000001.png"},
        {"type": "pose_distribution", "probs": {"front": 0.5, "back": 0.5}},
        {"type": "warning", "message": "a"},
        {"type": "error", "kind": "request", "message": "a", "hint": "b"},
        {"type": "result", "path": "result"},
    )
)
GALLERY = b'{"samples": [{"image": "a.png", "label": "front", "share": 0.5, "azimuth_deg": 90.0}]}'
CHECK = json.dumps(
    {
        "templates": [
            {"reads_as": "front", "pose_probs": {"front": 1.0}, "overlay": "o.png", "match": "m.png",
             "warnings": [{"message": "m", "hint": "h"}]}
        ],
        "warnings": [],
    }
).encode()  # fmt: skip
PLACEMENT = json.dumps(
    {
        "object": "Cube", "object_id": "f0", "children": ["Hat"], "children_ids": ["f1"],
        "place_m": [1.0, 2.0, 3.0], "front_deg": 90.0, "uv_map": "UVMap", "region": "", "keep_size": True,
        "use_children": True, "taken_of": "", "fingerprint": {"faces": "b"}, "world": [[1.0] * 4] * 4,
    }
).encode()  # fmt: skip


def _kind() -> str:
    from readers import REQUEST

    return addon("addon.jobs.costs").kind_of(REQUEST)


def _whole_mesh() -> bytes:
    from readers import CUBE, npz

    return npz(verts=CUBE["verts"], faces=CUBE["faces"], rgb=np.zeros(CUBE["verts"].shape, np.uint8))


def addon_readers(pictures: tuple[bytes, ...]) -> Iterator[Reader]:
    """All readers of the add-on that need no Blender."""
    as_json, as_bytes = (mutators.json_changed, mutators.bytes_changed), (mutators.bytes_changed,)
    state = json.dumps(asdict(JobState("running", 7, preview="previews/a.png"))).encode()
    yield Reader("add-on: placement", "start/placement.json", (PLACEMENT,), as_json, _placement)
    lines = (mutators.json_lines_changed, mutators.bytes_changed)
    yield Reader("add-on: events", "events.jsonl", (EVENTS,), lines, _events)
    yield Reader("add-on: job list", "jobs/a/state.json", (state,), as_json, _job_list)
    yield Reader("add-on: gallery", "gallery.json", (GALLERY,), as_json, _gallery)
    yield Reader("add-on: check", "check/check.json", (CHECK,), as_json, _check)
    yield Reader("add-on: picture", "front.png", pictures, as_bytes, _header)
    origin = b'{"how": "vary", "of": "a", "group": ["a", "b"]}'
    yield Reader("add-on: origin", "origin.json", (origin,), as_json, _origin)
    costs = json.dumps({_kind(): [247.0, 38_200_000, 6_100_000_000, 8_000_000_000]}).encode()
    yield Reader("add-on: costs", "costs.json", (costs,), as_json, _costs)
    arrays = (mutators.npz_changed, mutators.bytes_changed)
    yield Reader("add-on: coarse mesh", "previews/coarse.npz", (_whole_mesh(),), arrays, _coarse)
    yield Reader("add-on: log", "log.txt", (b"Traceback\nValueError: x\n" * 40,), as_bytes, _log)
    yield Reader(
        "add-on: installed",
        "backend/recdreamer-is-ready",
        (b'{"build": "cpu", "lock": "ab"}',),
        as_json,
        _marker,
    )


def _job_list(job: JobFolder, path: Path) -> None:
    from readers import REQUEST

    (path.parent / "job.json").write_text(REQUEST.to_json())
    _registry(JobFolder(path.parent), path)
