"""Custom properties that link objects to jobs, and functions that find objects by them."""

from __future__ import annotations

import bpy

JOB_KEY = "recdreamer_job"
"""The job that made the object or material."""
PARTICLE_KEY = "recdreamer_particle"
"""Index of the object among those of its job, from 0."""
SLOT_KEY = "recdreamer_slot"
"""On a material of a result: its slot, from 0, among those that the mesh of the job has."""
PAINTED_KEY = "recdreamer_painted_by"
"""The job that painted an artist's object last; on a material, the job whose texture it shows."""
LIVE_KEY = "recdreamer_preview_of"
"""On the one object that shows the coarse mesh of a running job: that job."""
OBJECT_KEY = "recdreamer_object"
"""ID of an object that a job started from; it survives renaming."""


def find_imported(job_id: str, scene: bpy.types.Scene, particle: int = 0) -> bpy.types.Object | None:
    """The scene object with this result of this job, or None."""
    for obj in scene.objects:
        if obj.get(JOB_KEY) == job_id and obj.get(PARTICLE_KEY, 0) == particle and obj.type == "MESH":
            return obj
    return None


def find_start(name: str, object_id: str, scene: bpy.types.Scene) -> bpy.types.Object | None:
    """The scene object that a job started from: by ID; among copies, the one with this name, else the oldest.

    The name alone counts only if there is no ID, because another object may have that name by now.
    """
    named = scene.objects.get(name)
    if not object_id or (named is not None and named.get(OBJECT_KEY) == object_id):
        return named
    same = (obj for obj in scene.objects if obj.get(OBJECT_KEY) == object_id)
    return min(same, key=lambda obj: obj.session_uid, default=None)


def job_of(obj: bpy.types.Object | None) -> str:
    """ID of the job that made an object, else of the one that painted it last; empty if there is none."""
    return "" if obj is None else str(obj.get(JOB_KEY) or obj.get(PAINTED_KEY) or "")
