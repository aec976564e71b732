"""The core of an engine whose rows wear adapters of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from searchlora.inference.batched.decode import Writer
from searchlora.inference.batched.forward import Forward
from searchlora.inference.batched.lora_slots import Slots
from searchlora.inference.batched.model_runner import Passes
from searchlora.inference.batched.prefill import Reader
from searchlora.inference.batched.prefix_cache import Prefixes
from searchlora.inference.scheduling.engine_core import Core, Counts
from searchlora.inference.scheduling.requests import Limits


def batched_core(
    model: Any, stop_id: int, fetch: Callable[[str], Path], *, slots: int, limits: Limits, prefix_tokens: int
) -> Core:
    """A core for writing and scoring with one model and many adapters.

    Args:
        model: One that `forward.fits`; it is taken over.
        fetch: Gives the checked folder of an adapter.
        slots: Adapters that are loaded at once.
        prefix_tokens: Of prompts' beginnings that are kept.
    """
    forward, counts = Forward(model), Counts()
    prefixes = Prefixes(prefix_tokens)
    reader = Reader(forward, prefixes, limits, counts)
    adapters = Slots(forward.projections, slots, fetch, prefixes.forget, counts)
    machine = Passes(Writer(reader, stop_id), reader, adapters, limits, counts)
    return Core(machine, adapters, counts, limits, forward.vocabulary)
