"""The rules of the architecture, run: who may import what, how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ADDON = sorted((ROOT / "addon").rglob("*.py"))
BACKEND = sorted((ROOT / "backend" / "recdreamer").rglob("*.py"))
TOOLS = sorted((ROOT / "tools").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PROTOCOL = ROOT / "backend" / "recdreamer" / "shared" / "protocol.py"
SHARED = [
    PROTOCOL.with_name(f"{name}.py")
    for name in (
        "safe_files",
        "json_values",
        "folder_lock",
        "device_lock",
        "job_state",
        "protocol",
        "worlds",
        "uv_map",
        "material_slots",
        "doubled_faces",
        "start_check",
        "prompt_words",
        "parent_process",
    )
]
"""What both sides import, lowest first: the contract between them, how its files are read and written, the words that
embedded priors know, what UVs can be painted, the material slots of a mesh, which faces lie upon others, what becomes
of an object that a job starts from, which words of a prompt are read, and how a child learns of its parent's end."""
WITH_NUMPY = {"safe_files", "uv_map", "material_slots", "doubled_faces", "start_check"}
JUDGES = [path for path in BACKEND if path.parent.name == "evaluation"]

BLENDER = {
    "bpy",
    "bmesh",
    "mathutils",
    "gpu",
    "gpu_extras",
    "bpy_extras",
    "blf",
    "addon_utils",
    "bl_ext",
    "bl_operators",
}
BLENDER_SHIPS = {"numpy"}
MAX_LINES = 400


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(level, full name) of all that a file imports, wherever the import stands; level 0 is absolute."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), path.name)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, f"{node.module or ''}.{alias.name}".lstrip(".")) for alias in node.names]
    return found


def roots_of(path: Path) -> set[str]:
    """Top-level packages that a file imports absolutely."""
    return {module.split(".")[0] for level, module in imports_of(path) if level == 0}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_rules_see_the_code(tmp_path):
    """A rule over no files would hold, too; and imports are found at every depth, in every form."""
    assert len(ADDON) >= 5 and len(BACKEND) >= 20 and len(TOOLS) >= 3 and JUDGES
    source = tmp_path / "source.py"
    source.write_text(
        "from .. import backend\nfrom recdreamer import evaluation\ndef f():\n    import torch.nn\n"
    )
    assert imports_of(source) == [(2, "backend"), (0, "recdreamer.evaluation"), (0, "torch.nn")]
    assert roots_of(source) == {"recdreamer", "torch"}


@pytest.mark.parametrize("path", [*ADDON, ROOT / "__init__.py"], ids=relative)
def test_the_addon_needs_blender_and_the_standard_library_only(path):
    assert roots_of(path) <= sys.stdlib_module_names | BLENDER | BLENDER_SHIPS


@pytest.mark.parametrize("path", [*ADDON, ROOT / "__init__.py"], ids=relative)
def test_no_thread_runs_in_blender(path):
    """Blender crashes with them, see child_process.py. The installation is a process of its own."""
    threads = {"threading", "_thread", "concurrent", "multiprocessing", "asyncio"}
    assert not roots_of(path) & threads or path == ROOT / "addon/setup/installation.py"


@pytest.mark.parametrize("path", [*ADDON, ROOT / "__init__.py"], ids=relative)
def test_of_the_backend_the_addon_knows_the_shared_files_only(path):
    """Relatively, as a part of the extension: its full name depends on the repository it was installed to."""
    for level, module in imports_of(path):
        assert not (level == 0 and module.split(".")[0] in ("addon", "backend", "recdreamer"))
        is_sibling = level == 1 and path.parent != ROOT  # Such as addon/panels/backend.py.
        if module.split(".")[0] == "backend" and not is_sibling:
            assert module.split(".")[:3] == ["backend", "recdreamer", "shared"]
            assert module.split(".")[3] in {shared.stem for shared in SHARED}


@pytest.mark.parametrize("path", BACKEND, ids=relative)
def test_the_backend_knows_no_blender(path):
    assert not roots_of(path) & (BLENDER | {"addon", "backend"})


@pytest.mark.parametrize("path", sorted({*BACKEND} - {*SHARED}), ids=relative)
def test_the_backend_imports_itself_by_its_full_name(path):
    assert all(level == 0 for level, _ in imports_of(path))


COMMANDS = {
    "cli/work.py": ("particles_2d_job.particles_job",),
    "cli/evaluate.py": (
        "judge_views.judge_job",
        "judge_mesh.judge_mesh",
        "audit.audit",
        "bench_tables.OracleName",
        "inspect_mesh.default_folder",
        "inspect_mesh.inspect_mesh",
        "classifier_accuracy.as_tables",
        "classifier_accuracy.measure_classifier",
    ),
    "cli/bench.py": (
        "bench_step.as_table",
        "bench_step.bench_step",
        "bench_memory.as_table",
        "bench_memory.bench_memory",
        "bench_processes.as_table",
        "bench_processes.bench_processes",
        "bench_tables.FieldTable",
        "bench_field.as_tables",
        "bench_field.bench_field",
        "bench_field.save",
        "bench_janus.JanusBench",
        "bench_janus.bench_janus",
        "bench_janus.collect",
        "bench_janus.estimate",
        "bench_janus.planned",
        "bench_janus.recount",
        "bench_suites.prompts_of",
        "bench_suites.suite_of",
    ),
}


@pytest.mark.parametrize("path", sorted({*BACKEND} - {*JUDGES}), ids=relative)
def test_nothing_that_generates_knows_how_it_is_judged(path):
    """The oracle and the true geometry must not leak into the method; only commands call them."""
    evaluation = {module for _, module in imports_of(path) if module.startswith("recdreamer.evaluation")}
    assert evaluation == {
        f"recdreamer.evaluation.{name}"
        for name in COMMANDS.get(path.relative_to(PROTOCOL.parents[1]).as_posix(), ())
    }


@pytest.mark.parametrize("path", SHARED, ids=relative)
def test_what_is_shared_needs_the_standard_library_only(path):
    """Numpy is imported late, to read arrays. Relatively, as they have another name inside of Blender."""
    assert roots_of(path) <= sys.stdlib_module_names | ({"numpy"} if path.stem in WITH_NUMPY else set())
    own = {module.split(".")[0] for level, module in imports_of(path) if level == 1}
    assert own <= {other.stem for other in SHARED[: SHARED.index(path)]}
    assert {level for level, _ in imports_of(path)} <= {0, 1}


def test_what_is_shared_can_be_imported_where_there_is_nothing_else():
    block = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'numpy', 'bpy', 'jaxtyping', 'beartype'])); "
    )
    script = f"{block}import recdreamer.shared.protocol as p; assert p.PROTOCOL_VERSION; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "backend", capture_output=True, text=True, check=True
    )
    ours = {name for name in done.stdout.split() if name.startswith("recdreamer")}
    # The lock of a device is for workers, and what follows the protocol stands on it.
    names = {path.stem for path in SHARED[: SHARED.index(PROTOCOL) + 1]} - {"device_lock"}
    assert ours == {"recdreamer", "recdreamer.shared", *(f"recdreamer.shared.{name}" for name in names)}
    # Negative control: the same lock keeps the field out.
    script = f"{block}import recdreamer.field"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "backend", capture_output=True, check=False
    )
    assert done.returncode != 0


def test_the_extension_can_be_imported_without_blender():
    script = "import sys; sys.modules['bpy'] = None; import __init__, addon"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("path", [*ADDON, *BACKEND, *TOOLS, *TESTS], ids=relative)
def test_no_file_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_tools_of_the_checkout_need_the_standard_library_only():
    """They run before anything is installed."""
    tools = {path.stem: path for path in TOOLS}
    for name in ("dev", "environments", "build_extension", "lock"):
        assert roots_of(tools[name]) <= sys.stdlib_module_names | {"environments", "lock", "addon"}
        assert all(
            f"{module}.".startswith("addon.setup.")
            for _, module in imports_of(tools[name])
            if "addon" in module
        )
    for path in (ROOT / "addon" / "setup").rglob("*.py"):
        assert roots_of(path) <= sys.stdlib_module_names
        assert all(level < 2 for level, _ in imports_of(path)), "it is used without the other rooms"


def test_no_pickle_no_drawers_no_remote_code():
    for path in [*ADDON, *BACKEND]:
        assert not roots_of(path) & {"pickle", "dill", "cloudpickle", "shelve"}, relative(path)
        assert not {"utils", "helpers", "misc"} & {*path.parts, path.stem}, relative(path)
        assert "trust_remote_code=True" not in path.read_text(encoding="utf-8"), relative(path)


def test_one_version_everywhere():
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))
    source = (ROOT / "backend" / "recdreamer" / "__init__.py").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'__version__ = "{manifest["version"]}"' in source
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == manifest["version"]


@pytest.mark.parametrize("path", ["tools/dev.py", "addon/properties.py"])
def test_every_method_can_be_chosen(path):
    """Both keep a list of their own: the one imports nothing of the backend, the other describes each for people."""
    text = (ROOT / path).read_text(encoding="utf-8")
    choices = PROTOCOL.read_text(encoding="utf-8").split("Method = Literal[")[1].split("]")[0]
    assert len(choices.split(",")) == 10
    for name in choices.split(","):
        assert name.strip() in text
