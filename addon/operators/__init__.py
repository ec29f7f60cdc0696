"""What the artist can do: the operators, and what they write into a job and read from it."""
