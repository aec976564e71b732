"""Answers from passages on MT-RAG, every row by an adapter that never saw its group; see `__main__`."""
