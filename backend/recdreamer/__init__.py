"""RecDreamer: text-to-3D by uniform score distillation."""

__version__ = "0.1.0"
