"""Query rewriting on CANARD; see `__main__`."""
