"""The face inside Blender. The modules without bpy can be imported and tested anywhere."""


def _modules() -> tuple:
    """In the order of registration: each may use those before it."""
    from . import (
        backend_operators,
        capture_operators,
        front_gizmo,
        gallery_operators,
        operators,
        panels,
        preferences,
        properties,
        quads,
        quads_bake,
        session,
        shelf_panels,
        start,
        start_operators,
        start_panel,
        template_operators,
    )

    return (
        preferences,
        start,
        properties,
        operators,
        start_operators,
        quads,
        quads_bake,
        template_operators,
        capture_operators,
        gallery_operators,
        backend_operators,
        panels,
        shelf_panels,
        start_panel,
        front_gizmo,
        session,
    )


def register() -> None:
    for module in _modules():
        module.register()


def unregister() -> None:
    for module in reversed(_modules()):
        module.unregister()
