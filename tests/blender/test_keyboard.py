"""The keyboard reaches everything: one menu has all actions, F3 finds them by their names, and no shortcut clashes."""

from __future__ import annotations

import ast
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import bpy
import pytest

from .objects import reported
from .recorder import RecorderLayout

FOR_SCRIPTS = {"generate_job", "wait_for_job", "use_preset"}
"""Operators that no menu has, because the panel offers the same in another form."""
ONLY_WHEN_ASKED = {
    "accept_license", "read_license", "cancel_models", "dismiss_models",  # Below Get Stable Diffusion.
    "cancel_backend_task", "open_install_log", "copy_report", "remove_backend", "remove_model",
}  # fmt: skip
"""Operators beside what they are about, in the preferences; Tab and Enter reach them there."""


def operators() -> set[str]:
    return set(dir(bpy.ops.recdreamer))


def menu_tree(name: str) -> tuple[list[str], list[str]]:
    """All operators and menus below a menu, as F3 walks it."""
    seen, found, left = [], [], [name]
    while left:
        menu = left.pop(0)
        if menu in seen or not menu.startswith("RECDREAMER_"):
            continue
        seen.append(menu)
        cls, layout = getattr(bpy.types, menu), MenuLayout()
        if menu == "RECDREAMER_MT_presets":
            continue  # Blender's own list of files.
        fake = SimpleNamespace(layout=layout)
        for part in ("_draw_item", "kind", "default"):
            if hasattr(cls, part):
                value = getattr(cls, part)
                setattr(fake, part, value.__get__(fake) if callable(value) else value)
        templates = bpy.context.scene.recdreamer.templates
        context = SimpleNamespace(
            scene=bpy.context.scene, recdreamer_template=templates[0] if templates else None
        )
        cls.draw(fake, context)
        found += layout.record.operators
        left += layout.record.menus
    return found, seen


class MenuLayout(RecorderLayout):
    """Records submenus, too."""

    def __init__(self, record=None):
        super().__init__(record)
        if not hasattr(self.record, "menus"):
            self.record.menus = []

    def __getattr__(self, name):
        inherited = super().__getattr__(name)

        def call(*args, **kwargs):
            if name == "menu":
                self.record.menus.append(args[0])
            made = inherited(*args, **kwargs)
            return MenuLayout(self.record) if isinstance(made, RecorderLayout) else made

        return call


def test_one_menu_has_every_action(settings, block_out, addon, settle, pump_until):
    bpy.ops.recdreamer.capture_turntable(num_views=1)
    bpy.ops.recdreamer.generate(overrides=json.dumps({"steps": 3}))
    settle()
    bpy.ops.recdreamer.draw_samples()
    pump_until(lambda: addon("session").session.gallery)
    found, menus = menu_tree(addon("panels.actions").MENU)
    names = {name.removeprefix("recdreamer.") for name in found if name.startswith("recdreamer.")}
    in_preferences = {"check_backend", "set_up_backend", "look_again", "measure_backend", "verify_models"}
    missing = operators() - names - FOR_SCRIPTS - ONLY_WHEN_ASKED - in_preferences
    assert missing == set(), "no menu has them"
    assert (FOR_SCRIPTS | ONLY_WHEN_ASKED | in_preferences) - operators() == set()
    assert len(menus) >= 10


def called() -> dict[str, set[str]]:
    """Operator -> the properties with which these tests call it."""
    found = defaultdict(set)
    for path in Path(__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            # `bpy.ops.recdreamer.a(b=1)`, and `reported(bpy.ops.recdreamer.a, b=1)` of the helpers.
            for callee in (node.func, *node.args[:1]):
                name = ast.unparse(callee)
                if name.startswith("bpy.ops.recdreamer.") and name.count(".") == 3:
                    found[name.rpartition(".")[2]] |= {word.arg for word in node.keywords}
    return found


def test_every_operator_and_property_is_called_by_a_script(extension):
    """Scripts have all that the buttons have; in these tests each operator is called with each of its properties."""
    calls = called()
    assert operators() - calls.keys() == set()
    for name in sorted(operators()):
        rna = getattr(bpy.ops.recdreamer, name).get_rna_type()
        own = {prop.identifier for prop in rna.properties if not prop.is_hidden} - {"rna_type"}
        own -= {"filter_glob", "filter_image", "filter_folder", "name"}
        assert own - calls[name] == set(), name


def test_names_for_the_search(extension):
    """F3 shows label and menu. Two actions of one name would be the same line twice."""
    by_label = defaultdict(set)
    for name in operators():
        rna = getattr(bpy.ops.recdreamer, name).get_rna_type()
        assert rna.name and rna.name != name and rna.description, name
        by_label[rna.name].add(name)
    same = {label: names for label, names in by_label.items() if len(names) > 1}
    assert same == {
        "Cancel": {"cancel_backend_task", "cancel_errand", "cancel_models"},  # Each beside its own bar.
        "Open Log": {"open_log", "open_install_log"},
        "Remove": {"remove_backend", "remove_model"},
        "Show Job": {"show_job", "show_running"},
    }


def test_the_menu_is_in_blenders(extension, addon):
    layout = MenuLayout()
    addon("panels.actions").draw_in_menu(SimpleNamespace(layout=layout), bpy.context)
    assert layout.record.menus == ["RECDREAMER_MT_actions"]
    draws = [draw.__module__ for draw in bpy.types.VIEW3D_MT_object._dyn_ui_initialize()]
    assert any(name.endswith("panels.actions") for name in draws)


KEYMAPS = Path(bpy.utils.system_resource("SCRIPTS"), "presets", "keyconfig")


@pytest.fixture(scope="module")
def taken() -> dict[tuple, set[str]]:
    """Key with its modifiers -> the keymaps of Blender's own that use it."""
    sys.path.insert(0, str(KEYMAPS))
    from keymap_data import blender_default, industry_compatible_data

    found = defaultdict(set)
    for module in (blender_default, industry_compatible_data):
        for name, _, content in module.generate_keymaps(module.Params()):
            for _, event, *_ in content["items"]:
                modifiers = tuple(bool(event.get(key)) for key in ("ctrl", "alt", "shift", "oskey"))
                found[(event.get("type"), *modifiers)].add(name)
    return found


def test_no_shortcut_clashes_with_blenders(addon, taken):
    assert len(taken) > 300 and "Object Mode" in taken["G", True, True, False, False]
    items = addon("panels.shortcuts").items()
    assert len(items) == len(addon("panels.shortcuts").SHORTCUTS)
    for item in items:
        assert item.ctrl and item.alt and not (item.shift or item.oskey)
        assert taken[item.type, True, True, False, False] == set(), item.type
    assert len({item.type for item in items}) == len(items)


def test_shortcuts_do_what_they_say(addon):
    for shortcut, item in zip(
        addon("panels.shortcuts").SHORTCUTS, addon("panels.shortcuts").items(), strict=True
    ):
        assert item.idname == shortcut.operator
        for name, value in shortcut.properties.items():
            assert getattr(item.properties, name) == value
        module, name = shortcut.operator.split(".")
        assert getattr(getattr(bpy.ops, module), name).get_rna_type()


def test_shortcuts_are_in_the_preferences_and_go_with_the_extension(extension, addon):
    import addon_utils

    layout = RecorderLayout()
    addon("panels.shortcuts").draw_shortcuts(layout)
    assert layout.record.texts.count("Menu of All Actions") == 1 and layout.record.props == ["type"] * 6
    keymaps = bpy.context.window_manager.keyconfigs.addon.keymaps
    assert len(ours(keymaps)) == 6
    module = "bl_ext.user_default.recdreamer"
    for _ in range(3):
        addon_utils.disable(module, default_set=True)
        assert ours(keymaps) == []
        addon_utils.enable(module, default_set=True)
    assert len(ours(keymaps)) == 6


def ours(keymaps: bpy.types.KeyMaps) -> list[str]:
    keymap = keymaps.get("3D View Generic")
    items = keymap.keymap_items if keymap is not None else ()
    return [
        item.idname
        for item in items
        if item.idname.startswith("recdreamer.") or item.idname == "wm.call_menu"
    ]


def test_states_are_set_and_not_only_toggled(fake_backend, addon, draw, settle, pump_until):
    """A script says what it wants, whatever the panel shows now."""
    bpy.context.scene.recdreamer.prompt = "a red bear"
    bpy.ops.recdreamer.generate(overrides=json.dumps({"steps": 3}))
    job, session = settle(), addon("session").session
    for state, is_on in (("ON", True), ("ON", True), ("OFF", False), ("OFF", False), ("TOGGLE", True)):
        bpy.ops.recdreamer.compare_job(job_id=job.id, state=state)
        bpy.ops.recdreamer.enlarge(state=state)
        assert (session.compared_id == job.id) == is_on == session.is_enlarged
    bpy.ops.recdreamer.draw_samples()
    pump_until(lambda: session.gallery)
    for state, is_on in (("ON", True), ("ON", True), ("OFF", False), ("OFF", False), ("TOGGLE", True)):
        bpy.ops.recdreamer.pick_sample(index=1, state=state)
        assert (1 in session.gallery.picked) == is_on


@pytest.fixture
def opened(addon, monkeypatch) -> list[Path]:
    """Files that would open in another program."""
    paths = []
    for module in ("operators.next_steps", "operators.setup"):
        monkeypatch.setattr(addon(module), "open_outside", lambda path: paths.append(Path(path)) or "")
    return paths


def test_a_job_by_its_id(settings, addon, settle, pump_until, opened):
    assert bpy.ops.recdreamer.generate_job(
        device="cpu", seed=3, method="sds", overrides='{"steps": 3000}'
    ) == {"FINISHED"}
    job = addon("session").session.shown
    assert (job.request.device, job.request.seed, job.request.method) == ("cpu", 3, "sds")
    pump_until(lambda: job.state.step > 2)
    bpy.ops.recdreamer.pause(job_id=job.id)
    assert settle().condition == "paused"
    (job.folder.root / job.folder.log.name).write_text("a log")
    bpy.ops.recdreamer.open_log(job_id=job.id)
    assert opened == [job.folder.root / job.folder.log.name]
    bpy.ops.recdreamer.generate(overrides='{"steps": 3}')
    bpy.ops.recdreamer.import_result(job_id=settle().id, frame=False)
    assert bpy.context.object.name == "a red bear"


def test_templates_and_start(fake_backend, addon, block_out, tmp_path):
    image = bpy.data.images.new("front", 16, 16)
    image.filepath_raw, image.file_format = str(tmp_path / "front.png"), "PNG"
    image.save()
    bpy.ops.recdreamer.add_files(directory=str(tmp_path), files=[{"name": "front.png"}], are_sketches=True)
    settings, session = bpy.context.scene.recdreamer, addon("session").session
    assert [card.source for card in settings.templates] == ["sketch"]
    bpy.ops.recdreamer.show_template()
    assert session.shown_template == settings.templates[0].image
    settings.start.kind = "object"
    bpy.ops.recdreamer.start_from_active()
    assert settings.start.object == bpy.context.object


def test_the_backend(addon, preferences, opened):
    session, log = addon("session").session, addon("setup.installation")
    session.hardware.machine = "the old one"
    bpy.ops.recdreamer.look_again()
    assert session.hardware.machine != "the old one"
    assert "Nothing was installed yet" in reported(bpy.ops.recdreamer.open_install_log)
    path = log.Places(preferences.folder).log
    path.parent.mkdir(parents=True)
    path.write_text("a log")
    bpy.ops.recdreamer.open_install_log()
    assert opened == [path]
    row = addon("jobs.environment").Row("device", True, "CPU")
    session.task = SimpleNamespace(rows=(row,), cancel=lambda: None, join=lambda: None, poll=lambda: False)
    assert bpy.ops.recdreamer.copy_report() == {"FINISHED"}
    assert bpy.ops.recdreamer.read_license(index=0, page=1) == {"FINISHED"}
