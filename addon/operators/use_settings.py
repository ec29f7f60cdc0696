"""Restore the settings of an earlier job in the panel."""

from __future__ import annotations

import math
from contextlib import suppress

from ...backend.recdreamer.shared.protocol import JobFolder, JobRequest, RequestError, Template
from ...backend.recdreamer.shared.safe_files import confined, read_bounded, write_atomically
from ..jobs.placement import PLACEMENT, StartPlacement
from ..jobs.registry import writable_folder
from ..objects.object_keys import find_start
from ..pictures.files import MAX_FILE_BYTES, check_picture
from ..preference_access import DEVICES, get_preferences
from ..properties import (
    FACE_COUNT,
    TEXTURE_SIZE,
    RecDreamerSettings,
    RecDreamerTemplate,
    metres_per_unit,
    templates_folder,
)
from ..shelf.pictures import new_picture


def use_settings(job: JobFolder, request: JobRequest, settings: RecDreamerSettings) -> list[str]:
    """Restore everything that the panel shows. Returns one sentence for each part that is missing."""
    problems = []
    for use in (_use_request, _use_start, _use_templates):
        try:
            use(job, request, settings)
        except RequestError as error:
            problems.append(str(error))
    return problems


def _use_request(job: JobFolder, request: JobRequest, settings: RecDreamerSettings) -> None:
    for name in ("method", "pose_mode", "quality", "keep_running"):
        setattr(settings, name, getattr(request, name))
    texture_px = str(request.overrides.get(TEXTURE_SIZE, "AUTO"))
    sizes = settings.bl_rna.properties["texture_px"].enum_items
    settings.texture_px = texture_px if texture_px in sizes else "AUTO"
    faces = request.overrides.get(FACE_COUNT, 0)
    settings.face_count = min(faces, 10_000_000) if isinstance(faces, int) else 0
    settings.prompt = request.prompt.replace("\0", " ")  # Blender's texts end at a zero.
    get_preferences().image_model = request.prior.replace("\0", " ")
    settings.seed = max(0, min(request.seed, 2**31 - 1))
    settings.height = request.height_m / metres_per_unit(settings.id_data)
    if request.device in (device for device, *_ in DEVICES):
        get_preferences().device = request.device
    settings.start.from_request(request)


def _use_start(job: JobFolder, request: JobRequest, settings: RecDreamerSettings) -> None:
    """Restore the part of the start that only the add-on stores: object, front, region and size."""
    start = settings.start
    if not start.needs_object and not confined(job.root, PLACEMENT).exists():
        return
    placement = StartPlacement.read(job)
    start.region, start.keep_size = placement.region, placement.keep_size
    start.use_children = placement.use_children
    if start.needs_object:
        start.object = find_start(placement.object, placement.object_id, settings.id_data)
        settings.front = math.radians(placement.front_deg)


def _use_templates(job: JobFolder, request: JobRequest, settings: RecDreamerSettings) -> None:
    """Enable the cards that the job used, add missing ones, and disable all others."""
    cards, in_use, taken_of = settings.templates, {}, ""
    if settings.start.needs_object:
        with suppress(RequestError):  # _use_start reports it.
            taken_of = StartPlacement.read(job).taken_of
    for template in request.templates:
        picture, suffix = _read_picture(job, template)
        found = (i for i, card in enumerate(cards) if _is_card_of(card, template, picture))
        index = next((i for i in found if i not in in_use), len(cards))
        if index == len(cards):
            _add_card(settings, template, picture, suffix).taken_of = taken_of
        in_use[index] = template.weight
    for index, card in enumerate(cards):
        card.enabled = index in in_use
        card.weight = in_use.get(index, card.weight)


def _read_picture(job: JobFolder, template: Template) -> tuple[bytes, str]:
    """The file of a template in the folder of its job, and the suffix of its format. Raises RequestError."""
    try:
        path = confined(job.root, template.image)
        suffix = f".{check_picture(path).format.lower()}"
        return read_bounded(path, MAX_FILE_BYTES), suffix
    except RequestError as error:
        raise RequestError(
            f"A template of this job cannot be used: {error.message}", "Capture it again."
        ) from error


def _is_card_of(card: RecDreamerTemplate, template: Template, picture: bytes) -> bool:
    if (card.label.strip(), card.mirrored) != (template.label, template.mirrored):
        return False
    try:
        return read_bounded(card.path, MAX_FILE_BYTES) == picture
    except RequestError:
        return False


def _add_card(
    settings: RecDreamerSettings, template: Template, picture: bytes, suffix: str
) -> RecDreamerTemplate:
    path = new_picture(writable_folder(templates_folder())).with_suffix(suffix)
    write_atomically(path, picture)
    card = settings.templates.add()
    card.image, card.label, card.source = path.name, template.label, template.source
    card.mirrored = template.mirrored
    card.has_camera, card.azimuth_deg = template.azimuth_deg is not None, template.azimuth_deg or 0.0
    card.elevation_deg = template.elevation_deg or 0.0
    return card
