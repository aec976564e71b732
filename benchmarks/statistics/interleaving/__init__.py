"""Simulated users of interleaved rankings; see `__main__`."""
