"""Agreement of the remote engine on a vLLM server with the local engine."""
