"""Pose templates, the training-free classifier built from them, and the rectifier driven by it."""
