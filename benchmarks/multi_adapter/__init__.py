"""Many adapters over one base in one batch: speed of writing and of reading prompts, against transformers and PEFT."""
