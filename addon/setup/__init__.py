"""Set-up of the backend: what this machine is, what fits it, and how it is installed. No bpy here.

Standard library only, and nothing of the other rooms: `tools/` uses these files in any Python, before anything is
installed.
"""
