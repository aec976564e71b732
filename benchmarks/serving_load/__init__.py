"""Load test of `searchlora serve`; see `__main__`."""
