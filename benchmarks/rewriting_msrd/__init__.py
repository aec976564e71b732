"""Query rewriting on MSRD; see `__main__`."""
