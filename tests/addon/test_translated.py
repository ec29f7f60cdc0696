"""Messages in German: sentences with arguments, parts of them, lists, and texts of several sentences."""

from __future__ import annotations

import doctest

import pytest
from recdreamer_extension.addon import trouble
from recdreamer_extension.addon.jobs import environment
from recdreamer_extension.addon.language import messages
from recdreamer_extension.addon.setup import builds, hardware, installation, remedies
from recdreamer_extension.backend.recdreamer.shared.prompt_words import ReadPrompt, doubts
from recdreamer_extension.backend.recdreamer.shared.protocol import JobRequest, RequestError, Template

GERMAN = messages.read_tables()["de_DE"]
TEMPLATES = messages.Templates(GERMAN)


def german(text: str) -> str:
    return messages.translated(text, lambda message: GERMAN.get(message, message), TEMPLATES)


@pytest.mark.parametrize(
    ("text", "translation"),
    [
        ("", ""),
        ("Stop", "Stoppen"),
        ("'Cube' has no faces. Add some, or pick another object.",
         "'Cube' hat keine Flächen. Welche hinzufügen oder ein anderes Objekt wählen."),
        ("'Front' is not a mesh.", "'Front' ist keine Masche."),  # A name is no text, whatever it is.
        ("Stage 2 of 4  ·  1 min 30 s left", "Stufe 2 von 4  ·  noch 1 min 30 s"),
        ("Shape  5 / 100  ·  3.20 it/s", "Form  5 / 100  ·  3.20 it/s"),
        ("1.2 of 2.7 GB  ·  2 min 10 s left", "1.2 von 2.7 GB  ·  noch 2 min 10 s"),
        ("3 faces cross the border of their UV tile.", "3 Flächen überschreiten den Rand ihrer UV-Kachel."),
        ("1 face lies in UV tile 1002, without any area there.",
         "1 Fläche liegt in UV-Kachel 1002, dort ohne jeden Flächeninhalt."),
        ("'A' has a new mesh: its vertex groups were transferred to the nearest vertices, and it lost the shape keys, "
         "seams and UV map 'B' of the old mesh.",
         "'A' hat eine neue Masche: seine Punktgruppen wurden auf die nächsten Punkte übertragen, und aus der alten "
         "Masche fehlen nun Formschlüssel, Nähte und UV-Map 'B'."),
        ("3 jobs, measuring…. This cannot be undone.",
         "3 Aufträge, wird gemessen …. Das lässt sich nicht rückgängig machen."),
        ("The view from back left", "The view from back left"),  # None of ours.
    ],
)  # fmt: skip
def test_german(text, translation):
    assert german(text) == translation


def error_of(function, *arguments) -> str:
    with pytest.raises(RequestError) as caught:
        function(*arguments)
    return str(caught.value)


def test_messages_that_the_code_makes_are_recognized():
    """None of their words stays English. Each is from another room, and none knows of languages."""
    machine = hardware.Machine("linux", "x86_64", cards=(hardware.Card("GTX 1080", (570, 0), (6, 1), 8192),))
    made = [
        trouble.explain(OSError(28, "x", "/data"), "Import"),
        trouble.explain(MemoryError(), "Generate"),
        str(environment.NOT_INSTALLED[0]),
        builds.choose(machine).sentence,
        installation.describe_size(builds.BUILDS[0]),
        remedies.explain("error: No space left on device (os error 28)", "Installing").sentence,
        remedies.explain("something odd", "Installing").sentence,
        doubts(ReadPrompt("a b", ("shiny", "cute"), (), 0, False), "builtin"),
        error_of(JobRequest("").validate),
        error_of(JobRequest("a bear", device="tpu").validate),
        error_of(JobRequest("a bear", templates=(Template("front", "../a.png"),)).validate),
    ]
    english = {" the ", " is ", " of ", " not ", " and ", " failed", "Downloads", "Choose ", "Give "}
    for text in made:
        found = german(text)
        assert found != text and not [word for word in english if word in f" {found} "], (text, found)


def test_each_translation_is_formatted():
    """Each template takes its arguments, and what Blender would cut has no odd spaces."""
    for message, translation in GERMAN.items():
        assert translation == translation.strip(), message
        places = messages.PLACE.findall(message)
        if places:
            text = message.replace("{{", "{").replace("}}", "}")
            for place in places:
                text = text.replace(f"{{{place}}}", "3")
            assert "{" not in german(text), (message, german(text))


def test_a_damaged_table_is_left_out(tmp_path, capsys):
    (tmp_path / "de_DE.po").write_text('msgid "Stop"\nmsgstr "Stoppen"\n', "utf-8")
    (tmp_path / "fr_FR.po").write_text("<<<<<<< HEAD\n", "utf-8")
    (tmp_path / "it_IT.po").write_bytes(b'msgid "\xff"\n')
    (tmp_path / "nl_NL.po").write_text('msgid "Stop\n', "utf-8")
    assert messages.read_tables(tmp_path) == {"de_DE": {"Stop": "Stoppen"}}
    assert capsys.readouterr().err.count("is left out") == 3


def test_a_table_that_is_none():
    with pytest.raises(ValueError, match="no line of a PO file: nonsense"):
        messages.read_table("nonsense")


def test_examples():
    found = doctest.testmod(messages)
    assert found.failed == 0 and found.attempted >= 4
