"""A stand-in for UILayout that lays out in pixels, to find labels that Blender would cut.

Blender gives a row's items widths in proportion to what each wants, and cuts the text of an item that gets less. Numbers
are those of the default theme at a scale of 1; text is measured with Blender's own font.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import blf
import bpy

SIDEBAR_PX = 236
"""Content of a panel in a sidebar of Blender's default width, 292 px."""
UNIT_PX = 20
"""Height of a button, and width of an icon."""
FRAME_PX = 10
"""Least space around the text of a button."""
WANTED_PX = 30
"""What Blender adds to a text where there is room."""
BOX_PX = 14
"""What a box takes of the width."""
FONT_POINTS = 11.0
LABEL_SHARE = 0.4
"""Of the width, with property split."""


GAP_PX, PANEL_PX = 2, 36
"""Between two lines; header and margins of a panel."""
scale = 1.0
"""Of the interface. Numbers are for a scale of 1, but the font is hinted for the one that is set."""


translate: Callable[[str], str] = str
"""What Blender does with each text that it draws."""


def text_px(text: str) -> float:
    blf.size(0, FONT_POINTS * scale)
    return blf.dimensions(0, text)[0] / scale


@dataclass
class Item:
    """A button or label."""

    text: str
    extra_px: float
    """Of icons and arrows."""
    height_px: float = UNIT_PX

    @property
    def least_px(self) -> float:
        return (text_px(self.text) + FRAME_PX if self.text else 0) + self.extra_px

    @property
    def wanted_px(self) -> float:
        return text_px(self.text) + WANTED_PX + self.extra_px if self.text else max(self.extra_px, UNIT_PX)


@dataclass
class Group:
    """A row, column, box or grid."""

    kind: str
    columns: int = 1
    factor: float = 0.0
    parts: list = field(default_factory=list)

    @property
    def wanted_px(self) -> float:
        wants = [part.wanted_px for part in self.parts] or [0.0]
        return sum(wants) if self.kind == "row" else max(wants)

    @property
    def height_px(self) -> float:
        heights = [part.height_px for part in self.parts] or [0.0]
        if self.kind in ("row", "split"):
            return max(heights)
        lines = [max(heights[at : at + self.columns]) for at in range(0, len(heights), self.columns)]
        return sum(lines) + GAP_PX * (len(lines) - 1) + (BOX_PX if self.kind == "box" else 0)

    def cut(self, width_px: float) -> list[str]:
        """The texts that do not fit into this width."""
        if self.kind == "box":
            width_px -= BOX_PX
        widths = [width_px / self.columns] * len(self.parts)
        if self.kind == "row" and self.parts:
            fixed = sum(part.wanted_px for part in self.parts if is_fixed(part))
            flexible = sum(part.wanted_px for part in self.parts if not is_fixed(part))
            scale = (width_px - fixed) / flexible if flexible else 1.0
            widths = [part.wanted_px * (1 if is_fixed(part) else scale) for part in self.parts]
        if self.kind == "split" and self.parts:
            rest = max(len(self.parts) - 1, 1)
            widths = [
                width_px * (self.factor if at == 0 else (1 - self.factor) / rest)
                for at in range(len(self.parts))
            ]
        found = []
        for part, width in zip(self.parts, widths, strict=True):
            if isinstance(part, Group):
                found += part.cut(width)
            elif part.text and part.least_px > width + 0.5:
                found.append(f"{part.text!r} needs {part.least_px:.0f} px and has {width:.0f}")
        return found

    def texts(self) -> Iterator[str]:
        """All that is drawn."""
        for part in self.parts:
            if isinstance(part, Group):
                yield from part.texts()
            elif part.text:
                yield part.text


def is_fixed(part: Item | Group) -> bool:
    """Icons alone keep their width."""
    return isinstance(part, Item) and not part.text


class MeasuringLayout:
    """Replaces UILayout; everything that is drawn becomes a tree of items."""

    def __init__(self, group: Group, is_split: bool = False) -> None:
        object.__setattr__(self, "group", group)
        object.__setattr__(self, "is_split", is_split)
        object.__setattr__(self, "scale_y", 1.0)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "use_property_split":
            object.__setattr__(self, "is_split", value)
        if name == "scale_y":
            object.__setattr__(self, "scale_y", value)

    def _nested(self, kind: str, **options) -> MeasuringLayout:
        group = Group(kind, **options)
        self.group.parts.append(group)
        return MeasuringLayout(group, self.is_split)

    def _item(self, text: str | None, icon: str = "NONE", more_px: float = 0.0) -> None:
        extra_px = (UNIT_PX if icon not in ("NONE", "") else 0) + more_px
        self.group.parts.append(Item(translate(text or ""), extra_px, UNIT_PX * self.scale_y))

    def row(self, **_):
        return self._nested("row")

    def column(self, heading="", **_):
        if heading and self.is_split:
            self._nested("split", factor=LABEL_SHARE)._item(heading)
        return self._nested("column")

    def box(self):
        return self._nested("box")

    def split(self, factor=0.0, **_):
        return self._nested("split", factor=factor)

    def grid_flow(self, columns=1, **_):
        return self._nested("column", columns=columns)

    def panel(self, *_, **__):
        return self._nested("row"), self._nested("box")

    def label(self, text="", icon="NONE", **_):
        self._item(text, icon)

    def progress(self, text="", **_):
        self._item(text)

    def template_icon(self, scale=1.0, **_):
        self.group.parts.append(Item("", 0, UNIT_PX * scale))

    def template_list(self, *_, rows=5, **__):
        self.group.parts.append(Item("", 0, UNIT_PX * (rows + 1)))

    def separator(self, **_): ...

    def context_pointer_set(self, *_): ...

    def operator(self, idname, text=None, icon="NONE", **_):
        module, name = idname.split(".")
        label = getattr(getattr(bpy.ops, module), name).get_rna_type().name
        self._item(label if text is None else text, icon)
        return SimpleNamespace()

    def menu(self, idname, text=None, icon="NONE"):
        label = getattr(bpy.types, idname).bl_label
        self._item(label if text is None else text, icon, UNIT_PX if text != "" else 0)

    def operator_menu_enum(self, idname, prop, text="", icon="NONE"):
        self._item(text, icon)
        return SimpleNamespace()

    def textbox(self, *_, initial_visible_lines=1, **__):
        self.group.parts.append(Item("", 0, UNIT_PX * initial_visible_lines))

    def prop(self, data, name, text=None, icon="NONE", expand=False, **_):
        rna = data.bl_rna.properties[name]
        label = rna.name if text is None else text
        if rna.type == "ENUM" and expand:
            row = self
            if self.is_split and label:
                row = self._nested("split", factor=LABEL_SHARE)
                row._item(label)
            row = row._nested("row")
            for choice in rna.enum_items:
                row._item(choice.name)
            return
        value, more = "", 0.0
        if rna.type == "ENUM":
            choice = next((item for item in rna.enum_items if item.identifier == getattr(data, name)), None)
            value = choice.name if choice is not None else ""
            more = UNIT_PX + (UNIT_PX if choice is not None and choice.icon != "NONE" else 0)
        elif rna.type in ("FLOAT", "INT"):
            value, more = "0000.0", 0
        if rna.type == "BOOLEAN":
            self._item(label, "NONE" if icon == "NONE" and not label else "CHECKBOX")
        elif self.is_split and label:
            row = self._nested("split", factor=LABEL_SHARE)
            row._item(label)
            row._item(value, icon, more)
        else:
            self._item(
                f"{translate(label)}  {translate(value)}".strip() if rna.type != "STRING" else "", icon, more
            )

    def prop_search(self, *_, **__): ...
