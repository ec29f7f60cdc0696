"""The three stages of a job, the guides that they share, and 2D particles."""
