"""A job as a folder and a process: checkpoints, events, errors, repeats. Knows nothing of what the work is."""
