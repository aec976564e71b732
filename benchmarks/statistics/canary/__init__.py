"""Simulated rollouts; see `__main__`."""
