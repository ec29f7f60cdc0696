"""The next step for each kind of trouble, as a button: one table, for errors of jobs and for grayed-out buttons.

The kinds are those of the protocol (ErrorKind). No bpy here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cure:
    """A button that leads to the cure."""

    operator: str
    label: str
    icon: str
    properties: Mapping[str, str] = field(default_factory=dict)
    needs_job: bool = False
    """It acts on the job that has failed, so it is no cure for a grayed-out button."""


_PREFERENCES = "recdreamer.open_preferences"
_SET_UP = Cure(_PREFERENCES, "Set Up", "PREFERENCES")
_CHOOSE_MODEL = Cure(_PREFERENCES, "Choose Model", "PRESET")
_CHOOSE_FOLDER = Cure(_PREFERENCES, "Choose Folder", "FILE_FOLDER")
_GET_MODEL = Cure("recdreamer.get_model", "Get Model", "IMPORT")
_TRY_AGAIN = Cure("recdreamer.get_model", "Try Again", "FILE_REFRESH")
_OPEN_LOG = Cure("recdreamer.open_log", "Open Log", "TEXT", needs_job=True)
_NEW_SEED = Cure("recdreamer.retry", "Retry with New Seed", "FILE_REFRESH", {"change": "seed"}, True)

CURES: Mapping[str, Cure] = {
    "request": Cure("recdreamer.use_settings", "Edit Settings", "LOOP_BACK", needs_job=True),
    "prompt": Cure("recdreamer.example_prompt", "Use an Example", "OUTLINER_OB_FONT"),
    "template": Cure("recdreamer.show_template", "Show Template", "IMAGE_DATA"),
    "start": Cure("recdreamer.start_from_active", "Use Active Object", "RESTRICT_SELECT_OFF"),
    "mode": Cure("object.mode_set", "Object Mode", "OBJECT_DATAMODE", {"mode": "OBJECT"}),
    "running": Cure("recdreamer.show_running", "Show Job", "PLAY"),
    "not_installed": _SET_UP,
    "outdated": Cure(_PREFERENCES, "Update Backend", "FILE_REFRESH"),
    "install": _SET_UP,
    "missing_package": _SET_UP,
    "device": Cure(_PREFERENCES, "Choose Device", "PREFERENCES"),
    "cluster": Cure(_PREFERENCES, "Choose Where to Run", "PREFERENCES"),
    "out_of_memory": Cure("recdreamer.retry", "Retry Smaller", "FULLSCREEN_EXIT", {"change": "smaller"}, True),
    "model_missing": _GET_MODEL,
    "prior": _CHOOSE_MODEL,
    "extractor": _CHOOSE_MODEL,
    "decoder": _CHOOSE_MODEL,
    "classifier": _CHOOSE_MODEL,
    "masked_lm": _CHOOSE_MODEL,
    "novel_views": _CHOOSE_MODEL,
    "unusable": _CHOOSE_MODEL,
    "license": Cure("recdreamer.get_model", "Read License", "TEXT"),
    "offline": Cure("screen.userpref_show", "Allow Online Access", "URL", {"section": "SYSTEM"}),
    **dict.fromkeys(
        ("name", "network", "timeout", "proxy", "certificate", "portal", "access", "not_found", "changed", "checksum"),
        _TRY_AGAIN,
    ),
    "disk_full": Cure(_PREFERENCES, "Free Space", "DISK_DRIVE"),
    "not_writable": _CHOOSE_FOLDER,
    "busy": Cure("recdreamer.resume", "Try Again", "FILE_REFRESH", needs_job=True),
    **dict.fromkeys(
        ("missing", "file", "text", "folder", "checkpoint", "number", "evaluate", "processes", "internal"), _OPEN_LOG
    ),
    "non_finite": _NEW_SEED,
    "empty_field": _NEW_SEED,
    "full_field": _NEW_SEED,
}  # fmt: skip


def cure_of(kind: str, *, has_job: bool) -> Cure | None:
    """The next step for an ErrorKind; None if there is none without a job. Of a kind unknown here, it is the log.

    >>> cure_of("out_of_memory", has_job=True).label, cure_of("from the future", has_job=True).label
    ('Retry Smaller', 'Open Log')
    >>> cure_of("internal", has_job=False)
    """
    cure = CURES.get(kind, _OPEN_LOG)
    return None if cure.needs_job and not has_job else cure
