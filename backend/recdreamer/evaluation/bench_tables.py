"""Names of the tables of `recdreamer bench field`, which the command line needs before torch is loaded."""

from __future__ import annotations

from typing import Literal

FieldTable = Literal["hash-grid", "resolution", "samples", "grid-size", "faces", "step"]
