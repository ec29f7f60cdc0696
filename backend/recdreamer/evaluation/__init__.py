"""Measuring: the embedded world with its ground truth, the oracle, consistency of a result."""
