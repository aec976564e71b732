"""Simulated drifts of real queries; see `__main__`."""
