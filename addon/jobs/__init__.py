"""Job folders and their worker processes. No bpy here."""
