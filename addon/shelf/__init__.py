"""Pose templates as pictures: captured, read, and written."""
