"""BM25 over a million synthetic documents: build, memory, and speed against rank-bm25; see `__main__`."""
