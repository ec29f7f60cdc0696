"""Names that the command line needs before torch is loaded."""

from __future__ import annotations

from typing import Literal

FieldTable = Literal["hash-grid", "resolution", "samples", "grid-size", "faces", "step"]
"""Of `recdreamer bench field`."""
OracleName = Literal["auto", "templates", "embedded", "clip", "orient", "none"]
"""Of `recdreamer evaluate janus`."""
