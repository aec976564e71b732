"""Seconds per training step; see `__main__`."""
