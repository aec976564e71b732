"""Throughput of an LLM judge; see `__main__`."""
