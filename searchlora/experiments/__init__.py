"""Runs systems over a dataset, keeps what they answered, and hands it to `eval` as data."""
