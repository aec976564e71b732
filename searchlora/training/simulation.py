"""The memory of a forward and backward pass, from tensors without data: nothing is allocated or computed.

PyTorch's `FakeTensorMode` gives each operation's results their shape and type, as if on a CPU. A dispatch mode notes
when each of them appears and is freed.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import astuple, dataclass
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


@dataclass(frozen=True)
class StepMemory:
    """Most bytes in parts of a step, without weights.

    Attributes:
        begin: Until the gradient of the last layer's input is there, with the gradients of weights so far.
        begin_without: The same without the gradients of weights.
        end: From then on, without them.
    """

    begin: int
    begin_without: int
    end: int

    def towards(self, other: StepMemory, share: float) -> StepMemory:
        """On the line from this one, where `share` is 0, to the other, where it is 1."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return StepMemory(*(round(before + share * (after - before)) for before, after in pairs))


def simulated_step(model: Any, settings: StepSettings, layers: int, shape: tuple[int, int, int]) -> StepMemory:
    """The memory of a step of a causal language model.

    Only the first `layers` layers are passed.

    Args:
        model: On the meta device; it is not changed.
        shape: Rows, tokens of a row, and completion tokens of a row.

    Raises:
        Exception: of any type, for a model whose operations depend on data.
    """
    rows, length, completion = shape
    last = blocks(model)[layers - 1]  # another list may be the longest of the shortened model
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with ExitStack() as stack:
        stack.enter_context(_first_layers(model, layers))
        stack.enter_context(mode)
        stack.enter_context(_fake_weights(model))
        stack.enter_context(_training(model, settings.recompute))
        ids, mask = torch.zeros(rows, length, dtype=torch.long), torch.ones(rows, length, dtype=torch.long)
        live = _LiveBytes(itertools.chain(model.parameters(), model.buffers(), (ids, mask)))
        stack.enter_context(_marking_the_gradient_of_the_input(last, live))
        stack.enter_context(live)
        with torch.autocast("cpu", torch.bfloat16) if settings.autocast else nullcontext():
            logits = model(
                input_ids=ids, attention_mask=mask, position_ids=ids, use_cache=False, logits_to_keep=completion + 1
            ).logits[:, :-1]
            labels = torch.zeros(rows * completion, dtype=torch.long)
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), labels)
        del logits
        torch.autograd.backward(loss)
        gradients = {live.number(p.grad) for p in model.parameters() if p.grad is not None}
        model.zero_grad()
    return live.step(gradients)


@contextmanager
def _marking_the_gradient_of_the_input(block: Any, live: _LiveBytes) -> Iterator[None]:
    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.requires_grad:
            hidden.register_hook(lambda _: live.mark())

    hook = block.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


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
        self._marked = sys.maxsize

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

    def mark(self) -> None:
        """Note that the beginning of the step has ended; only the first call counts."""
        self._marked = min(self._marked, len(self._events))

    def step(self, gradients: set[int]) -> StepMemory:
        """The memory of the step, by the numbers of the weights' gradients."""
        every = [size for _, size in self._events]
        others = [0 if number in gradients else size for number, size in self._events]
        without = list(itertools.accumulate(others))
        return StepMemory(
            max(itertools.accumulate(every[: self._marked]), default=0),
            max(without[: self._marked], default=0),
            max(without[self._marked :], default=0),
        )


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
