"""The report of a diagnosis, to be sent to others: without personal paths. No bpy here."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

from .hardware import Machine


@dataclass(frozen=True)
class Row:
    """One check of the doctor."""

    check: str
    is_ok: bool
    text: str
    fix: str = ""
    """"install" if installing again may cure it, "data_folder" if another data folder may; else empty."""

    @classmethod
    def of(cls, message: Mapping[str, object]) -> Row:
        """From a line of `recdreamer doctor --json`."""
        return cls(
            str(message["check"]), bool(message["is_ok"]), str(message["text"]), str(message.get("fix", ""))
        )


def compose(
    rows: Iterable[Row], machine: Machine | None, facts: Mapping[str, str], folders: Mapping[str, Path]
) -> str:
    """The text of *Copy Report*. `facts` are lines such as the version of Blender; of `folders` only names are left."""
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines.append(f"System: {platform.system()} {platform.release()} {platform.machine()}")
    if machine is not None:
        for card in machine.cards:
            capability = "?" if card.capability is None else ".".join(map(str, card.capability))
            lines.append(
                f"Card: {card.name}, {card.memory_mib} MiB, driver {card.driver_text}, sm {capability}"
            )
        if machine.driver_problem:
            lines.append(f"Driver: {machine.driver_problem}")
    lines += [f"{'ok   ' if row.is_ok else 'FAIL '} {row.check}: {row.text}" for row in rows]
    return without_paths("\n".join(lines), folders) + "\n"


def without_paths(text: str, folders: Mapping[str, Path]) -> str:
    """The text without the places of this user.

    >>> without_paths("in /data/me/jobs", {"data folder": Path("/data/me")})
    'in <data folder>/jobs'
    """
    known = {**folders, "home": Path.home()}
    # The longest first: the data folder is often inside the home folder.
    for name, path in sorted(known.items(), key=lambda item: -len(str(item[1]))):
        for spelling in {str(path), path.as_posix()}:
            if len(spelling) > 1:
                text = text.replace(spelling, f"<{name}>")
    try:
        user = getuser()
    except (OSError, KeyError):
        user = ""
    return text.replace(f"/{user}/", "/<user>/").replace(f"\\{user}\\", "\\<user>\\") if user else text
