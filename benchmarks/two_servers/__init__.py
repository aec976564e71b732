"""Two servers that share a store and a database of events, under load; see `__main__`."""
