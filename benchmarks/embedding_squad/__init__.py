"""Encoder adapters against full fine-tuning and zero-shot, on SQuAD and BANKING77."""
