"""Who took part in what: the adapters in a system with their ancestors, and rows that an adapter was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.adapters.ancestry import ancestors, merged_adapter, training_queries
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import NotInStore
from searchlora.eval.judgments.card import RunCard
from searchlora.eval.judgments.lineage import RunLineage, query_hash
from searchlora.models.resolve import public_name
from searchlora.records import Record
from searchlora.task import EncoderTask, PromptedTask


def base_reference(base: str) -> str:
    """How lineages refer to a base model that works without an adapter; the same on every machine."""
    return f"base {public_name(base)}"


def base_lineage(store: Store, base: str) -> tuple[str, ...]:
    """References of a base model at work without an adapter: its own, and those of an adapter merged into it."""
    merged = merged_adapter(Path(base).expanduser())
    if merged is None:
        return (base_reference(base),)
    try:
        return (base_reference(base), merged, *ancestors(store, merged))
    except NotInStore:
        return (base_reference(base), merged)


def base_queries(store: Store, base: str) -> tuple[str, ...] | None:
    """`training_queries` of the adapter merged into a base, () where none is; None where they are not known."""
    merged = merged_adapter(Path(base).expanduser())
    if merged is None:
        return ()
    try:
        return training_queries(store, merged)
    except NotInStore:
        return None


def run_lineage(store: Store, adapters: Sequence[str], bare: Sequence[str] = ()) -> RunLineage:
    """The adapters in a system, pinned, and all that they were made from; and the bases at work without an adapter."""
    references: dict[str, None] = {}
    for adapter in adapters:
        references |= dict.fromkeys((adapter, *ancestors(store, adapter)))
    for base in bare:
        references |= dict.fromkeys(base_lineage(store, base))
    return RunLineage(tuple(references))


def seen_in_training(
    store: Store,
    adapter: StoredAdapter,
    task: PromptedTask | EncoderTask,
    dataset: Dataset,
    split: str,
    records: Sequence[Record],
) -> tuple[str, ...] | None:
    """Ids of the records whose query the adapter was trained on; None where that cannot be told.

    The test split of the dataset that it was trained on shares no input with the others (the builder sees to it), from
    which it learned and was chosen. In other data a record is compared by its query alone, so those that the model sees
    with more than a query (a conversation) are left out, for the same short question in another conversation is another
    input; where that leaves none, it cannot be told.
    """
    trained_on = adapter.manifest.dataset
    if trained_on is not None and trained_on.fingerprint == dataset.fingerprint:
        if split != "test":
            return tuple(str(record["id"]) for record in records)
        known = base_queries(store, adapter.manifest.base.name)
    else:
        known = training_queries(store, adapter.reference)
    if known is None:
        return None
    seen = set(known)
    reads = task.reads if isinstance(task, PromptedTask) else {}
    more = [field for field, source in reads.items() if source != "query"]
    told = {
        str(record["id"]): query_hash(query)
        for record in records
        if (query := task.query(record)) is not None and not any(record.get(field) for field in more)
    }
    if seen and not told:
        return None
    return tuple(id_ for id_, hashed in told.items() if hashed in seen)


def seen_by_run(store: Store, card: RunCard | None, topics: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...] | None:
    """The topics whose query an adapter at work in a run was trained on; None where that cannot be told.

    Topics that come with a conversation are left out, as in `seen_in_training`; where all do, it cannot be told.
    """
    if card is None:
        return None
    seen: set[str] = set()
    for adapter in card.adapters:
        try:
            known = training_queries(store, adapter)
        except NotInStore:
            return None
        if known is None:
            return None
        seen.update(known)
    alone = {topic: str(fields["query"]) for topic, fields in topics.items() if not fields.get("history")}
    if seen and not alone:
        return None
    return tuple(topic for topic, query in alone.items() if query_hash(query) in seen)
