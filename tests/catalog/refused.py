"""The sentence with which a model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recdreamer.catalog.check_model import check_model
from recdreamer.shared.protocol import RequestError


def refusal(path: Path, kind: Any = None) -> str:
    with pytest.raises(RequestError) as caught:
        check_model(path, kind)
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    assert "\n" not in caught.value.message
    return caught.value.message
