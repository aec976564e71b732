"""HTTP API of an engine: OpenAI-compatible chat and embeddings, scores of choices, adapter loading, metrics."""
