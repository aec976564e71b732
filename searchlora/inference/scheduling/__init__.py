"""Continuous batching: a fair queue in front of a model runner, driven by one computing thread at a time."""
