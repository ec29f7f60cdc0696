"""Objects of the scene: which job they belong to, where their mesh came from, what we have hidden."""
