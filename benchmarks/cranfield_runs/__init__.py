"""Runs of BM25 variants, dense retrieval and fusions on Cranfield, which `statistics.system_order` orders."""
