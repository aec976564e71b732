"""Base models: resolve, fingerprint, load; the processor; batches shared by training and inference."""
