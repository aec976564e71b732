"""Answers to MT-RAG that adapters write, beside quoting; see `__main__`."""
