"""The embedded worlds: the names of the priors that ship, and the words that they know. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .protocol import BUILTIN_PRIOR

EMBEDDED = Path(__file__).parents[1] / "builtin"
"""Where the models that ship stand."""
ANIMALS: dict[str, tuple[str, ...]] = {
    "bear": ("black", "brown"),
    "boar": ("brown",),
    "bull": ("black",),
    "calf": ("gray",),
    "camel": ("red", "beige", "brown"),
    "chicken": ("red", "spotted"),
    "cow": ("black and white", "beige", "brown and white"),
    "crocodile": ("green",),
    "deer": ("gray", "brown", "red"),
    "dog": ("beige", "gray"),
    "donkey": ("gray",),
    "dragon": ("green",),
    "elephant": ("gray", "brown"),
    "fox": ("red", "white"),
    "gazelle": ("brown and white",),
    "giraffe": ("spotted", "dark spotted"),
    "goat": ("gray", "brown", "white"),
    "hippo": ("gray", "blue"),
    "horse": ("brown", "black", "beige", "chestnut", "white", "golden", "skewbald", "spotted", "dark brown"),
    "ibex": ("gray", "brown", "black", "white"),
    "lion": ("golden",),
    "lioness": ("golden",),
    "muskox": ("brown",),
    "ox": ("gray", "black", "brown", "black and white", "brown and white"),
    "peacock": ("blue",),
    "pig": ("pink", "spotted", "brown", "black"),
    "pony": ("brown", "beige", "golden"),
    "rabbit": ("gray", "white", "dark brown"),
    "shark": ("gray", "black"),
    "sheep": ("white",),
    "stag": ("gray", "brown", "red"),
    "tiger": ("striped",),
    "tuna": ("silver",),
    "walrus": ("brown",),
    "whale": ("blue",),
    "wildebeest": ("brown",),
    "wolf": ("brown", "gray", "white"),
    "zebra": ("striped",),
    "zebu": ("gray", "black", "black and white"),
}
"""The coats of each animal that the prior has seen; tools/train_prior/animal_table.py has those kept for tests, too."""
_COLORS: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "teal")
_FIGURINES: dict[str, tuple[str, ...]] = dict.fromkeys(("bear", "bird", "robot", "rabbit"), _COLORS)


@dataclass(frozen=True)
class World:
    """A prior, an extractor and an oracle that were trained on pictures of the same things."""

    name: str
    """What `--prior` calls it."""
    folder: str
    """Below that of the embedded models."""
    looks: dict[str, tuple[str, ...]]
    """Colours or coats of each thing that the prior knows."""
    about: str
    """What it is, in a sentence for the artist."""
    knows: str
    """What it knows, when a prompt has other words."""

    @property
    def title(self) -> str:
        """What the panel calls it as the built-in model.

        >>> WORLDS["figurines"].title
        'Built-in (Figurines)'
        """
        return f"Built-in ({self.name.capitalize()})"

    def models(self, default: Path) -> Path:
        """Where this world has the model that stands at `default` in the folder of the embedded models.

        >>> WORLDS["animals"].models(Path("builtin/prior")).as_posix()
        'builtin/animals/prior'
        """
        return default.parent / self.folder / default.name

    @property
    def prompts(self) -> list[str]:
        """A prompt for everything that the prior knows.

        >>> WORLDS["figurines"].prompts[:2], WORLDS["animals"].prompts[-1]
        (['a red bear', 'a green bear'], 'a black and white zebu')
        """
        return [described(thing, look) for thing, looks in self.looks.items() for look in looks]


WORLDS = {
    world.name: world
    for world in (
        World(
            "figurines", "", _FIGURINES,
            "A demonstration: draws figurines of four kinds in six colors, nothing else.",
            "It knows bears, birds, rabbits and robots in red, green, blue, yellow, purple and teal.",
        ),
        World(
            "animals", "animals", ANIMALS,
            f"Draws {len(ANIMALS)} animals in their coats, nothing else.",
            "It knows animals such as bears, elephants, horses, lions and zebras, and coats such as brown, white, black "
            "and white, spotted and striped.",
        ),
    )
}  # fmt: skip
DEFAULT_WORLD = WORLDS["figurines"]
"""What `builtin` means."""


def world_of(model: str) -> World | None:
    """The world of an embedded model by its name; None if the name means another model.

    >>> world_of("builtin").name, world_of("animals").name, world_of("stabilityai/sd-turbo")
    ('figurines', 'animals', None)
    """
    return DEFAULT_WORLD if model == BUILTIN_PRIOR else WORLDS.get(model)


def described(thing: str, look: str = "") -> str:
    """
    >>> described("elephant"), described("ox", "brown"), described("tiger", "striped")
    ('an elephant', 'a brown ox', 'a striped tiger')
    """
    words = f"{look} {thing}".strip()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
