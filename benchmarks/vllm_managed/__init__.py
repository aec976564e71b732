"""The managed vLLM engine: every verb, few prompts for a score, no process left behind, aliases that move."""
