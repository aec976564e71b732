"""LoRA's claims, measured: full fine-tuning, LoRA and QLoRA of an LLM and of an encoder on the same rows."""
