"""Draws the button that leads to the cure of a trouble; the table is in addon/cures.py."""

from __future__ import annotations

import bpy

from ..cures import cure_of
from ..session import session
from .cards_of_templates import draw_card


def draw_cure(layout: bpy.types.UILayout, kind: str, job_id: str = "") -> None:
    """The next step for an ErrorKind, if there is one; with the job that has failed, also what acts on it."""
    cure = cure_of(kind, has_job=bool(job_id))
    if cure is None:
        return
    button = layout.operator(cure.operator, text=cure.label, icon=cure.icon)
    for name, value in cure.properties.items():
        setattr(button, name, value)
    if cure.needs_job:
        button.job_id = job_id
    if kind == "template":
        _draw_template_at_fault(layout)


def _draw_template_at_fault(layout: bpy.types.UILayout) -> None:
    """The card itself, so that nobody has to look for it on the shelf."""
    templates = bpy.context.scene.recdreamer.templates
    for index, template in enumerate(templates):
        if template.image == session.shown_template:
            draw_card(layout.box().column(align=True), template, index, None, bpy.context)
