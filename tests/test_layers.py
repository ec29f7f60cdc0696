"""The rooms of both packages import in one direction, without circles, and each file has a name of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.test_boundaries import BLENDER, ROOT, imports_of, roots_of

BACKEND_ROOMS = (
    "__init__", "shared", "paths", "report", "cache", "parallel", "cameras", "named_tensors", "device", "kernels",
    "graphs", "images",
    "catalog", "prior", "pose", "distillation", "field", "sdf", "rendering", "mesh",
    "config", "presets", "job", "start", "models", "optimize", "recorded_step", "stages", "generate",
    "evaluation", "cluster", "cli", "__main__",
)  # fmt: skip
"""Folders and files of the package, lowest first: each may import those before it, at any depth and however late."""
ADDON_ROOMS = (
    "language",
    "compat", "describe", "setup", "trouble", "cures", "pictures", "preference_access", "layout", "jobs",
    "session", "objects", "start", "shelf", "properties", "packed_pictures",
    "result", "operators", "scripting", "panels", "preferences", "__init__",
)  # fmt: skip
"""The same of the add-on."""
MEANT_CIRCLES = {
    "field.hash_grid": "field.hash_grid_warp",
    "rendering.march": "rendering.march_warp",
    "rendering.march_buffered": "rendering.march_buffered_warp",
}
"""The reference calls its kernels late, and they have its constants."""


def modules_in(folder: Path) -> dict[str, Path]:
    """All modules of a package by their names inside of it; "" is the package itself."""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
        for path in sorted(folder.rglob("*.py"))
    }


def graph_of(folder: Path) -> dict[str, set[str]]:
    """Which modules of the package each of its modules imports, wherever the import stands."""
    modules = modules_in(folder)
    return {name: set(_imported(name, path, folder.name, modules)) - {name} for name, path in modules.items()}


def _imported(name: str, path: Path, package: str, modules: dict[str, Path]) -> Iterator[str]:
    home = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for level, module in imports_of(path):
        if level > len([part for part in home if part]) + 1 or (
            level == 0 and module.split(".")[0] != package
        ):
            continue  # Not of this package.
        parts = module.split(".")[1:] if level == 0 else [*home[: len(home) - level + 1], *module.split(".")]
        parts = [part for part in parts if part]
        # The last part may be a name in a module.
        yield next(found for end in range(len(parts), -1, -1) if (found := ".".join(parts[:end])) in modules)


def room_of(module: str) -> str:
    return module.split(".")[0] or "__init__"


def upward(graph: dict[str, set[str]], rooms: tuple[str, ...]) -> list[str]:
    """Imports of a higher room by a lower one."""
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if rooms.index(room_of(other)) > rooms.index(room_of(module))
    ]


def reached_from(module: str, graph: dict[str, set[str]]) -> set[str]:
    """The module, and all that comes with it."""
    reached, left = set(), {module}
    while left:
        reached |= left
        left = {other for one in left for other in graph[one]} - reached
    return reached


PACKAGES = pytest.mark.parametrize(
    ("folder", "rooms"),
    [(ROOT / "backend" / "recdreamer", BACKEND_ROOMS), (ROOT / "addon", ADDON_ROOMS)],
    ids=["backend", "addon"],
)


@PACKAGES
def test_lower_rooms_do_not_import_upper_ones(folder, rooms):
    graph = graph_of(folder)
    assert {room_of(module) for module in graph} == set(rooms)
    assert upward(graph, rooms) == []
    # Negative control: upside down, the same imports break the rule nearly everywhere.
    assert len(upward(graph, rooms[::-1])) > len(rooms)


@PACKAGES
def test_there_are_no_circles_but_those_that_are_meant(folder, rooms):
    graph = graph_of(folder)
    for reference, kernels in MEANT_CIRCLES.items():
        if reference in graph:
            assert kernels in graph[reference] and reference in graph[kernels], "no circle any more"
            graph[reference].remove(kernels)
    TopologicalSorter(graph).prepare()


def write_package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    "late", ["from toy.high.b import f", "from toy.high import b", "from ..high import b"]
)
def test_an_upward_import_and_a_circle_are_seen(late, tmp_path):
    """Negative control: inside of a function, in each form that an import has."""
    files = {"__init__.py": "", "low/__init__.py": "", "high/__init__.py": "", "low/a.py": "x = 1\n"}
    folder = write_package(tmp_path / "toy", {**files, "high/b.py": "from toy.low.a import x\n"})
    assert upward(graph_of(folder), ("__init__", "low", "high")) == []
    TopologicalSorter(graph_of(folder)).prepare()
    write_package(folder, {"low/a.py": f"def f():\n    {late}\n"})
    assert upward(graph_of(folder), ("__init__", "low", "high")) == ["low.a imports high.b"]
    with pytest.raises(CycleError):
        TopologicalSorter(graph_of(folder)).prepare()


def without_blender(folder: Path) -> Iterable[str]:
    """Modules that say "No bpy here", and those in folders that say so."""
    modules = modules_in(folder)
    claims = {
        name for name, path in modules.items()
        if "No bpy here" in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    }  # fmt: skip
    return sorted(name for name in modules if any(f"{name}.".startswith(f"{claim}.") for claim in claims))


def blender_behind(module: str, folder: Path) -> set[str]:
    """Modules of Blender that come with a module, directly or through others."""
    modules, graph = modules_in(folder), graph_of(folder)
    return {root for one in reached_from(module, graph) for root in roots_of(modules[one])} & BLENDER


@pytest.mark.parametrize("module", without_blender(ROOT / "addon"))
def test_what_says_that_it_has_no_bpy_has_none(module):
    assert blender_behind(module, ROOT / "addon") == set()


def test_a_false_claim_to_have_no_bpy_is_seen(tmp_path):
    assert {"describe", "jobs.client", "jobs.registry"} <= {*without_blender(ROOT / "addon")}
    assert blender_behind("session", ROOT / "addon") == {"bpy"}
    files = {"a.py": '"""Words. No bpy here."""\nfrom . import b\n', "b.py": "def f():\n    import bpy\n"}
    folder = write_package(tmp_path / "toy", {"__init__.py": "", **files})
    assert without_blender(folder) == ["a"]
    assert blender_behind("a", folder) == {"bpy"}


MEANT_DOUBLES = {
    "recdreamer": {"templates"},  # pose/, and the command about them
    "addon": {"jobs", "properties"},  # operators/ and panels/; of the scene, and of the start in it
}


def doubles_in(folder: Path) -> set[str]:
    """Names that more than one file of a package has."""
    stems = [path.stem for path in folder.rglob("*.py") if path.name != "__init__.py"]
    return {stem for stem in stems if stems.count(stem) > 1}


@PACKAGES
def test_no_two_files_have_one_name(folder, rooms):
    """Else one of both means something else by it; the others are written down."""
    assert doubles_in(folder) == MEANT_DOUBLES[folder.name]


def test_a_double_is_seen(tmp_path):
    folder = write_package(tmp_path / "toy", {"surface.py": "", "mesh/surface.py": "", "mesh/uv.py": ""})
    assert doubles_in(folder) == {"surface"}
