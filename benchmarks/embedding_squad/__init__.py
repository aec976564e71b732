"""Encoder adapters against full fine-tuning and zero-shot, on SQuAD and four other collections."""
