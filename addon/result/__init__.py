"""Finished jobs in the scene: meshes, materials, painted textures."""
