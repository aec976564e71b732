"""The variants of an ablation: which can be made, and which the index and the store can execute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, index_folder
from searchlora.errors import LoadCheckFailed, PipelineError, StaleIndex, UsageError
from searchlora.experiments.options import Kind
from searchlora.pipelines.slots import FULL, Place, Slot, Variant, find_slots, with_base, with_older, without
from searchlora.pipelines.stages.stage import BuildContext, Needs, StageSettings
from searchlora.systems.models import check_loads
from searchlora.task import load_task


def chosen_slots(stages: Sequence[StageSettings], only: Sequence[str], source: str) -> tuple[Slot, ...]:
    """The slots of some names; empty: all. Raises `UsageError` for a name that no slot has."""
    slots = find_slots(stages)
    known = ", ".join(slot.name for slot in slots) or "none"
    for name in only:
        if name not in [slot.name for slot in slots]:
            raise UsageError(f"the pipeline has no slot '{name}'", where=source, fix=f"Its slots: {known}.")
    return tuple(slot for slot in slots if not only or slot.name in only)


def single_variants(
    stages: Sequence[StageSettings],
    slots: Sequence[Slot],
    kinds: Sequence[Kind],
    store: Store,
    tasks: str | Path | None,
) -> tuple[list[Variant], dict[str, str]]:
    """The unchanged pipeline and those with one changed slot; and which cannot be made, with the reason."""
    variants: list[Variant | None] = [Variant(FULL, tuple(stages))]
    left_out: dict[str, str] = {}
    for slot in slots:
        if "off" in kinds:
            try:
                variants.append(without(stages, slot))
            except PipelineError as error:
                left_out[f"without {slot.name}"] = error.what
        if "base" in kinds:
            variants.append(with_base(stages, slot))
        if "older" in kinds and (older := with_older(stages, slot, store)) is not None:
            try:
                stored = store.get(older.adapter)
                check_loads(stored, stored.manifest.base.resolve(), load_task(stored.manifest.task, tasks))
                variants.append(older)
            except LoadCheckFailed as error:
                left_out[older.name] = error.what
    return [variant for variant in variants if variant is not None], left_out


def with_vectors(
    variants: Sequence[Variant],
    slots: Sequence[Slot],
    corpus: Corpus | None,
    context: Callable[[], BuildContext],
    left_out: dict[str, str],
) -> list[Variant]:
    """The variants without those whose encoder the index has no vectors of; they are added to `left_out`.

    A corpus that is no index folder is encoded by each encoder, so that nothing can be missing.
    """
    places = {slot.name: slot.place for slot in slots}
    indexed = corpus is not None and index_folder(corpus) is not None
    usable = []
    for variant in variants:
        leaf = _at(variant.stages, places[variant.slots[0]]) if variant.kind in ("base", "older") else None
        needs = leaf.needs() if leaf is not None and leaf.produces_hits else Needs()
        if leaf is not None and (needs.encoders or needs.adapters) and (indexed or not needs.documents):
            try:
                leaf.build(context())
            except StaleIndex as error:
                left_out[variant.name] = f"{error.what} ({error.where})"
                continue
        usable.append(variant)
    return usable


def _at(stages: Sequence[StageSettings], place: Place) -> StageSettings:
    first, *parts = place
    return _at(stages[first].parts, tuple(parts)) if parts else stages[first]
