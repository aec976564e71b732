"""One copy of an encoder in memory for all of its adapters: rows of one forward pass may have different adapters.

PEFT computes a pass whose rows have different adapters (`adapter_names`). A pass whose rows have the same one, as the
documents of an index do, makes that one active instead, which copies no rows.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from searchlora.adapters.stored import StoredAdapter
    from searchlora.models.load import Precision

Vectors = NDArray[np.float32]

#: Texts of different callers that share a pass at most.
_TOGETHER = 32

#: The name under which `adapters.attach` attaches an adapter, and PEFT's name for rows without one.
_DEFAULT, _BASE = "default", "__base__"


@dataclass(eq=False)
class _Copy:
    """The model in one precision, with the adapters that are attached to it, the least recently used first."""

    model: Any
    adapted: Any = None  # the `PeftModel` around its transformer; None before the first adapter
    attached: OrderedDict[str, str] = field(default_factory=OrderedDict)
    number: int = 0

    def attach(self, adapter: StoredAdapter, max_adapters: int, dtype: Any = None) -> None:
        """Attach an adapter, in the place of the least recently used one if there are `max_adapters`."""
        from searchlora.adapters.attach import attach

        if adapter.reference not in self.attached:
            name, self.number = f"adapter{self.number}", self.number + 1  # PEFT refuses names with dots
            self.adapted = attach(self.model if self.adapted is None else self.adapted, adapter, name)
            if dtype is not None:
                self.model.to(dtype)
            self.attached[adapter.reference] = name
            while len(self.attached) > max_adapters:
                self.adapted.delete_adapter(self.attached.popitem(last=False)[1])
        self.attached.move_to_end(adapter.reference)

    @contextmanager
    def computing(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """A context in which each row of a pass has the adapter of that reference; None: none."""
        if self.adapted is None:
            yield
            return
        names = [_BASE if adapter is None else self.attached.get(adapter, adapter) for adapter in adapters]
        if len(set(names)) > 1:
            with self.adapted.base_model._enable_peft_forward_hooks(adapter_names=names):
                yield
        elif names[0] == _BASE:
            with self.adapted.disable_adapter():
                yield
        else:
            if self.adapted.active_adapter != names[0]:
                self.adapted.set_adapter(names[0], inference_mode=True)
            yield


class _Call(Future[Vectors]):
    """Texts of one caller that wait for a pass."""

    def __init__(self, texts: Sequence[str], adapter: str | None, check: Callable[[], object]) -> None:
        super().__init__()
        self.texts, self.adapter, self.check = texts, adapter, check


class SharedModel:
    """A sentence-transformers model, and any number of adapters of it. Safe for threads: forward passes take turns."""

    #: The adapter of a model that was given with one.
    DEFAULT = _DEFAULT

    def __init__(self, model: Any, adapted: Any = None, *, max_adapters: int = 64) -> None:
        self.model = model
        self._copies: dict[Precision, _Copy] = {"fp32": _Copy(model, adapted)}
        self._adapters: dict[str, StoredAdapter] = {}
        self._max_adapters = max_adapters
        self._lock = threading.RLock()
        self._waiting: deque[_Call] = deque()
        self._thread = ThreadPoolExecutor(1, "searchlora-encoder")

    def add(self, adapter: StoredAdapter) -> None:
        """Attach a stored adapter, whose load check has passed; rows name it by its reference."""
        with self._lock:
            self._copies["fp32"].attach(adapter, self._max_adapters)
            self._adapters[adapter.reference] = adapter

    def __len__(self) -> int:
        """Number of adapters that are attached."""
        return len(self._copies["fp32"].attached)

    @property
    def on_gpu(self) -> bool:
        """Whether the model is on an accelerator."""
        return bool(self.model.device.type != "cpu")

    @cached_property
    def tokenizer(self) -> Any:
        """A copy of the fast tokenizer that neither truncates nor pads; None for a slow one.

        The model changes these settings of its own tokenizer with each call, so other threads must not use that.
        """
        fast = getattr(self.model.tokenizer, "backend_tokenizer", None)
        if fast is None:
            return None
        tokenizer = copy.deepcopy(fast)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = self.model.tokenizer.split_special_tokens
        return tokenizer

    def encode(self, texts: Sequence[str], adapters: Sequence[str | None], precision: Precision = "fp32") -> Any:
        """The vectors of texts by one forward pass.

        Returns a float32 tensor on the model's device, shape (texts, dimensions). On a GPU the pass may still be
        running.
        """
        import torch
        from sentence_transformers.util import batch_to_device

        from searchlora.adapters.stored import check_hashes

        distinct = set(adapters)
        with self._lock:
            copied = self._copy(precision)
            dtype = None if copied.model is self.model else torch.bfloat16
            for reference in distinct:
                if reference is not None and reference in self._adapters:
                    if reference not in copied.attached:  # read again, perhaps long after its load check
                        check_hashes(self._adapters[reference])
                    copied.attach(self._adapters[reference], max(self._max_adapters, len(distinct)), dtype)
            with copied.computing(adapters), torch.inference_mode():
                inputs = batch_to_device(copied.model.preprocess(list(texts)), copied.model.device)
                return copied.model(inputs)["sentence_embedding"].float()

    def submit(
        self, texts: Sequence[str], adapter: str | None, check: Callable[[], object] = lambda: None
    ) -> Future[Vectors]:
        """Request the vectors of a few texts, which share a pass with those that other threads request meanwhile.

        A vector depends on the other rows of its pass by the rounding of float32. Passes are computed in a thread of
        this model, in the order of the requests.
        """
        call = _Call(texts, adapter, check)
        self._waiting.append(call)
        self._thread.submit(self._encode_waiting)
        return call

    def _encode_waiting(self) -> None:
        """One pass over the calls that wait, as many as fit; none if an earlier pass took them."""
        calls: list[_Call] = []
        while self._waiting and (not calls or _texts(calls) + len(self._waiting[0].texts) <= _TOGETHER):
            call = self._waiting.popleft()
            try:
                call.check()
                calls.append(call)
            except BaseException as error:
                call.set_exception(error)
        if calls:
            self._compute(calls)

    def _compute(self, calls: Sequence[_Call]) -> None:
        """One pass over calls; if it fails, one for each, so that an error reaches its own caller only."""
        rows = [(text, call.adapter) for call in calls for text in call.texts]
        try:
            vectors = self.encode([text for text, _ in rows], [adapter for _, adapter in rows]).cpu().numpy()
        except BaseException as error:
            if len(calls) == 1:
                calls[0].set_exception(error)
                return
        else:
            for call in calls:
                call.set_result(vectors[: len(call.texts)])
                vectors = vectors[len(call.texts) :]
            return
        for call in calls:  # not in the block above: the error holds the tensors of the failed pass
            self._compute([call])

    def _copy(self, precision: Precision) -> _Copy:
        import torch

        from searchlora.models.load import computed_in

        precision = computed_in(precision, self.model.device.type)
        if precision not in self._copies:
            own = self._copies["fp32"]
            model, adapted = copy.deepcopy((own.model, own.adapted))
            model.to(torch.bfloat16)
            self._copies[precision] = _Copy(model, adapted, own.attached.copy(), own.number)
        return self._copies[precision]


def _texts(calls: Sequence[_Call]) -> int:
    return sum(len(call.texts) for call in calls)
