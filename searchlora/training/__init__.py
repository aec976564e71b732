"""Training adapters: supervised fine-tuning and contrastive training. Validation is a callback of the caller."""

from searchlora.threads import choose_threads

choose_threads()  # before modules of this package import PyTorch
