"""Time to score 77 labels with three methods; see `__main__`."""
