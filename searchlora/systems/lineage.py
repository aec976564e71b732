"""Lineage: the adapters and base models of a system with their ancestors, and topics seen in training."""

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
from searchlora.task import EncoderTask, GenerationTask


def base_reference(base: str) -> str:
    """The reference of a bare base model in lineages; it does not depend on the machine."""
    return f"base {public_name(base)}"


def base_lineage(store: Store, base: str) -> tuple[str, ...]:
    """References of a bare base model: its own, and those of an adapter merged into it."""
    merged = merged_adapter(Path(base).expanduser())
    if merged is None:
        return (base_reference(base),)
    try:
        return (base_reference(base), merged, *ancestors(store, merged))
    except NotInStore:
        return (base_reference(base), merged)


def base_queries(store: Store, base: str) -> tuple[str, ...] | None:
    """Training queries of the adapter merged into a base: empty if there is none, None if they are unknown."""
    merged = merged_adapter(Path(base).expanduser())
    if merged is None:
        return ()
    try:
        return training_queries(store, merged)
    except NotInStore:
        return None


def run_lineage(store: Store, adapters: Sequence[str], bare: Sequence[str] = ()) -> RunLineage:
    """The lineage of a system: pinned adapters with their ancestors, and bare base models."""
    references: dict[str, None] = {}
    for adapter in adapters:
        references |= dict.fromkeys((adapter, *ancestors(store, adapter)))
    for base in bare:
        references |= dict.fromkeys(base_lineage(store, base))
    return RunLineage(tuple(references))


def seen_in_training(
    store: Store,
    adapter: StoredAdapter,
    task: GenerationTask | EncoderTask,
    dataset: Dataset,
    split: str,
    records: Sequence[Record],
) -> tuple[str, ...] | None:
    """Ids of the records whose query the adapter was trained on; None if unknown.

    The builder ensures that the test split of the training dataset shares no input with its other splits. In other
    datasets, and if a parent was trained on another one, records are compared by their query. Of records with further
    input, such as a conversation or a passage, only those of new queries are known to be new, since the same query with
    other input is another record. Those of known queries are skipped; if every record has further input and some
    queries are known, the result is unknown.
    """
    trained_on = adapter.manifest.dataset
    if split != "test" and trained_on is not None and trained_on.fingerprint == dataset.fingerprint:
        return tuple(str(record["id"]) for record in records)
    trained = _queries_outside(store, adapter, dataset)
    if trained is None:
        return None
    reads = task.reads if isinstance(task, GenerationTask) else {}
    other_fields = [field for field, source in reads.items() if source != "query"]

    def is_whole_input(record: Record) -> bool:
        """Whether the query is all that the record has as input."""
        return not any(record.get(field) for field in other_fields)

    queried = [record for record in records if task.query(record) is not None]
    known = [record for record in queried if query_hash(str(task.query(record))) in trained]
    if trained and (known or not queried) and not any(map(is_whole_input, queried)):
        return None
    return tuple(str(record["id"]) for record in known if is_whole_input(record))


def _queries_outside(store: Store, adapter: StoredAdapter, dataset: Dataset) -> set[str] | None:
    """Hashes of the queries that an adapter was trained on outside of a dataset, with those of its parents and base.

    Parents are followed as long as they were trained on the dataset: another one may have seen its test rows. The
    queries of a parent that is not in the store are among those that the adapter lists itself.

    Returns None if they are unknown.
    """
    queries: set[str] = set()
    visited: set[str] = set()
    waiting = [adapter]
    while waiting:
        stored = waiting.pop()
        if stored.reference in visited:
            continue
        visited.add(stored.reference)
        trained_on, parents = stored.manifest.dataset, _stored_parents(store, stored)
        if trained_on is not None and trained_on.fingerprint == dataset.fingerprint and parents is not None:
            waiting += parents
            known = base_queries(store, stored.manifest.base.name)
        else:
            known = training_queries(store, stored.reference)
        if known is None:
            return None
        queries.update(known)
    return queries


def _stored_parents(store: Store, adapter: StoredAdapter) -> list[StoredAdapter] | None:
    """The parents of an adapter; None if one is not in the store."""
    try:
        return [store.get(parent) for parent in adapter.manifest.parents]
    except NotInStore:
        return None


def learned_queries(dataset: Dataset, task: GenerationTask) -> tuple[str, ...]:
    """Hashes of the queries from which a classical model learns when a pipeline is loaded."""
    rows = (record for split in ("train", "validation") for record in dataset.records(split))
    return tuple(dict.fromkeys(query_hash(query) for row in rows if (query := task.query(row)) is not None))


def seen_in_learning(
    learned: Dataset, task: GenerationTask, dataset: Dataset, split: str, records: Sequence[Record]
) -> tuple[str, ...]:
    """Ids of the records whose query a classical model learned from; none of the test split of its own dataset."""
    if learned.fingerprint == dataset.fingerprint:
        return () if split == "test" else tuple(str(record["id"]) for record in records)
    known = set(learned_queries(learned, task))
    asked = ((str(record["id"]), task.query(record)) for record in records)
    return tuple(id_ for id_, query in asked if query is not None and query_hash(query) in known)


def seen_by_run(store: Store, card: RunCard | None, topics: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...] | None:
    """The topics whose query an adapter of the run, or its `ranking_queries`, were trained on; None if unknown.

    Topics with a conversation are skipped, as in `seen_in_training`.
    """
    if card is None or card.unknown_sources:
        return None
    seen: set[str] = set(card.ranking_queries)
    for adapter in card.adapters:
        try:
            known = training_queries(store, adapter)
        except NotInStore:
            return None
        if known is None:
            return None
        seen.update(known)
    without_history = {topic: str(fields["query"]) for topic, fields in topics.items() if not fields.get("history")}
    if seen and not without_history:
        return None
    return tuple(topic for topic, query in without_history.items() if query_hash(query) in seen)
