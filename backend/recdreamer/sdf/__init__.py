"""Signed distances: of any triangle mesh, and of the surface that the second stage refines."""
