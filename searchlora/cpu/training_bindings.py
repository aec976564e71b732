"""Python bindings of the compiled kernels of a training step.

All tensors are contiguous, have the dtype of the kernels unless another is given, and are on the CPU. A node is a token
of a batch whose equal prefixes are computed once; see `training.prefix_tree`.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

#: Letter -> the type of an argument: a tensor, a number, a flag, a float.
_TYPES = {"t": ctypes.c_void_p, "n": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}


def declare(function: Any, *arguments: Any, can_fail: bool = False) -> Any:
    """A C function with the types of its arguments: types, and strings of the letters in `_TYPES`.

    With `can_fail`, it returns a number that is not 0 if memory runs out.
    """
    types = ([_TYPES[letter] for letter in part] if isinstance(part, str) else [part] for part in arguments)
    function.argtypes = [type_ for part in types for type_ in part]
    function.restype = ctypes.c_int if can_fail else None
    return function


class TreeShape(ctypes.Structure):
    """The rows of a batch as paths of a tree (`prefix_tree.PrefixTree`), and the heads of its attention (`struct
    tree`).
    """

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("_path", "_starts", "_shared")),
        *((name, ctypes.c_int64) for name in ("_rows", "_longest", "_heads", "_key_heads", "_size")),
        ("_scale", ctypes.c_float),
    )

    def __init__(
        self,
        path: torch.Tensor,
        starts: torch.Tensor,
        shared: torch.Tensor,
        heads: int,
        key_heads: int,
        size: int,
        scale: float,
    ) -> None:
        self._tensors = (path, starts, shared)  # alive as long as their addresses
        addresses = (tensor.data_ptr() for tensor in self._tensors)
        super().__init__(*addresses, len(shared), int(starts.diff().max()), heads, key_heads, size, scale)


class TrainingKernels:
    """The functions of `fused_backward.c` and `tree_attention.c`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        tree = ctypes.POINTER(TreeShape)
        self._rms_norm_backward = declare(library.rms_norm_backward, "ttttnnf")
        self._rotate_heads = declare(library.rotate_heads, "tttnnnn")
        self._swiglu_backward = declare(library.swiglu_backward, "tttnn")
        self._attention = declare(library.tree_attention, tree, "ttt", can_fail=True)
        self._attention_backward = declare(library.tree_attention_backward, tree, "ttttttttntt", can_fail=True)
        self._label_log_probabilities = declare(library.label_log_probabilities, "ttttnn")
        self._label_gradients = declare(library.label_gradients, "ttttnn")

    def rms_norm_backward(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, gradient: torch.Tensor, residual: torch.Tensor
    ) -> None:
        """Add the gradient of RMSNorm with respect to x to `residual`, in place.

        `gradient` is of the norm's output; all but the weight (size,) have the shape (nodes, size).
        """
        addresses = (tensor.data_ptr() for tensor in (x, weight, gradient, residual))
        self._rms_norm_backward(*addresses, *x.shape, epsilon)

    def rotate_heads(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int) -> None:
        """Apply rotary embeddings to the first `heads` heads of x (nodes, width), in place; cos, sin (nodes, size of
        a head).
        """
        nodes, width = x.shape
        self._rotate_heads(x.data_ptr(), cos.data_ptr(), sin.data_ptr(), nodes, heads, cos.shape[1], width)

    def swiglu_backward(self, x: torch.Tensor, activation: torch.Tensor, out: torch.Tensor) -> None:
        """Gradient of silu(gate) * up.

        Args:
            x: Gate and up side by side, shape (nodes, 2 * size).
            activation: Gradient of silu(gate) * up, which is replaced by silu(gate) * up; shape (nodes, size).
            out: Receives the gradient of x.
        """
        addresses = (tensor.data_ptr() for tensor in (x, activation, out))
        self._swiglu_backward(*addresses, *activation.shape)

    def attention(self, tree: TreeShape, qkv: torch.Tensor, out: torch.Tensor, log_sums: torch.Tensor) -> None:
        """Causal attention of each node over its path. Raises `MemoryError`.

        Args:
            qkv: Rotated queries and keys, and values; shape (nodes, (heads + 2 * key heads) * size).
            out: Receives the result, shape (nodes, heads * size).
            log_sums: Receives what the backward pass needs; fp32, shape (nodes, heads).
        """
        if self._attention(tree, *(tensor.data_ptr() for tensor in (qkv, out, log_sums))):
            raise MemoryError("no memory for the scores of attention")

    def attention_backward(
        self,
        tree: TreeShape,
        qkv: torch.Tensor,
        out: torch.Tensor,
        log_sums: torch.Tensor,
        gradient: torch.Tensor,
        rotations: tuple[torch.Tensor, torch.Tensor],
        places: tuple[torch.Tensor, torch.Tensor],
        partial: torch.Tensor,
        qkv_gradient: torch.Tensor,
    ) -> None:
        """Gradient of queries, keys and values before their rotation. Raises `MemoryError`.

        Args:
            tree, qkv, out, log_sums: As in `attention`.
            gradient: Of `out`.
            rotations: Cosines and sines, shape (nodes, size).
            places: Indices of the path sorted by their nodes, and where each node's begin; int64.
            partial: Scratch memory; fp32, shape (length of the path, key heads, 2, size).
            qkv_gradient: Receives the result, shape of qkv.
        """
        inputs = (qkv, out, log_sums, gradient, *rotations, *places)
        addresses = (tensor.data_ptr() for tensor in inputs)
        if self._attention_backward(tree, *addresses, len(qkv), partial.data_ptr(), qkv_gradient.data_ptr()):
            raise MemoryError("no memory for the scores of attention")

    def label_log_probabilities(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability in nats of a label (n,) in each row of logits (n, vocabulary), and log(sum(exp(logits)));
        fp32.
        """
        out, log_sums = (torch.empty(len(labels)) for _ in range(2))
        addresses = (tensor.data_ptr() for tensor in (logits, labels, out, log_sums))
        self._label_log_probabilities(*addresses, *logits.shape)
        return out, log_sums

    def label_gradients(
        self, logits: torch.Tensor, labels: torch.Tensor, log_sums: torch.Tensor, gradient: torch.Tensor
    ) -> None:
        """Replace logits by the gradient of their label's log-probability, times `gradient` (fp32, shape (n,))."""
        addresses = (tensor.data_ptr() for tensor in (logits, labels, log_sums, gradient))
        self._label_gradients(*addresses, *logits.shape)
