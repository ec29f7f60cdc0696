"""Checkpoints that survive a kill at any instant, a full disk and damaged files.

Each is a folder `<stage>-<step>[-final]/` with `tensors.safetensors` and `meta.json`. It is written under a temporary
name, flushed and renamed, so every named checkpoint was complete once; a checksum shows whether it still is.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from recdreamer.job.errors import explain
from recdreamer.report import JobError
from recdreamer.shared.folder_lock import gone, identity
from recdreamer.shared.json_values import read_json
from recdreamer.shared.protocol import TEMPORARY
from recdreamer.shared.safe_files import read_bounded, reason_of

NAME = re.compile(r"(?P<stage>[a-z][a-z0-9_]*)-(?P<step>\d{8})(?P<final>-final)?")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a stage needs to resume."""

    stage: str
    step: int
    tensors: dict[str, Tensor]
    """On the CPU; the caller moves them."""
    meta: dict[str, Any]
    """Plain JSON values."""
    final: bool
    """The stage was complete."""


class CheckpointStore:
    """The checkpoints of one job. Keeps the `keep` newest of each stage, and the final one."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder = folder
        self.keep = keep
        self._job = identity(folder.parent) if folder.parent.is_dir() else None

    def save(
        self, stage: str, step: int, tensors: dict[str, Tensor], meta: dict[str, Any], final: bool = False
    ) -> Path:
        """Write a checkpoint, and only then remove old ones.

        Raises JobError "non_finite" if a tensor has NaN or infinity, "disk_full" if there is no room, and RequestError if
        the job folder was exchanged for another. The older checkpoints stay in all cases.
        """
        name = f"{stage}-{step:08d}{'-final' if final else ''}"
        if not NAME.fullmatch(name):
            raise ValueError(
                f"a stage must be lower-case letters, digits and _, and a step 0 to 99999999, got {name!r}"
            )
        _refuse_non_finite(stage, step, tensors)
        # Copied, because safetensors refuses tensors that share memory.
        data = save(
            {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
        )
        text = json.dumps({"meta": meta, "bytes": len(data), "crc32": zlib.crc32(data)}, allow_nan=False)

        self._check_job()
        self.folder.mkdir(exist_ok=True)  # Not its parents: a job that was deleted stays deleted.
        self._remove_leftovers()
        # Not by tempfile, whose folders are their owner's alone: a colleague may continue this job.
        temporary = self.folder / f"{TEMPORARY}{secrets.token_hex(6)}"
        try:
            temporary.mkdir()
            _write(temporary / "tensors.safetensors", data)
            _write(temporary / "meta.json", text.encode("utf-8"))
            path = self.folder / name
            if path.exists():
                path.rename(self.folder / f"{TEMPORARY}{name}")
            temporary.rename(path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise explain(error, f"the checkpoint of step {step}") from error
        _flush_folder(self.folder)
        self._remove_leftovers()
        self._prune(stage)
        return path

    def _check_job(self) -> None:
        """Raise RequestError if the job folder is another one by now: a job that was moved leaves nothing behind."""
        if self._job is not None:
            with suppress(OSError):
                if identity(self.folder.parent) != self._job:
                    raise gone(self.folder.parent)

    def newest(self, stage: str) -> Checkpoint | None:
        """The newest intact checkpoint of a stage. Damaged ones are skipped, with a line in the log."""
        for path, step, final in reversed(self._list(stage)):
            try:
                tensors, meta = _read(path)
            except (OSError, ValueError, KeyError, TypeError, OverflowError, SafetensorError) as error:
                print(f"Checkpoint {path.name} is damaged and skipped: {reason_of(error)}")
                continue
            return Checkpoint(stage, step, tensors, meta, final)
        return None

    def _list(self, stage: str) -> list[tuple[Path, int, bool]]:
        """(path, step, final) of a stage, oldest first."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        matches = [(path, match) for path in paths if (match := NAME.fullmatch(path.name))]
        found = [(path, int(m["step"]), m["final"] is not None) for path, m in matches if m["stage"] == stage]
        return sorted(found, key=lambda item: item[1:])

    def _prune(self, stage: str) -> None:
        passing = [path for path, _, final in self._list(stage) if not final]
        for path in passing[: -self.keep]:
            shutil.rmtree(path, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove unfinished entries of killed processes. A job folder has one worker, so none is in use."""
        for path in self.folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)


def _refuse_non_finite(stage: str, step: int, tensors: dict[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise JobError(
                "non_finite",
                f"Stage {stage} has infinite or undefined numbers at step {step} ({key}).",
                "The last good checkpoint is kept; try another seed or a lower learning rate.",
            )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta of a checkpoint. Raises ValueError if its content has changed."""
    header = read_json(path / "meta.json")
    data = read_bounded(path / "tensors.safetensors", header["bytes"])
    if len(data) != header["bytes"] or zlib.crc32(data) != header["crc32"]:
        raise ValueError("its checksum is wrong")
    if not isinstance(header["meta"], dict):
        raise ValueError("it has no meta")
    return load(data), header["meta"]


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power failure. Windows does so by itself."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
