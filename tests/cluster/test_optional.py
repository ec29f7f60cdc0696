"""Ray is optional: where no cluster is used, none of it is loaded, and where it is, one version of it."""

import re
import subprocess
import sys
import tomllib

from .conftest import ROOT

BACKEND = ROOT / "backend"
CONNECTION = BACKEND / "recdreamer" / "cluster" / "connection.py"
IMPORT = re.compile(r"^\s*(import|from) (ray|grpc)\b", re.MULTILINE)


def test_ray_is_known_in_one_place():
    knowing = [path for path in BACKEND.rglob("*.py") if IMPORT.search(path.read_text(encoding="utf-8"))]
    assert knowing == [CONNECTION]
    addon = (path.read_text(encoding="utf-8") for path in (ROOT / "addon").rglob("*.py"))
    assert not any(map(IMPORT.search, addon))


def test_jobs_on_this_computer_need_neither_ray_nor_the_room():
    script = (
        "import sys; sys.modules['ray'] = sys.modules['grpc'] = None\n"
        "import recdreamer.cli.main, recdreamer.cli.work, recdreamer.job.worker, recdreamer.generate\n"
        "assert not [name for name in sys.modules if name.startswith('recdreamer.cluster')]\n"
        "import recdreamer.cluster.submit\n"  # Nor does this load it, before a connection is made.
        "from recdreamer.cluster.connection import Cluster\n"
        "from recdreamer.cluster.destination import destination\n"
        "try: Cluster(destination('localhost'))\n"
        "except recdreamer.report.JobError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=BACKEND, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith("Ray is not installed in this environment (")
        and "ray[client]==" in done.stdout
    )


def test_one_version_of_ray_everywhere():
    project = tomllib.loads((BACKEND / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (pin,) = project["optional-dependencies"]["cluster"]
    assert pin in project["optional-dependencies"]["dev"]
    assert not [line for line in project["dependencies"] if line.startswith("ray")]
    assert f'RAY = "{pin}"' in CONNECTION.read_text(encoding="utf-8")
    assert pin in (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def test_the_extension_has_no_wheel_of_it():
    assert "wheels" not in (ROOT / "blender_manifest.toml").read_text(encoding="utf-8")
