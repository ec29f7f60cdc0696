"""The start of the next job: an object in the scene, a region of it, or an earlier result."""
