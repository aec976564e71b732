"""Benchmarks: each `python -m benchmarks.NAME` writes `benchmarks/results/NAME.json`."""
