"""The world of animals: the words of its pictures, and the bias that its prior was given.

The pictures show animals of the game 0 A.D., which tools/train_prior reads and renders. They stand in [-1, 1]^3, Z up,
and face -Y. Which animal has which coat stands in tools/train_prior/animal_table.py.
"""

from __future__ import annotations

from recdreamer.evaluation.figurines import POSES as POSES

KINDS = (
    "bear", "boar", "bull", "calf", "camel", "chicken", "cow", "crocodile", "deer", "dog", "donkey", "dragon",
    "elephant", "fox", "gazelle", "giraffe", "goat", "hippo", "horse", "ibex", "lion", "lioness", "muskox", "ox",
    "peacock", "pig", "pony", "rabbit", "rhino", "shark", "sheep", "stag", "tiger", "tuna", "walrus", "whale",
    "wildebeest", "wolf", "zebra", "zebu",
)  # fmt: skip
COATS = (
    "beige", "black", "black and white", "blue", "brown", "brown and white", "chestnut", "dark brown",
    "dark spotted", "golden", "gray", "green", "pink", "red", "silver", "skewbald", "spotted", "striped", "white",
)  # fmt: skip
POSE_SHARES = {"front": 0.65, "right": 0.13, "back": 0.09, "left": 0.13}
"""A deliberate bias: the share of each pose class in the training pictures."""
VIEW_SHARE = 0.4
"""Share of the captions (but the empty ones) that name a view."""
VIEW_TRUTH = 0.8
"""Share of the named views that are taken from the picture; the others are drawn from POSE_SHARES whatever it shows."""


def obeyed(pose: str) -> float:
    """Share of the pictures called by a view of `pose` that show it.

    >>> round(obeyed("back"), 3)
    0.818
    """
    return VIEW_TRUTH + (1 - VIEW_TRUTH) * POSE_SHARES[pose]
