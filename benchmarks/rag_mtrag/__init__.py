"""Answers from passages on MT-RAG in cross-validation by group; see `__main__`."""
