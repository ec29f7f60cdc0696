"""Build dist/recdreamer-<version>.zip with Blender's own builder, and validate it.

    python3 tools/build_extension.py

Needs no running Blender: it uses `blender_ext.py`, which is pure Python, from an environment under .venv.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "__init__.py",
    "LICENSE",
    "addon/__init__.py",
    "addon/panels/jobs.py",
    "addon/setup/locks/linux-cuda13.txt",
    "addon/setup/locks/uv.txt",
    "backend/pyproject.toml",
    "backend/recdreamer/__init__.py",
    "backend/recdreamer/shared/protocol.py",
    "backend/recdreamer/job/worker.py",
    "blender_manifest.toml",
)
FOREIGN = ("tests/", "tools/", "docs/", "out/", "dist/", ".")
MAX_MIB = 40
"""The embedded prior is at most 25 MB; a larger zip contains something by mistake."""


def find_blender_ext() -> Path:
    """Blender's extension command line, of the newest Blender environment."""
    pattern = ".venv/blender-*/**/site-packages/bpy/*/scripts/addons_core/bl_pkg/cli/blender_ext.py"
    found = sorted(ROOT.glob(pattern))
    if not found:
        sys.exit("There is no Blender environment under .venv. Run `python3 tools/dev.py setup` first.")
    return found[-1]


def build() -> Path:
    """Build and validate the zip. Raises SystemExit with the reason if it is invalid."""
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))
    blender_ext = find_blender_ext()
    archive = ROOT / "dist" / f"{manifest['id']}-{manifest['version']}.zip"
    archive.parent.mkdir(exist_ok=True)
    # Without Blender's list of tags its validator accepts any tag.
    tags = blender_ext.parents[3] / "modules/_bpy_internal/extensions/tags.py"
    for command in (
        ["build", "--source-dir", str(ROOT), "--output-filepath", str(archive)],
        ["validate", "--valid-tags", str(tags), str(archive)],
    ):
        done = subprocess.run(
            [sys.executable, str(blender_ext), *command], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    check_contents(archive)
    return archive


def check_contents(archive: Path) -> None:
    """Raises SystemExit if the zip lacks a file or contains one that does not belong there."""
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
    missing = [name for name in NEEDED if name not in names]
    foreign = [name for name in names if name.startswith(FOREIGN) or "__pycache__" in name]
    if missing or foreign:
        sys.exit(f"{archive.name}: missing {missing}, does not belong there {foreign[:8]}")
    if archive.stat().st_size > MAX_MIB * 2**20:
        sys.exit(f"{archive.name} is {archive.stat().st_size >> 20} MiB, more than {MAX_MIB} MiB.")


if __name__ == "__main__":
    print(build().relative_to(ROOT))
