"""Memory that the weights of a base need, computed from the headers of its files without loading them.

Activations, optimiser states and PyTorch itself come on top; they depend on batch and length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from searchlora.errors import UsageError
from searchlora.models.fingerprint import tensor_shapes
from searchlora.models.resolve import read_json_object
from searchlora.recipe_reading import Method
from searchlora.threads import control_groups

#: Bytes per weight in nf4 with double quantisation: 4 bits, an 8-bit scale per block of 64 and a 32-bit scale per 256
#: of these scales (arXiv:2305.14314, section 3).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class BaseMemory:
    """Memory of one base, in bytes.

    Attributes:
        parameters: Number of parameters; tied embeddings count once.
        bf16: All weights in bf16.
        nf4: Linear layers in nf4, embeddings, norms and the output layer in bf16.
        kv_token: Keys and values of one token in bf16; None if the configuration does not give their shape.
    """

    parameters: int
    bf16: int
    nf4: int
    kv_token: int | None

    @property
    def training(self) -> int:
        """QLoRA with validation: the trained copy in nf4, and the copy in bf16 that validation loads."""
        return self.training_by("qlora")

    def training_by(self, method: Method, precision: Literal["bf16", "fp32"] = "bf16") -> int:
        """A method with validation, which loads a copy in `precision`.

        A full fine-tune holds weights, gradients and AdamW's two moments in fp32: 16 bytes per parameter.

        Examples:
            >>> BaseMemory(parameters=1000, bf16=2000, nf4=600, kv_token=None).training_by("full")
            18000
        """
        copy = self.bf16 if precision == "bf16" else 2 * self.bf16
        return {"qlora": self.nf4, "lora": copy, "full": 16 * self.parameters}[method] + copy

    def serving(self, cache_tokens: int) -> int | None:
        """Weights in bf16 and a KV cache of `cache_tokens` tokens; None where the cache's shape is unknown."""
        return None if self.kv_token is None else self.bf16 + self.kv_token * cache_tokens


def base_memory(folder: Path) -> BaseMemory:
    """The memory of the base in a folder.

    Raises:
        BaseModelError: for a folder without weights, or with damaged files.
    """
    config = read_json_object(folder / "config.json")
    return memory_of(tensor_shapes(folder, tied=bool(config.get("tie_word_embeddings"))), config)


def memory_of(shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any]) -> BaseMemory:
    """The memory of a base with tensors of these shapes (tied embeddings once) and this content of `config.json`.

    Examples:
        >>> shapes = {"model.embed_tokens.weight": (100, 8), "model.layers.0.self_attn.q_proj.weight": (8, 8)}
        >>> memory_of(shapes, {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8})
        BaseMemory(parameters=864, bf16=1728, nf4=1633, kv_token=32)
    """
    total = sum(math.prod(shape) for shape in shapes.values())
    quantised = sum(math.prod(shape) for name, shape in shapes.items() if _is_linear(name, shape))
    return BaseMemory(
        parameters=total,
        bf16=2 * total,
        nf4=round(NF4_BYTES * quantised) + 2 * (total - quantised),
        kv_token=kv_token(config),
    )


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still use: those free on the machine, or fewer by the limits of its control groups.

    Pages of files, which a group's use includes, count as free: the kernel drops them when memory is needed.
    """
    import psutil

    free: int = psutil.virtual_memory().available
    return max(0, min([free, *(left for folder in control_groups("memory", root) for left in _left(folder))]))


def _left(folder: Path) -> list[int]:
    """Bytes that a control group's limit leaves, if it has one."""
    for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            limit, used = (int((folder / name).read_text(encoding="ascii")) for name in names)
        except (OSError, ValueError):  # another version of control groups, or "max"
            continue
        of_files = 0
        with suppress(OSError, ValueError):
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            stat = {name: int(value) for name, value in map(str.split, lines)}
            # In version 1, only the totals include the groups below.
            of_files = sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file"))
        return [limit - used + of_files]
    return []


def free_memory(target: Literal["cpu", "cuda"], processes: int = 1) -> int:
    """Bytes that a model can still take in each of some processes: of the main memory, or of a GPU for each of them.

    Raises:
        UsageError: for "cuda" without a GPU.
    """
    if target == "cpu":
        return available_memory() // processes
    import torch

    if not torch.cuda.is_available():
        raise UsageError("PyTorch sees no GPU, so its free memory is not known", fix="Give --memory, such as 24GB.")
    return min(int(torch.cuda.mem_get_info(number)[0]) for number in range(processes))


def _is_linear(name: str, shape: Sequence[int]) -> bool:
    """Whether bitsandbytes quantises the tensor: a matrix that is neither an embedding nor the output layer."""
    return len(shape) == 2 and name.endswith(".weight") and "embed" not in name and not name.startswith("lm_head")


def kv_token(config: Mapping[str, Any]) -> int | None:
    """Bytes of the keys and values of one token in bf16; None if the configuration does not give their shape."""
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    hidden, head_dim = config.get("hidden_size"), config.get("head_dim")
    if not head_dim and isinstance(hidden, int) and isinstance(heads, int) and heads:
        head_dim = hidden // heads
    if not (isinstance(layers, int) and isinstance(kv_heads, int) and isinstance(head_dim, int)):
        return None
    return 2 * 2 * layers * kv_heads * head_dim
