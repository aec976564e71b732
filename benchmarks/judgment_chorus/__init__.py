"""Relevance judgment of a real shop's products beside the agreement of three people; see `__main__`."""
