"""Relevance judgment of TREC DL 2019 passages in cross-validation by query; see `__main__`."""
