"""Every text of the interface is in every table of translations, and the extraction sees new ones."""

from __future__ import annotations

import ast
import doctest
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import translations
from translations import messages as tables

HEAD = 'msgid ""\nmsgstr ""\n"Language: de\\n"'


def strings_of(code: str) -> list[str]:
    tree = ast.parse(code)
    found = [*translations.strings_of(tree), *translations.tooltips_of(tree)]
    return [text for _, text in found if translations.is_text(text) and text not in translations.NOT_TEXT]


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return translations.messages_of()


@pytest.mark.parametrize("path", sorted(translations.LOCALE.glob("*.po")), ids=lambda path: path.stem)
def test_every_text_is_translated(found, path):
    """If this fails: python3 tools/translations.py update, then translate what is empty."""
    text = path.read_text("utf-8")
    table = tables.read_table(text)
    assert translations.faults_of(table, found) == []
    again = translations.written(found, translations.kept_in(text) | table, text[: text.index("\n\n")])
    assert again == text, "not as the tool writes it"


def test_nothing_is_said_to_be_no_text_that_nobody_has():
    everything = set()
    for _, tree in translations._trees(translations.CHECKOUT):
        everything |= {text for _, text in translations.strings_of(tree)}
    assert everything >= translations.NOT_TEXT


@pytest.mark.parametrize(
    ("code", "texts"),
    [
        ('layout.label(text="Stop Now")', ["Stop Now"]),
        ('layout.label(text=f"{n} jobs wait")', ["{0} jobs wait"]),
        ('class RECDREAMER_OT_a:\n    """Do it"""\n    bl_label = "Act"', ["Act", "Do it"]),
        ('x: EnumProperty(name="Kind", items=(("A", "Both", "Take both"),))', ["Kind", "Both", "Take both"]),
        ("f\"{n} {'face is' if n == 1 else 'faces are'} flat\"", ["{0} face is flat", "{0} faces are flat"]),
        ('f"{a}  ·  {b} left"', ["{0} left"]),
        ('def f() -> "Some Type":\n    """Not this."""\n    if x == "No Text": y = d["Base Color"]', []),
        ('re.compile("a b c"), layout.prop(a, "b", icon="NONE")', []),
    ],
)
def test_a_new_text_is_seen(code, texts):
    assert sorted(strings_of(code)) == sorted(texts)


def test_faults_of_a_table():
    found = {"{0} is gone.": "a.py", "Stop": "a.py", "New": "a.py"}
    table = {"{0} is gone.": "{1} ist weg.", "Stop": "", "Old": "Alt"}
    assert translations.faults_of(table, found) == [
        "a.py has a new text: 'New'",
        "no file has it any more: 'Old'",
        "has a place that the text has not: '{1} ist weg.'",
        "not translated: 'Stop'",
    ]


def test_a_text_that_comes_back_has_its_translation_again():
    text = translations.written({"Stop": "a.py"}, {"Stop": "Stoppen", "Go": "Los"}, HEAD)
    assert tables.read_table(text) == {"Stop": "Stoppen"} and translations.kept_in(text) == {"Go": "Los"}
    again = translations.kept_in(text) | tables.read_table(text)
    assert tables.read_table(translations.written({"Go": "a.py"}, again, HEAD)) == {"Go": "Los"}


def test_what_is_written_is_read_again():
    table = {'say "no"\n': 'sag „"nein"“\n', "a\\b": "ü"}
    assert tables.read_table(translations.written(dict.fromkeys(table, "a.py"), table, HEAD)) == table


def test_examples():
    found = doctest.testmod(translations)
    assert found.failed == 0 and found.attempted >= 5
