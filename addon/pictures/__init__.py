"""Picture files: read within bounds, and shown as icons."""
