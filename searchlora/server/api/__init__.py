"""The HTTP API over an engine: OpenAI's requests and answers, scores of choices, loading of adapters, metrics."""
