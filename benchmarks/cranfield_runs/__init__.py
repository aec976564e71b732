"""BM25 variants, dense retrieval and fusions on Cranfield; see `__main__`."""
