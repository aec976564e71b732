"""searchlora: one base LLM, many small LoRA adapters, one per job of a search pipeline."""

__version__ = "0.1.0"
