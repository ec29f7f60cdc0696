"""Operators, and the files that they write into and read from job folders."""
