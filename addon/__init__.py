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
        session,
        shelf_panels,
        template_operators,
    )

    return (
        preferences,
        properties,
        operators,
        template_operators,
        capture_operators,
        gallery_operators,
        backend_operators,
        panels,
        shelf_panels,
        front_gizmo,
        session,
    )


def register() -> None:
    for module in _modules():
        module.register()


def unregister() -> None:
    for module in reversed(_modules()):
        module.unregister()
