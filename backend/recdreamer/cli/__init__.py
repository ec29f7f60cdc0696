"""The command `recdreamer`. Only what a command needs is imported."""
