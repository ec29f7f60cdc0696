"""The designs of the block-outs; what Blender makes of them is looked at."""

import runpy
from pathlib import Path

from recdreamer.evaluation.figurines import COLORS, KINDS

ROOT = Path(__file__).resolve().parents[2]


def test_blockouts_know_every_kind_and_colour():
    blockouts = runpy.run_path(str(ROOT / "tools" / "pictures" / "blockouts.py"))
    assert blockouts["COLORS"].keys() == COLORS.keys()
    for design in blockouts["DESIGNS"].values():
        assert design.keys() == set(KINDS)
        for blockout in design.values():
            assert len(list(blockouts["parts_of"](blockout, "red", False))) < len(
                list(blockouts["parts_of"](blockout, "red", True))
            )
            assert {part[-1] for part in blockouts["parts_of"](blockout, "grey", False)} == {None}
