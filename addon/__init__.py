"""The face inside Blender. The modules without bpy can be imported and tested anywhere."""


def register() -> None: ...


def unregister() -> None: ...
