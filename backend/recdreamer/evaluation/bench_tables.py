"""The tables of `recdreamer bench field` by name: all that the command line needs before torch is loaded."""

from __future__ import annotations

from typing import Literal

FieldTable = Literal["hash-grid", "resolution", "samples", "grid-size", "faces"]
