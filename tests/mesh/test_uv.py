"""UV islands: inside the page, apart from each other, in proportion."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy import ndimage, sparse

from recdreamer.mesh import Mesh, MeshConfig, dress_mesh, extract_mesh, xatlas_child, xatlas_process
from recdreamer.mesh.mesh import face_cross
from recdreamer.mesh.raster import rasterize_uvs
from recdreamer.mesh.uv import unwrap
from recdreamer.mesh.xatlas_process import ask_xatlas
from recdreamer.report import JobError, Tick, no_tick

from .fields import SMALL, ball, nose_field


@pytest.fixture(scope="module")
def unwrapped() -> tuple[Mesh, int]:
    return unwrap(extract_mesh(nose_field, SMALL), SMALL)


def double_areas(uvs: np.ndarray) -> np.ndarray:
    a, b, c = uvs[:, 0].astype(float), uvs[:, 1].astype(float), uvs[:, 2].astype(float)
    return (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]


def island_of_face(mesh: Mesh) -> tuple[int, np.ndarray]:
    """Faces that share a vertex with the same UV belong to one island."""
    corners = np.concatenate(
        [mesh.faces.reshape(-1, 1), mesh.uvs_or_error().reshape(-1, 2).view(np.int32)], axis=1
    )
    _, place = np.unique(corners, axis=0, return_inverse=True)
    place = place.reshape(-1, 3)
    edges = np.concatenate([place[:, :2], place[:, 1:]])
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), (place.max() + 1,) * 2)
    count, label = sparse.csgraph.connected_components(graph, directed=False)
    return count, label[place[:, 0]]


def test_uvs_are_welded_mesh_corners_inside_the_page(unwrapped: tuple[Mesh, int]) -> None:
    mesh, num_islands = unwrapped
    uvs = mesh.uvs_or_error()
    assert uvs.shape == (len(mesh.faces), 3, 2)
    assert uvs.min() >= 0
    assert uvs.max() <= 1
    assert np.abs(double_areas(uvs)).min() > 0
    assert island_of_face(mesh)[0] == num_islands


def test_no_point_of_the_page_is_used_twice(unwrapped: tuple[Mesh, int]) -> None:
    uvs = unwrapped[0].uvs_or_error().astype(float)
    assert overlaps(uvs) == 0
    # The check itself must notice one triangle laid over another island.
    moved = uvs.copy()
    moved[0] = uvs[0] - uvs[0].mean(0) + uvs[len(uvs) // 2].mean(0)
    moved[0] = (moved[0] - moved[0].mean(0)) * 3 + moved[0].mean(0)
    assert overlaps(moved) > 0


def overlaps(uvs: np.ndarray, size: int = 512) -> int:
    """Number of grid points that lie strictly inside more than one triangle."""
    hits = np.zeros((size, size), int)
    for triangle, double_area in zip(uvs * size, double_areas(uvs), strict=True):
        lo = np.floor(triangle.min(0)).astype(int).clip(0, size - 1)
        hi = np.ceil(triangle.max(0)).astype(int).clip(0, size - 1)
        x, y = np.meshgrid(np.arange(lo[0], hi[0] + 1), np.arange(lo[1], hi[1] + 1), indexing="ij")
        inside = np.ones(x.shape, bool)
        for start, end in zip(triangle, np.roll(triangle, -1, axis=0), strict=True):
            side = (end - start)[0] * (y - start[1]) - (end - start)[1] * (x - start[0])
            inside &= side * np.sign(double_area) > 1e-3
        hits[lo[0] : hi[0] + 1, lo[1] : hi[1] + 1] += inside
    return int((hits > 1).sum())


def test_islands_keep_proportions_and_one_scale(unwrapped: tuple[Mesh, int]) -> None:
    mesh, _ = unwrapped
    ratio = np.abs(double_areas(mesh.uvs_or_error())) / np.linalg.norm(face_cross(mesh), axis=1)
    assert np.quantile(ratio, 0.95) / np.quantile(ratio, 0.05) < 3
    edges_3d = np.linalg.norm(np.roll(mesh.verts[mesh.faces], -1, 1) - mesh.verts[mesh.faces], axis=-1)
    edges_uv = np.linalg.norm(np.roll(mesh.uvs, -1, 1) - mesh.uvs, axis=-1)
    stretch = (edges_uv / edges_3d).max(1) / (edges_uv / edges_3d).min(1)
    assert np.quantile(stretch, 0.95) < 2


def test_islands_stand_at_least_the_padding_apart(unwrapped: tuple[Mesh, int]) -> None:
    mesh, _ = unwrapped
    oversampling = 4
    face_map = rasterize_uvs(mesh.uvs_or_error(), oversampling * SMALL.texture_size_px).faces
    count, island = island_of_face(mesh)
    label = np.where(face_map >= 0, island[face_map], -1)
    assert count > 1
    for index in range(count):
        others = (label >= 0) & (label != index)
        distance_px = ndimage.distance_transform_edt(label != index)[others].min() / oversampling
        # The rasteriser grows islands by 1.5 of its own texels on either side.
        assert distance_px + 3 / oversampling >= SMALL.padding_px - 0.25


def test_a_tiny_mesh_unwraps_like_a_large_one() -> None:
    mesh = extract_mesh(ball(0.05), SMALL, warn=lambda message: None)
    small, num_small = unwrap(mesh, SMALL)
    _, num_large = unwrap(Mesh(mesh.verts * 20, mesh.faces), SMALL)
    assert num_small == num_large
    assert np.abs(double_areas(small.uvs_or_error())).min() > 0


def soup(count: int) -> Mesh:
    """Triangles of all shapes and sizes that share no vertex."""
    rng = np.random.default_rng(0)
    verts = rng.uniform(-0.6, 0.6, (count, 1, 3)) + rng.normal(0, 1, (count, 3, 3)) * rng.uniform(
        0.001, 0.05, (count, 1, 3)
    )
    return Mesh(verts.reshape(-1, 3).astype(np.float32), np.arange(3 * count, dtype=np.int32).reshape(-1, 3))


def doubled_ball() -> Mesh:
    ball = trimesh.creation.icosphere(3, 0.6)
    faces = np.concatenate([ball.faces, ball.faces[:, ::-1]])
    return Mesh(ball.vertices.astype(np.float32), faces.astype(np.int32))


def many_parts(count: int) -> Mesh:
    part = trimesh.creation.icosphere(0, 0.02)
    moves = np.random.default_rng(0).uniform(-0.6, 0.6, (count, 1, 3))
    faces = part.faces + len(part.vertices) * np.arange(count)[:, None, None]
    return Mesh(
        (part.vertices + moves).reshape(-1, 3).astype(np.float32), faces.reshape(-1, 3).astype(np.int32)
    )


@pytest.mark.parametrize(
    "mesh", [soup(700), doubled_ball(), many_parts(300)], ids=["soup", "doubled", "parts"]
)
def test_thousands_of_loose_pieces_keep_their_shapes_and_distance(mesh: Mesh) -> None:
    config = replace(SMALL, texture_size_px=1024, padding_px=2)
    found, num_islands = unwrap(mesh, config)
    uvs = found.uvs_or_error().astype(float)
    assert num_islands > 512 and np.isfinite(uvs).all() and uvs.min() >= 0 and uvs.max() <= 1
    assert overlaps(uvs, 1024) == 0
    ratio = np.abs(double_areas(uvs)) / np.linalg.norm(face_cross(found), axis=1)
    assert np.quantile(ratio, 0.95) / np.quantile(ratio, 0.05) < 1.6, "one scale, but for flattened parts"
    assert np.abs(double_areas(uvs)).sum() / 2 > 0.15, "the page is used"
    texels = rasterize_uvs(uvs, 1024).faces
    _, island = island_of_face(found)
    across = np.where(texels >= 0, island[texels], -1)
    gap = (across[:, :-1] != across[:, 1:]) & (across[:, :-1] >= 0) & (across[:, 1:] >= 0)
    assert gap.mean() < 0.15, (
        "texels of one piece seldom touch those of another: a distance of 2 is less than both reaches"
    )


@pytest.mark.parametrize("mesh", [soup(20_000), doubled_ball()], ids=["soup", "doubled"])
def test_no_step_of_unwrapping_loose_faces_blocks(mesh: Mesh) -> None:
    """Minutes at a time, before; neither Pause nor Cancel was heard."""
    marks = [time.process_time()]
    unwrap(mesh, SMALL, lambda: marks.append(time.process_time()))
    marks.append(time.process_time())
    assert np.diff(marks).max() < 5

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unwrap(mesh, SMALL, stop)


def needle(width: float) -> Mesh:
    box = trimesh.creation.box((width, width, 1.5))
    return Mesh(box.vertices.astype(np.float32), box.faces.astype(np.int32))


SLIVER = Mesh(np.array([[0, 0, 0], [1, 0, 0], [0.5, 5e-4, 0]], np.float32), np.array([[0, 1, 2]], np.int32))


@pytest.mark.parametrize(
    "mesh", [SLIVER, needle(3e-3), needle(1e-5), needle(0.1)], ids=["sliver", "needle", "hair", "rod"]
)
def test_long_thin_objects_are_unwrapped_at_once(mesh: Mesh) -> None:
    """xatlas would search a page of ten thousand pixels, for hours."""
    marks = [time.process_time()]
    found, _ = unwrap(mesh, SMALL, lambda: marks.append(time.process_time()))
    marks.append(time.process_time())
    assert np.diff(marks).max() < 10
    uvs = found.uvs_or_error().astype(float)
    assert uvs.min() >= 0 and uvs.max() <= 1 and np.ptp(uvs, axis=(0, 1)).max() > 0.5
    assert overlaps(uvs, 1024) == 0


def test_xatlas_tries_every_place_only_for_as_many_charts_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bool] = []

    def ask(kind: str, task: dict[str, np.ndarray], tick: Tick) -> dict[str, np.ndarray]:
        tried.extend([bool(task["options"][2])] * (kind == "pack"))
        return ask_xatlas(kind, task, tick)

    monkeypatch.setattr("recdreamer.mesh.uv.ask_xatlas", ask)
    for limit, wanted in ((1000, {True}), (10, {False})):
        tried.clear()
        monkeypatch.setattr("recdreamer.mesh.uv.BRUTE_FORCE_CHARTS", limit)
        unwrap(many_parts(20), SMALL)
        assert set(tried) == wanted


def test_charts_of_as_many_faces_keep_their_own_shapes() -> None:
    """xatlas takes arrays at one address for one chart: the second half of a cube got the corners of the first."""
    box = trimesh.creation.box()
    mesh, num_islands = unwrap(Mesh(box.vertices.astype(np.float32), box.faces.astype(np.int32)), SMALL)
    assert num_islands == 2
    ratio = np.abs(double_areas(mesh.uvs_or_error())) / np.linalg.norm(face_cross(mesh), axis=1)
    assert ratio.max() / ratio.min() < 1.01


SLOW = "import time\ntime.sleep(60)\n"


@pytest.mark.parametrize("kind", ["cut", "pack"])
def test_cancel_is_heard_while_xatlas_works_and_its_process_ends(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child, pid = tmp_path / "child.py", tmp_path / "pid"
    child.write_text(f"import os, pathlib\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n{SLOW}")
    monkeypatch.setattr("recdreamer.mesh.xatlas_process.CHILD", child)

    def stop() -> None:
        if pid.exists() and pid.read_text():
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask_xatlas(kind, {"verts": np.zeros((3, 3))}, stop)
    assert time.monotonic() - started < 20, "it is a matter of seconds, also on a busy computer"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(
    "child", [SLOW, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"], ids=["slow", "crash"]
)
def test_where_xatlas_gives_up_a_mesh_is_unwrapped_without_it(
    child: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text(child)
    monkeypatch.setattr("recdreamer.mesh.xatlas_process.CHILD", tmp_path / "child.py")
    monkeypatch.setattr("recdreamer.mesh.xatlas_process.LIMIT_S", 0.5)
    mesh, _ = unwrap(many_parts(3), SMALL)
    uvs = mesh.uvs_or_error().astype(float)
    assert uvs.min() >= 0 and uvs.max() <= 1 and overlaps(uvs) == 0 and np.abs(double_areas(uvs)).min() > 0


def test_a_child_that_starts_slowly_gets_its_whole_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy computer. A pipe holds 64 KiB until the child begins to read."""
    source = Path(xatlas_child.__file__).read_text(encoding="utf-8")
    start = 'if __name__ == "__main__":\n'
    assert start in source
    (tmp_path / "child.py").write_text(source.replace(start, f"{start}    import time; time.sleep(1)\n"))
    monkeypatch.setattr("recdreamer.mesh.xatlas_process.CHILD", tmp_path / "child.py")
    monkeypatch.setattr("recdreamer.mesh.xatlas_process.LIMIT_S", 60.0)
    sphere = trimesh.creation.icosphere(subdivisions=4)
    task = {"verts": sphere.vertices.astype(np.float32), "faces": sphere.faces.astype(np.uint32)}
    assert sum(values.nbytes for values in task.values()) > 2**16
    assert len(ask_xatlas("cut", task, no_tick)["charts"]) == len(sphere.faces)


def test_without_xatlas_the_error_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text("import xatlas_that_is_not_there\n")
    monkeypatch.setattr("recdreamer.mesh.xatlas_process.CHILD", tmp_path / "child.py")
    with pytest.raises(
        JobError, match=r"No module named 'xatlas_that_is_not_there'.*Install the backend again"
    ):
        unwrap(many_parts(3), SMALL)


def test_a_child_without_its_worker_ends_by_itself(tmp_path: Path) -> None:
    """What xatlas does cannot be interrupted from within Python."""
    script = tmp_path / "child.py"
    source = Path(xatlas_child.__file__).read_text(encoding="utf-8")
    script.write_text(source.replace("LIMIT_S = 900", "LIMIT_S = 0.5") + "\n")
    child = subprocess.Popen(
        [sys.executable, "-P", str(script), "cut"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert child.wait(30) == 1  # It would wait for its task for ever.
    finally:
        child.kill()
        child.communicate()


def test_pieces_without_room_are_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    config = replace(SMALL, texture_size_px=16)
    dress_mesh(
        soup(700), lambda points, normals: points.abs().clamp(0, 1), None, config, tmp_path,
        place=lambda mesh: mesh, warn=lines.append,
    )  # fmt: skip
    assert len(lines) == 1 and "700 pieces" in lines[0]


def test_asking_a_mesh_without_uvs_for_them_raises(sphere_mesh: Mesh) -> None:
    with pytest.raises(ValueError, match="Unwrap it first"):
        sphere_mesh.uvs_or_error()


def test_settings_are_defaults_that_artists_expect() -> None:
    assert MeshConfig().texture_size_px == 2048
    assert MeshConfig().padding_px >= 4


def test_the_child_waits_longer_than_its_worker() -> None:
    """Else its end would be taken for a broken installation."""
    assert xatlas_child.LIMIT_S > xatlas_process.LIMIT_S
