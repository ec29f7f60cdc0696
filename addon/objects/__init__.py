"""Scene objects: the jobs they belong to, their original positions, and which ones the add-on hid."""
