"""Base models: resolve, fingerprint, load; attention and batches shared by training and inference."""
