"""The documents name what exists: README's table of places, and every file in docs/architecture.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_where_is_table_points_at_what_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("## Where is…?")[1].split("\n## ")[0]
    paths = re.findall(r"`([^`]+)`", table)
    assert len(paths) >= 10
    paths += re.findall(r"\]\((?!https?:)([^)#]+)\)", readme)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def unnamed(folder: Path, page: str) -> list[str]:
    """Files and folders of a package that a page's tables leave out, and `name` in its tables that do not exist.

    A row begins with a folder or with files of the top level; the files of a folder are in the folder's own row.
    """
    rows = [re.findall(r"`([^`]+)`", row) for row in re.findall(r"^\| `.*$", page, re.MULTILINE)]
    named = set()
    for first, *others in rows:
        named |= {first, *(first + name if first.endswith("/") else name for name in others)}
    modules = [path.relative_to(folder) for path in folder.rglob("*.py") if path.name != "__init__.py"]
    there = {path.as_posix() for path in modules} | {
        f"{path.parts[0]}/" for path in modules if path.parts[1:]
    }
    there |= {f"{path.name}/" for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"}
    return sorted(there ^ named)


@pytest.mark.parametrize(
    "folder", [ROOT / "backend" / "recdreamer", ROOT / "addon"], ids=["backend", "addon"]
)
def test_the_page_on_architecture_names_every_file(folder):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Every file")[1]
    table = page.split(f"| `{folder.relative_to(ROOT).as_posix()}/` | content | files |")[1].split("\n\n")[0]
    assert unnamed(folder, table) == []


def test_a_file_that_the_page_leaves_out_is_seen(tmp_path):
    folder = tmp_path / "toy"
    (folder / "room").mkdir(parents=True)
    for name in ("__init__.py", "top.py", "room/__init__.py", "room/a.py", "room/b.py"):
        (folder / name).touch()
    assert unnamed(folder, "| `top.py` | |\n| `room/` | it has | `a.py`, `b.py` |") == []
    assert unnamed(folder, "| `top.py` | |\n| `room/` | it has | `a.py`, `gone.py` |") == [
        "room/b.py",
        "room/gone.py",
    ]
    assert unnamed(folder, "| `room/` | it has | `a.py`, `b.py` |") == ["top.py"]
    assert "room/" in unnamed(folder, "| `top.py` | |")


def names_in_prose(page: str) -> set[str]:
    """Paths of Python files in backticks outside of the tables of files."""
    return set(re.findall(r"`((?:\w+/)*\w+\.py)`", page.split("## Every file")[0]))


def test_the_prose_on_architecture_names_what_is_there():
    named = names_in_prose((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    there = {
        path.relative_to(ROOT).as_posix()
        for name in ("addon", "backend")
        for path in (ROOT / name).rglob("*.py")
    }
    assert len(named) > 50
    assert sorted(name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in there)) == []
