"""A stand-in for UILayout that checks every call against Blender and records what is drawn."""

from __future__ import annotations

from types import SimpleNamespace

import bpy

FUNCTIONS = bpy.types.UILayout.bl_rna.functions
ICONS = set(FUNCTIONS["label"].parameters["icon"].enum_items.keys())
ATTRIBUTES = set(bpy.types.UILayout.bl_rna.properties.keys())


class RecorderLayout:
    """Replaces UILayout: checks every call against RNA and records texts and operators."""

    def __init__(self, record=None):
        object.__setattr__(
            self,
            "record",
            record or SimpleNamespace(texts=[], operators=[], buttons=[], icons=[], props=[], above=[]),
        )

    def __setattr__(self, name, value):
        assert name in ATTRIBUTES, f"UILayout has no {name}"

    def __getattr__(self, name):
        if name not in FUNCTIONS:
            raise AttributeError(f"UILayout has no {name}")
        known = set(FUNCTIONS[name].parameters.keys()) | {"text_ctxt"}

        def call(*args, **kwargs):
            assert not set(kwargs) - known, f"{name} has no {set(kwargs) - known}"
            if "icon" in kwargs:
                assert kwargs["icon"] in ICONS, f"there is no icon {kwargs['icon']}"
                self.record.icons.append(kwargs["icon"])
            if "text" in kwargs:
                assert isinstance(kwargs["text"], str)
                self.record.texts.append(kwargs["text"])
            if name == "prop_search":
                data, prop, items, collection = args
                assert prop in data.bl_rna.properties and collection in items.bl_rna.properties
            if name in ("prop", "textbox"):
                data, prop = args
                assert prop in data.bl_rna.properties, f"{data} has no {prop}"
                self.record.props.append(prop)
            if name == "template_icon":
                self.record.above.append(set(self.record.operators))  # The buttons above a picture.
            if name == "progress":
                assert 0 <= kwargs["factor"] <= 1
            if name == "panel":
                return RecorderLayout(self.record), RecorderLayout(self.record)
            if name in ("operator", "operator_menu_enum"):
                return self._operator(args[0], kwargs.get("text"))
            return RecorderLayout(self.record)

        return call

    def _operator(self, idname, text):
        module, name = idname.split(".")
        rna = getattr(getattr(bpy.ops, module), name).get_rna_type()
        self.record.operators.append(idname)
        self.record.buttons.append((rna.name if text is None else text, idname))

        class Properties:
            def __setattr__(self, prop, value):
                assert prop in rna.properties, f"{idname} has no {prop}"

        return Properties()


def draw_panels(addon):
    """Draw all panels as Blender would; returns what was recorded."""
    record = RecorderLayout()
    modules = ("panels.jobs", "panels.queue_of_jobs", "panels.list_of_jobs", "panels.shelf", "panels.result")
    classes = [cls for name in modules for cls in addon(name).CLASSES]
    for cls in sorted(classes, key=lambda cls: getattr(cls, "bl_order", 9)):
        assert cls.is_registered
        if cls.__name__ == "RECDREAMER_MT_card":
            continue  # This menu needs a card.
        if not getattr(cls, "poll", lambda context: True)(bpy.context):
            continue
        for function in ("draw_header_preset", "draw"):
            if hasattr(cls, function):
                fake = SimpleNamespace(layout=record)
                for helper in dir(cls):
                    if helper.startswith("_draw"):
                        setattr(fake, helper, getattr(cls, helper).__get__(fake))
                getattr(cls, function)(fake, bpy.context)
    return record.record
