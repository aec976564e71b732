"""Throughput of sampled answers compared with greedy ones."""
