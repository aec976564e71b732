"""Judging of any number of pairs in shards; see `__main__`."""
