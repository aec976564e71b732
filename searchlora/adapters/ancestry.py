"""Ancestry of an adapter: its parents in the store, the teachers of its training rows, and its training queries.

A judge must not grade runs of its own descendants or queries that it was trained on, so both are looked up here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from searchlora.adapters.listing import VersionSummary
from searchlora.adapters.merging import REPORT
from searchlora.adapters.store import Store
from searchlora.errors import BaseModelError, InvalidName, NotInStore
from searchlora.eval.judgments.lineage import query_hash
from searchlora.files import atomic_text, numbered_lines

#: File beside the weights: `query_hash` of each training query, sorted, one per line.
TRAINING_QUERIES = "training_queries.txt"


def ancestors(store: Store, reference: str) -> tuple[str, ...]:
    """References of all models that one was copied or trained further from, that were merged into its base,
    or that taught it or labelled its training rows.

    Each is named once, nearest first. The parents of an adapter that is not in the store are unknown; the adapter
    itself is still named. Cycles in damaged or forged manifests are followed once.

    Raises:
        InvalidName, NotInStore, ManifestError: for the adapter itself.
    """
    start = store.pin(reference)
    return tuple(parent for parent, _ in _family(store, start) if parent != start)


def training_queries(store: Store, reference: str) -> tuple[str, ...] | None:
    """Sorted hashes of the queries that an adapter was trained on, with those of its parents and its merged base.

    Returns:
        None if they are unknown: the adapter was stored before queries were recorded, its task reads no query, or a
        parent is not in the store.

    Raises:
        InvalidName, NotInStore, ManifestError: for the adapter itself.
    """
    hashes: set[str] = set()
    start = store.pin(reference)
    family = _family(store, start, weights_only=True)
    for version, summary in [(start, store.summary(start)), *family]:
        if summary is None:
            return None
        file = store.get(version).path / TRAINING_QUERIES
        if file.is_file():
            hashes |= {line.strip() for _, line in numbered_lines(file)}
        elif not summary.parents:
            return None
    return tuple(sorted(hashes))


def merged_adapter(model: Path) -> str | None:
    """The adapter that `export_merged` merged into a model; None if there is no report. Raises `BaseModelError`."""
    report = model / REPORT
    if not report.is_file():
        return None
    try:
        return str(json.loads(report.read_text(encoding="utf-8"))["adapter"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BaseModelError(
            "does not say which adapter was merged", where=str(report), fix="Export the adapter again."
        ) from None


def write_training_queries(folder: Path, queries: Iterable[str], hashes: Iterable[str] = ()) -> Path:
    """Write `training_queries.txt`, which is stored beside the weights.

    Args:
        hashes: Of the training queries of the adapters that this one was made from.

    It holds hashes, so an adapter does not disclose the queries of users. A hash still shows whether a known query was
    among them, which is its purpose.
    """
    with atomic_text(folder / TRAINING_QUERIES) as out:
        out.writelines(f"{digest}\n" for digest in sorted({*hashes, *map(query_hash, queries)}))
    return folder / TRAINING_QUERIES


def _family(store: Store, start: str, *, weights_only: bool = False) -> Iterator[tuple[str, VersionSummary | None]]:
    """Breadth-first walk over the ancestors of an exact version, each once: reference and summary, None if it is not in
    the store.
    """
    seen: set[str] = {start}
    waiting = _parents(store, start, store.summary(start), weights_only)
    while waiting:
        parent = waiting.pop(0)
        if parent in seen:
            continue
        seen.add(parent)
        try:
            summary = store.summary(parent)
        except (InvalidName, NotInStore):  # also a teacher that is no adapter, `base NAME`
            yield parent, None
            continue
        yield parent, summary
        waiting += _parents(store, parent, summary, weights_only)


def _parents(store: Store, version: str, summary: VersionSummary, weights_only: bool) -> list[str]:
    merged = _merged_into_base(summary)
    if weights_only:
        has_own = (store.get(version).path / TRAINING_QUERIES).is_file()
        return merged if has_own else [*summary.parents, *merged]
    return [*summary.parents, *merged, *summary.teachers]


def _merged_into_base(summary: VersionSummary) -> list[str]:
    try:
        folder = Path(summary.base.name).expanduser()
    except RuntimeError:  # the home directory of an unknown user
        return []
    merged = merged_adapter(folder)
    return [] if merged is None else [merged]
