"""Training adapters: supervised fine-tuning and contrastive training. Validation is a callback of the caller."""
