"""Judging the passages of TREC DL 2019, every query by an adapter that never saw it; see `__main__`."""
