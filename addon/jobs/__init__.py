"""Job folders, and the processes that work on them. No bpy here."""
