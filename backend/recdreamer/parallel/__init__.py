"""The views of a step, shared among processes."""
