"""The interface in another language: every text of a class is in the table, reports and tooltips speak it, nothing stays.

What panels draw is walked in test_widths.py, in all their states.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import SimpleNamespace

import addon_utils
import bpy
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = "bl_ext.user_default.recdreamer"
DATA = {
    "RecDreamer", "Stable Diffusion", "QuadriFlow", "ConsDreamer", "Perp-Neg", "Debiased SDS", "Python", "CPU", "UVMap",
    "A / B", "+X", "-X", "+Y", "-Y", "SDS-Bridge", "Name of the preset, used to make the path name",
}  # fmt: skip
"""Names, which are the same in every language."""


def classes() -> list[type]:
    """All classes that the extension has registered."""
    found, left = [], [bpy.types.bpy_struct]
    while left:
        for cls in left.pop().__subclasses__():
            left.append(cls)
            if cls.__module__.startswith(MODULE) and getattr(cls, "is_registered", False):
                found.append(cls)
    return found


def texts_of(cls: type) -> list[str]:
    """What Blender may show of a class: label, tooltip, and those of its properties and their choices."""
    rna = cls.bl_rna
    if issubclass(cls, bpy.types.Operator):
        module, name = cls.bl_idname.split(".")
        rna = getattr(getattr(bpy.ops, module), name).get_rna_type()
    own = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
    is_drawn = issubclass(cls, (bpy.types.PropertyGroup, bpy.types.AddonPreferences))
    found = [] if is_drawn else [getattr(cls, "bl_label", ""), rna.description]
    for prop in rna.properties:
        if prop.identifier in own and prop.name != prop.identifier and not prop.is_hidden:
            found += [prop.name, prop.description]
            if prop.type == "ENUM":
                found += [text for item in prop.enum_items_static for text in (item.name, item.description)]
    return found


def own_properties() -> list[bpy.types.Property]:
    """The properties that the add-on gives to Blender's own classes."""
    owners = (bpy.types.WindowManager, bpy.types.Scene)
    return [
        prop
        for owner in owners
        for prop in owner.bl_rna.properties
        if prop.identifier.startswith("recdreamer")
    ]


def test_every_text_of_every_class_is_in_the_tables(extension, addon):
    tables = addon("language.messages").read_tables()
    texts = {text for cls in classes() for text in texts_of(cls)}
    texts |= {text for prop in own_properties() for text in (prop.name, prop.description)}
    texts -= {prop.identifier for prop in own_properties()}
    texts = {text for text in texts if any(letter.isalpha() for letter in text)} - DATA
    assert len(texts) > 300
    for language, table in tables.items():
        missing = sorted(texts - table.keys())
        assert not missing, f"{language} has not: {missing}"


def test_operators_and_panels_look_up_their_own_words(extension, addon):
    """In Blender's German, "History" and "Pin" of other editors mean something else."""
    context = addon("language.translation").CONTEXT
    for cls in classes():
        if issubclass(cls, (bpy.types.Operator, bpy.types.Panel)):
            assert cls.bl_translation_context == context, cls


def test_reports_and_reasons_and_tooltips(extension, addon, speak, settings):
    speak("de_DE")
    settings.prompt = ""
    with pytest.raises(RuntimeError, match=r"Der Prompt ist leer\. Das Objekt beschreiben"):
        bpy.ops.recdreamer.generate_job()
    with pytest.raises(RuntimeError, match="Es wird nichts gezeichnet oder geprüft"):
        bpy.ops.recdreamer.cancel_errand()
    operator = addon("operators.stop").RECDREAMER_OT_cancel

    class Properties:
        then = "DELETE"

        def is_property_set(self, name: str) -> bool:
            return True

    assert operator.description(bpy.context, Properties()).startswith("Stoppen und diesen Auftrag")


def test_the_shown_text_is_not_what_is_kept(extension, addon, speak, settings):
    """Messages stay English where they are made, so that a job folder can go to anyone."""
    speak("de_DE")
    settings.prompt = ""
    settings.start.kind = "object"
    with pytest.raises(ValueError, match="No object is picked") as error:
        settings.to_request()
    assert (
        addon("language.translation")
        .say(str(error.value))
        .startswith("Es ist kein Objekt als Start gewählt.")
    )


def test_reports_go_through_the_table():
    """`report` is called in one place alone, which translates."""
    found = [
        f"{path.name}:{node.lineno}"
        for path in sorted((ROOT / "addon").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "report"
    ]
    assert [name.partition(":")[0] for name in found] == ["guarded.py"], found


def test_the_table_goes_with_the_extension(extension, addon, monkeypatch):
    done = []
    blender = SimpleNamespace(
        locale="", register=lambda name, table: done.append((name, len(table))), unregister=done.append
    )
    monkeypatch.setattr(addon("language.translation"), "_blender", blender)
    package = addon("language.translation").__package__
    addon_utils.disable(MODULE, default_set=True)
    assert done == [package]
    addon("language.translation").register()
    assert done[1:] == [(package, 1)]
    addon("language.translation").unregister()
    monkeypatch.undo()
    addon_utils.enable(MODULE, default_set=True)


def test_poses_are_shown_in_the_language_and_kept_in_english(
    draw, fake_backend, block_out, addon, pump_until, speak, generate
):
    bpy.ops.recdreamer.capture_turntable(num_views=4)
    card, own = bpy.context.scene.recdreamer.templates[0], bpy.context.scene.recdreamer.templates[3]
    own.label = "three quarters"
    assert card.shown_label == "front"
    speak("de_DE")
    addon("session").pump()
    assert (card.label, card.shown_label) == ("front", "vorne") and own.shown_label == "three quarters"
    card.shown_label = " Rechts"
    assert card.label == "right"
    assert card.shown_label == "rechts"
    card.shown_label = "front"
    assert (card.label, card.shown_label) == ("front", "vorne") and card.key[1] == "front"
    card.label = "left"
    assert card.shown_label == "links"
    card.label = "front"
    bpy.ops.recdreamer.check_templates()
    pump_until(lambda: not addon("session").session.errand.task.is_running)
    generate()
    shown = " ".join(" ".join(draw().texts).split())
    # The verdicts and the advice of the check, and the bars of the job.
    assert "vorne 75 %" in shown and "hinten 22 %" in shown
    assert "Diese Ansicht sieht wie vorne aus, heißt aber hinten." in shown
    assert "Vorne und links lassen sich nicht unterscheiden." in shown
    assert "front" not in shown and "back " not in shown and "left" not in shown
    speak("")
    assert "label" in draw().props, "until the timer has looked"
    addon("session").pump()
    assert card.shown_label == "front" and "front  75 %" in draw().texts
    own.label = "LEFT"
    assert own.label == "LEFT" and own.shown_label == "LEFT"


def test_the_pose_of_a_message(extension, addon, speak):
    speak("de_DE")
    say = addon("language.translation").say
    assert say("The image of template 'left' is missing.") == "Das Bild der Vorlage 'links' fehlt."
    assert say("Name its pose, for example: front.") == "Ihre Pose benennen, zum Beispiel: vorne."
    assert addon("language.translation").poses("front, three quarters") == "vorne, three quarters"
