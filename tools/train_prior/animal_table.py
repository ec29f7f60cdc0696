"""Which animals there are: kind -> mesh of the package -> words of a coat -> texture.

Every pair was looked at from four sides. Left out are birds in flight and shoals, which are flat or many; actors that
share mesh and texture with another; carcasses.
"""

from __future__ import annotations

_HORSE_COATS = {
    "brown": "horse_brown", "black": "horse_black", "beige": "horse_beige", "chestnut": "horse_cherrybay",
    "white": "horse_white", "gray": "horse_gray", "golden": "horse_bay_02",
}  # fmt: skip
_CATTLE_COATS = {
    "gray": "animal_zebu", "black": "animal_zebu_black", "brown": "animal_zebu_brown",
    "black and white": "animal_zebu_black_and_white", "brown and white": "animal_zebu_white_and_brown",
}  # fmt: skip
_DEER_COATS = {"gray": "animal_deer_01", "brown": "animal_deer_02", "red": "animal_deer_03"}
_GOAT_COATS = {
    "gray": "animal_goat_grey", "brown": "animal_goat", "black": "animal_goat_black", "white": "animal_goat_white",
}  # fmt: skip
_RABBIT_COATS = {
    "gray": "animal_rabbit_04", "white": "animal_rabbit_05", "dark brown": "animal_rabbit_02",
    "brown": "animal_rabbit_01",
}  # fmt: skip

_SKINS: dict[str, dict[str, dict[str, str]]] = {
    "bear": {
        "skeletal/bear": {"black": "animal_bear_black", "brown": "animal_bear_brown"},
        "skeletal/bear_polar": {"white": "animal_bear_white"},
    },
    "boar": {"skeletal/animal_boar": {"brown": "animal_boar_01"}},
    "bull": {"skeletal/bull_a": {"black": "animal_cattle_black"}},
    "camel": {"skeletal/camel": {"red": "animal_camel_a", "beige": "animal_camel_b", "brown": "animal_camel_c"}},
    "chicken": {"skeletal/chicken": {"red": "animal_chicken.dds", "spotted": "animal_chicken_b.dds"}},
    "cow": {
        "skeletal/cattle_female_a": {
            "black and white": "animal_cattle_black_and_white", "beige": "animal_cattle_beige",
            "brown and white": "animal_zebu_white_and_brown",
        }
    },
    "crocodile": {"skeletal/Croc": {"green": "animal_crocodile"}},
    "deer": {"skeletal/deer_mesh": _DEER_COATS},
    "stag": {"gaia/temp_deer_1": _DEER_COATS},
    "donkey": {"skeletal/donkey": {"gray": "animal_donkey.dds"}},
    "dragon": {"skeletal/dragon": {"green": "animal_dragon.dds"}},
    "elephant": {
        "skeletal/elephant_african_bush": {"gray": "animal-elephant-base.dds"},
        "skeletal/elephant_asian_male": {"brown": "animal-elephant-asian-base"},
    },
    "calf": {"skeletal/elephant_african_baby": {"gray": "animal-elephant-base-baby.dds"}},
    "fox": {"skeletal/fox": {"red": "animal_fox_red", "white": "animal_fox_arctic"}},
    "gazelle": {"skeletal/deer_mesh": {"brown and white": "animal_gazelle_02.dds"}},
    "giraffe": {"skeletal/giraffe_adult": {"spotted": "animal_giraffe", "dark spotted": "animal_giraffeb"}},
    "goat": {"skeletal/goat": _GOAT_COATS},
    "ibex": {"skeletal/goat_male": _GOAT_COATS},
    "hippo": {"skeletal/fauna_hippopotamus": {"gray": "fauna_hippopotamus_02", "blue": "fauna_hippopotamus_01"}},
    "horse": {
        "skeletal/horse_celtic": {**_HORSE_COATS, "skewbald": "horse_skewbald"},
        "skeletal/horse_persian": {"spotted": "horse_cream_spotted_02", "dark brown": "horse_dark_chestnut"},
    },
    "pony": {"skeletal/pony": {"brown": "horse_brown", "beige": "horse_beige", "golden": "horse_bay_02"}},
    "lion": {"skeletal/animal_lion": {"golden": "animal_lion"}},
    "lioness": {"skeletal/animal_lioness": {"golden": "animal_lioness"}},
    "dog": {"skeletal/mastiff_no_spikes": {"beige": "brit/mastiff_b_01", "gray": "brit/mastiff_b_02"}},
    "muskox": {"skeletal/muskox": {"brown": "animal_muskox"}},
    "peacock": {"skeletal/peacock": {"blue": "animal_peacock"}},
    "pig": {
        "skeletal/pig": {
            "pink": "animal_pig_01", "spotted": "animal_pig_03", "brown": "animal_pig_c", "black": "animal_pig_e",
        }
    },
    "rabbit": {"skeletal/rabbit_01": _RABBIT_COATS},
    "rhino": {"skeletal/rhino": {"gray": "animal_rhino"}},
    "ox": {"skeletal/sanga_cattle_a": _CATTLE_COATS},
    "shark": {"skeletal/shark": {"gray": "animal_shark.dds", "black": "animal_sharkdark.dds"}},
    "sheep": {"skeletal/sheep": {"white": "animal_sheep_no_player_color_a.dds"}},
    "tiger": {"skeletal/tiger": {"striped": "animal_tiger"}},
    "tuna": {"skeletal/animal_tuna": {"silver": "animal_tuna"}},
    "walrus": {"skeletal/walrus": {"brown": "animal_walrus.dds"}},
    "whale": {"skeletal/whale": {"blue": "animal_whale.dds"}},
    "wildebeest": {"skeletal/wildebeest_adult": {"brown": "animal_wildebeest.dds"}},
    "wolf": {
        "skeletal/wolf": {"brown": "animal_wolf", "gray": "animal_wolf_grey", "white": "animal_wolf_white"}
    },
    "zebra": {"skeletal/zebra": {"striped": "animal_zebra.dds"}},
    "zebu": {"skeletal/zebu": {k: v for k, v in _CATTLE_COATS.items() if k != "brown and white"}},
}  # fmt: skip


def _texture(name: str) -> str:
    """The file of a texture: most are PNGs in the sources of the game."""
    return f"skeletal/{name}" if name.endswith(".dds") else f"skeletal/{name}.png"


COATS = {
    kind: {mesh: {coat: _texture(name) for coat, name in coats.items()} for mesh, coats in meshes.items()}
    for kind, meshes in _SKINS.items()
}

KEPT_FOR_TESTS = {
    ("rhino", "gray"), ("horse", "gray"), ("goat", "black"), ("rabbit", "brown"), ("zebu", "brown"),
    ("bear", "white"),
}  # fmt: skip
"""Not in any training picture: (kind, coat)."""
KEPT_FROM_JUDGES = {
    ("camel", "beige"), ("wolf", "gray"), ("pig", "brown"), ("deer", "red"), ("cow", "beige"),
    ("ox", "black"),
}  # fmt: skip
"""In the denoiser's pictures, but not in those of the extractor and of the oracle."""
