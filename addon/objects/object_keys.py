"""Custom properties that tie objects to jobs, and how to find the objects by them."""

from __future__ import annotations

import bpy

JOB_KEY = "recdreamer_job"
"""The job that made the object, or the material."""
PARTICLE_KEY = "recdreamer_particle"
"""Tells the objects of one job apart, from 0."""
PAINTED_KEY = "recdreamer_painted_by"
"""The job that painted an artist's object last; on a material: the job whose texture it shows."""
OBJECT_KEY = "recdreamer_object"
"""Finds an object again that a job started from, also under another name."""


def find_imported(job_id: str, scene: bpy.types.Scene, particle: int = 0) -> bpy.types.Object | None:
    """The object of the scene that holds this result of this job, or None."""
    for obj in scene.objects:
        if obj.get(JOB_KEY) == job_id and obj.get(PARTICLE_KEY, 0) == particle and obj.type == "MESH":
            return obj
    return None


def find_start(name: str, object_id: str, scene: bpy.types.Scene) -> bpy.types.Object | None:
    """The object of the scene that a job started from: by its id, of copies the one of this name, else the oldest.

    Only without an id the name alone decides: an object of this name may be another one by now.
    """
    named = scene.objects.get(name)
    if not object_id or (named is not None and named.get(OBJECT_KEY) == object_id):
        return named
    same = (obj for obj in scene.objects if obj.get(OBJECT_KEY) == object_id)
    return min(same, key=lambda obj: obj.session_uid, default=None)


def job_of(obj: bpy.types.Object | None) -> str:
    """Id of the job that made an object, else of the one that painted it last, or nothing."""
    return "" if obj is None else str(obj.get(JOB_KEY) or obj.get(PAINTED_KEY) or "")
