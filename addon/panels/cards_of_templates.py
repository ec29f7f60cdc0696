"""The cards of templates: picture, pose, source and verdict. On the shelf, and beside a message about one."""

from __future__ import annotations

from .. import describe
from ..jobs.errands import Advice, Verdict
from ..language.translation import pose, say
from ..layout import draw_text
from ..pictures import previews
from ..properties import RecDreamerTemplate
from ..session import session

COLUMNS = 2
"""Cards or suggested pictures per row."""


def draw_card(layout, template: RecDreamerTemplate, index: int, verdict: Verdict | None, context):
    """Draw one template: its picture, properties and verdict."""
    layout.alert = template.image == session.shown_template
    picture = layout.column()
    picture.active = template.enabled
    if template.is_missing:
        picture.label(text="Image missing")
    else:
        picture.template_icon(icon_value=_card_icon(template, verdict, context), scale=4.5)
    row = layout.row(align=True)
    row.prop(template, "enabled", text="")
    is_up_to_date = template.shown_label == pose(template.label)
    row.prop(template, "shown_label" if is_up_to_date else "label", text="")
    row.context_pointer_set("recdreamer_template", template)
    row.menu("RECDREAMER_MT_card", text="", icon="DOWNARROW_HLT")
    row = layout.row(align=True)
    source = template.bl_rna.properties["source"].enum_items[template.source]
    text = f"{template.azimuth_deg:.0f}°" if template.has_camera else say(source.name)
    row.label(text=text, icon=source.icon)
    row.operator("recdreamer.mirror_template", text="", icon="MOD_MIRROR", emboss=False).index = index
    row.operator("recdreamer.remove_template", text="", icon="X", emboss=False).index = index
    if template.weight != 1:
        layout.prop(template, "weight")
    if verdict is not None:
        # The recognized pose, right below the label; there is no room for more words.
        text = describe.with_share(pose(verdict.reads_as), verdict.pose_probs.get(verdict.reads_as))
        layout.label(text=text, icon="ERROR" if verdict.warnings else "CHECKMARK")


def draw_advice(layout, advice: Advice, context, label: str = ""):
    """Draw an advice below the cards, where there is room for its words; of one card, with the label of that card."""
    text = say(f"{advice.message} {advice.hint}".strip())
    draw_text(layout, f"{describe.one_line(pose(label), 30)}: {text}" if label else text, context, "ERROR")


def _card_icon(template: RecDreamerTemplate, verdict: Verdict | None, context) -> int:
    """The picture, or the overlay from the check."""
    view = context.scene.recdreamer.shelf_view
    if verdict is None or view == "PICTURE":
        return template.icon
    return previews.icon(verdict.overlay if view == "MASK" else verdict.match) or template.icon
