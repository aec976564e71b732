"""The number of a base's parameters, and the memory that is free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from searchlora.models.fingerprint import tensor_shapes
from searchlora.models.resolve import read_json_object
from searchlora.threads import control_groups


def base_parameters(folder: Path) -> int:
    """The parameters of the base in a folder, from the headers of its files; tied embeddings count once."""
    config = read_json_object(folder / "config.json")
    shapes = tensor_shapes(folder, tied=bool(config.get("tie_word_embeddings")))
    return sum(math.prod(shape) for shape in shapes.values())


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


def free_memory(target: Literal["cpu", "cuda"]) -> int:
    """Bytes that a model can still take in the main memory or on the GPU."""
    if target == "cpu":
        return available_memory()
    import torch

    return int(torch.cuda.mem_get_info()[0])


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
