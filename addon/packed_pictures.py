"""Pictures of the shelf go with the .blend file: packed when it is saved, and put back where they are missing.

They lie in the data folder, which another computer, another home folder or another setting does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

import bpy
from bpy.app.handlers import persistent

from ..backend.recdreamer.shared.protocol import RequestError, write_atomically
from .jobs.registry import writable_folder
from .pictures.files import MAX_FILE_BYTES, parse_header
from .properties import RecDreamerTemplate, templates_folder
from .shelf.pictures import new_names

NAME = re.compile(r"[0-9a-f]{32}\.[a-z]{3,4}")
"""Of the files that the shelf makes."""


def _cards() -> Iterator[RecDreamerTemplate]:
    for scene in bpy.data.scenes:
        if scene.library is None:
            yield from scene.recdreamer.templates


@persistent
def pack_pictures(*_: object) -> None:
    """Give each card an image that has its picture, packed. The file counts, so its path is not kept."""
    for card in _cards():
        new_names.discard(card.path.name)
        if (card.packed is None or card.packed_of != card.image) and not card.is_missing:
            with suppress(RuntimeError):  # Blender cannot read it; the card says so itself.
                image = bpy.data.images.load(str(card.path))
                image.pack()
                image.name = f"RecDreamer {card.label}"
                image.filepath_raw = f"//{card.image}"
                card.packed, card.packed_of = image, card.image


@persistent
def put_back_pictures(*_: object) -> None:
    """Write the packed pictures of cards whose files are missing."""
    for card in _cards():
        data = _packed_bytes(card)
        if data and card.is_missing:
            with suppress(OSError, RequestError):  # The card stays missing, which the panel says.
                write_atomically(writable_folder(templates_folder()) / card.path.name, data)


@persistent
def clean_pictures(*_: object) -> None:
    """Delete the pictures made in this session that no card shows and no saved file may show, before another file is
    opened and at the end. Until then undo may bring a card back."""
    used, folder = {card.path.name for card in _cards()}, templates_folder()
    for name in new_names - used:
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
        new_names.discard(name)


def _packed_bytes(card: RecDreamerTemplate) -> bytes:
    """The packed picture of a card; nothing unless it is one that the shelf could have made: the file is a stranger's."""
    image = card.packed
    packed = None if image is None else image.packed_file
    if packed is None or packed.size > MAX_FILE_BYTES or not NAME.fullmatch(card.path.name):
        return b""
    data = bytes(packed.data)
    return data if parse_header(data) is not None else b""


def register() -> None:
    bpy.app.handlers.save_pre.append(pack_pictures)
    bpy.app.handlers.load_pre.append(clean_pictures)
    bpy.app.handlers.load_post.append(put_back_pictures)


def unregister() -> None:
    bpy.app.handlers.load_pre.remove(clean_pictures)
    clean_pictures()
    bpy.app.handlers.save_pre.remove(pack_pictures)
    bpy.app.handlers.load_post.remove(put_back_pictures)
