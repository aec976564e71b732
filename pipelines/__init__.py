"""Pipelines: stages over batches of searches, configured in YAML, with built-in pipelines."""
