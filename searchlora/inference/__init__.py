"""Engines turn requests into completions."""

from searchlora.threads import choose_threads

choose_threads()  # before modules of this package import PyTorch
