"""A job as a folder and a process: checkpoints, events, errors, repeats. Independent of the work itself."""
