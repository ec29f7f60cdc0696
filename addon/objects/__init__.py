"""Scene objects: the jobs they belong to, their original positions, which ones the add-on hid, and their raw data."""
