"""A GPU of the meta device, which counts kernels and the points at which the host waits for it.

A tensor on the meta device has no numbers, so that whatever reads one fails, unless it is counted here. Everything that
asks whether a tensor is on the CPU takes the path of a GPU.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Functions that wait for all kernels before, by name.
WAITS = {"tolist", "item", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__", "numpy"}

#: Functions that copy numbers of Python to the device and wait for it.
MAKES = {"tensor", "as_tensor", "new_tensor"}

#: Operators that launch no kernel although they are not views.
_NO_KERNEL = {"aten::empty", "aten::detach", "aten::_unsafe_view", "aten::empty_like", "aten::new_empty"}


class Kernels(TorchDispatchMode):
    """Counts operators that write a tensor on the meta device, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.most_elements = 0  # of one tensor that an operator made

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        result = func(*args, **(kwargs or {}))
        written = [each for each in tree_leaves(result) if isinstance(each, torch.Tensor) and each.is_meta]
        name = func._schema.name
        if written and not func.is_view and name not in _NO_KERNEL:
            self.counts[name] += 1
            if not name.endswith("_"):  # in place: nothing is allocated
                self.most_elements = max(self.most_elements, *(each.numel() for each in written))
        return result

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class Host(TorchFunctionMode):
    """Counts where the host waits for the device, and copies to the device that it waits for.

    Attention is one kernel, as on a GPU; its masks are recorded.
    """

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.copies = 0
        self.attention: list[dict[str, object]] = []
        self._kernels = kernels

    def __torch_function__(self, func, types, args=(), kwargs=None):
        del types
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, key, value = args[:3]
            self.attention.append({"query": query.shape, "key": key.shape, **kwargs})
            self._kernels.counts["attention"] += 1
            with torch._C.DisableTorchFunction():
                return query.new_empty(*query.shape[:-1], value.shape[-1])
        on_device = bool(args) and isinstance(args[0], torch.Tensor) and args[0].is_meta
        if on_device and name in WAITS:
            self.waits[name] += 1
            zeros = torch.zeros(args[0].shape, dtype=args[0].dtype)
            return zeros if name == "cpu" else func(zeros)
        result = func(*args, **kwargs)
        if name in MAKES and isinstance(result, torch.Tensor) and result.is_meta:
            self.waits["copy to the device"] += 1
        if name == "to" and not on_device and isinstance(result, torch.Tensor) and result.is_meta:
            self.copies += 1
            if not kwargs.get("non_blocking"):
                self.waits["copy to the device"] += 1
        return result
