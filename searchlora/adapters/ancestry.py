"""Where an adapter comes from: its ancestors, and the queries that it was trained on. A judge is asked for both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.errors import NotInStore
from searchlora.eval.files import atomic_text, numbered_lines
from searchlora.eval.judgments.lineage import query_hash

#: Beside the weights: `query_hash` of each query seen in training, sorted, one a line.
TRAINING_QUERIES = "training_queries.txt"


def ancestors(store: Store, reference: str) -> tuple[str, ...]:
    """References of everything that an adapter was combined or copied from, the parents first, each once.

    The parents of one that is not in the store are not known; the one itself is still named.

    Raises:
        InvalidName, NotInStore, ManifestError: for the adapter itself.
    """
    found: dict[str, None] = {}
    waiting = list(store.get(reference).manifest.parents)
    while waiting:
        parent = waiting.pop(0)
        if parent not in found:
            found[parent] = None
            waiting += _parents(store, parent)
    return tuple(found)


def training_queries(store: Store, reference: str) -> tuple[str, ...] | None:
    """Sorted hashes of the queries that an adapter was trained on; of a combined one, those of all its parents.

    Returns:
        None where they are not known: stored before they were recorded, of a task that reads no query, or a parent is
        not in the store.

    Raises:
        InvalidName, NotInStore, ManifestError: for the adapter itself.
    """
    stored = store.get(reference)
    file = stored.path / TRAINING_QUERIES
    if file.is_file():
        return tuple(line.strip() for _, line in numbered_lines(file))
    found: set[str] = set()
    for parent in stored.manifest.parents:
        try:
            of_parent = training_queries(store, parent)
        except NotInStore:
            return None
        if of_parent is None:
            return None
        found.update(of_parent)
    return tuple(sorted(found)) if stored.manifest.parents else None


def write_training_queries(folder: Path, queries: Iterable[str]) -> Path:
    """Write the file that goes beside the weights. Hashes, so that an adapter does not hand on what was typed.

    (A hash still tells whether a query that one has was among them. That is what it is for.)
    """
    with atomic_text(folder / TRAINING_QUERIES) as out:
        out.writelines(f"{each}\n" for each in sorted({query_hash(query) for query in queries}))
    return folder / TRAINING_QUERIES


def _parents(store: Store, reference: str) -> list[str]:
    try:
        return store.get(reference).manifest.parents
    except NotInStore:
        return []
