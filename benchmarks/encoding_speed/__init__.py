"""Speed of encoding a corpus compared with sentence-transformers."""
