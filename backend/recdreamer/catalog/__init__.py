"""Pretrained models: which there are to get, which are on this machine, and which of them can be used. No torch here."""
