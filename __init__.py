"""Entry point for Blender. Imports stay inside the functions because tools import the tree without Blender."""


def register() -> None:
    from . import addon

    addon.register()


def unregister() -> None:
    from . import addon

    addon.unregister()
