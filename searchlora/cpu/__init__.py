"""The base model computed on a CPU by packed weights and compiled kernels. Others import `backend` only."""

from searchlora.threads import choose_threads

choose_threads()  # before modules of this package import PyTorch
