"""A real vLLM server through the remote engine, on the made shop."""
