"""Base models of several sizes under the same datasets and recipes: quality, tokens and memory."""
