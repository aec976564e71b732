"""Encoder adapters on movie search (MSRD): both sides, the query side alone, and full fine-tuning."""
