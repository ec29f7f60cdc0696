"""Signed distances: to any triangle mesh, and of the surface that the second stage refines."""
