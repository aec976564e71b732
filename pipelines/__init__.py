"""Pipelines: stages over batches of searches, configured in YAML, with ready pipelines."""
