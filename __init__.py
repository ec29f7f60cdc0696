"""Blender's entry point. Imports stay inside the functions so that tools can import the tree without Blender."""


def register() -> None:
    from . import addon

    addon.register()


def unregister() -> None:
    from . import addon

    addon.unregister()
