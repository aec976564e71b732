"""The memory of a forward and backward pass, from tensors without data: nothing is allocated or computed.

PyTorch's `FakeTensorMode` gives each operation's results their shape and type, as if on a CPU. A dispatch mode notes
when each of them appears and is freed.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class StepSettings:
    """How a step is computed.

    Attributes:
        autocast: Under bf16 autocast.
        recompute: With gradient checkpointing.
    """

    autocast: bool
    recompute: bool


def simulated_peak(model: Any, settings: StepSettings, layers: int, shape: tuple[int, int, int]) -> int:
    """Most bytes in a step of a causal language model, without weights and their gradients.

    Only the first `layers` layers are passed.

    Args:
        model: On the meta device; it is not changed.
        shape: Rows, tokens of a row, and completion tokens of a row.

    Raises:
        Exception: of any type, for a model whose operations depend on data.
    """
    rows, length, completion = shape
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with ExitStack() as stack:
        stack.enter_context(_first_layers(model, layers))
        stack.enter_context(mode)
        stack.enter_context(_fake_weights(model))
        stack.enter_context(_training(model, settings.recompute))
        ids = torch.zeros(rows, length, dtype=torch.long)
        live = _LiveBytes(itertools.chain(model.parameters(), model.buffers(), (ids,)))
        stack.enter_context(live)
        with torch.autocast("cpu", torch.bfloat16) if settings.autocast else nullcontext():
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                position_ids=ids,
                use_cache=False,
                logits_to_keep=completion + 1,
            ).logits[:, :-1]
            labels = torch.zeros(rows * completion, dtype=torch.long)
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), labels)
        del logits
        torch.autograd.backward(loss)
        gradients = {live.number(p.grad) for p in model.parameters() if p.grad is not None}
        model.zero_grad()
    return live.peak_without(gradients)


def blocks(model: Any) -> Any:
    """The layers of a transformer: its longest `ModuleList`."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len, default=torch.nn.ModuleList())


def are_alike(layers: Any) -> bool:
    """Whether all layers have parameters of the same shapes."""
    shapes = {tuple((name, tuple(value.shape)) for name, value in layer.named_parameters()) for layer in layers}
    return len(shapes) == 1


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the storages that appear and are freed while it is active, without those of `known` tensors."""

    def __init__(self, known: Iterator[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = {tensor.untyped_storage()._cdata: -1 for tensor in known}
        self._events: list[tuple[int, int]] = []  # number of a storage, and bytes that it adds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self._numbers:
                storage = tensor.untyped_storage()
                number, size = len(self._events), storage.nbytes()
                self._numbers[key] = number
                self._events.append((number, size))
                weakref.finalize(storage, self._freed, key, number, size)
        return out

    def _freed(self, key: int, number: int, size: int) -> None:
        del self._numbers[key]
        self._events.append((number, -size))

    def number(self, tensor: Any) -> int:
        return self._numbers.get(tensor.untyped_storage()._cdata, -1)

    def peak_without(self, numbers: set[int]) -> int:
        """The most bytes at once, some storages left out."""
        sizes = (size for number, size in self._events if number not in numbers)
        return max(itertools.accumulate(sizes), default=0)


@contextmanager
def _first_layers(model: Any, count: int) -> Iterator[None]:
    """The model with its first layers only."""
    whole = blocks(model)
    places = [(parent, name) for parent in model.modules() for name, child in parent.named_children() if child is whole]
    for parent, name in places:
        setattr(parent, name, whole[:count])
    try:
        yield
    finally:
        for parent, name in places:
            setattr(parent, name, whole)


@contextmanager
def _fake_weights(model: Any) -> Iterator[None]:
    """The model with tensors on a CPU, without data, in place of those on the meta device; shared ones stay shared."""
    made: dict[int, Any] = {}
    before: list[tuple[dict[str, Any], str, Any]] = []
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is not None:
                    before.append((tensors, name, value))
    for tensors, name, value in before:
        if id(value) not in made:
            fake = torch.empty(value.shape, dtype=value.dtype, device="cpu")
            is_parameter = isinstance(value, torch.nn.Parameter)
            made[id(value)] = torch.nn.Parameter(fake, value.requires_grad) if is_parameter else fake
        tensors[name] = made[id(value)]
    try:
        yield
    finally:
        for tensors, name, value in before:
            tensors[name] = value


@contextmanager
def _training(model: Any, recompute: bool) -> Iterator[None]:
    was_training = model.training
    model.train()
    if recompute:
        model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        model.enable_input_require_grads()
    try:
        yield
    finally:
        if recompute:
            model.disable_input_require_grads()
            model.activation_checkpointing_disable()
        model.train(was_training)
