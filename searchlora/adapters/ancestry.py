"""Where an adapter comes from: its ancestors, and the queries that it was trained on. A judge is asked for both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from searchlora.adapters.exporting import REPORT
from searchlora.adapters.manifest import Manifest
from searchlora.adapters.store import Store
from searchlora.errors import BaseModelError, NotInStore
from searchlora.eval.files import atomic_text, numbered_lines
from searchlora.eval.judgments.lineage import query_hash

#: Beside the weights: `query_hash` of each query seen in training, sorted, one a line.
TRAINING_QUERIES = "training_queries.txt"


def ancestors(store: Store, reference: str) -> tuple[str, ...]:
    """References of all that an adapter was combined or copied from, or that was merged into its base, each once.

    The parents stand first.

    The parents of one that is not in the store are not known; the one itself is still named.

    Raises:
        InvalidName, NotInStore, ManifestError: for the adapter itself.
    """
    found: dict[str, None] = {}
    waiting = _parents(store.get(reference).manifest)
    while waiting:
        parent = waiting.pop(0)
        if parent not in found:
            found[parent] = None
            with suppress(NotInStore):
                waiting += _parents(store.get(parent).manifest)
    return tuple(found)


def training_queries(store: Store, reference: str) -> tuple[str, ...] | None:
    """Sorted hashes of the queries that an adapter was trained on; of a combined one, those of all its parents.

    What was merged into its base was trained, too.

    Returns:
        None where they are not known: stored before they were recorded, of a task that reads no query, or a parent is
        not in the store.

    Raises:
        InvalidName, NotInStore, ManifestError: for the adapter itself.
    """
    stored = store.get(reference)
    file = stored.path / TRAINING_QUERIES
    if file.is_file():
        found = {line.strip() for _, line in numbered_lines(file)}
        others = _merged_into_base(stored.manifest)
    else:
        found = set()
        others = _parents(stored.manifest)
        if not stored.manifest.parents:
            return None
    for parent in others:
        try:
            of_parent = training_queries(store, parent)
        except NotInStore:
            return None
        if of_parent is None:
            return None
        found.update(of_parent)
    return tuple(sorted(found))


def merged_adapter(model: Path) -> str | None:
    """The adapter that was merged into a model by `export_merged`; None where its folder tells of none.

    Raises:
        BaseModelError: when what the folder tells cannot be read.
    """
    report = model / REPORT
    if not report.is_file():
        return None
    try:
        return str(json.loads(report.read_text(encoding="utf-8"))["adapter"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BaseModelError(
            "does not say which adapter was merged", where=str(report), fix="Export the adapter again."
        ) from None


def write_training_queries(folder: Path, queries: Iterable[str]) -> Path:
    """Write the file that goes beside the weights. Hashes, so that an adapter does not hand on what was typed.

    (A hash still tells whether a query that one has was among them. That is what it is for.)
    """
    with atomic_text(folder / TRAINING_QUERIES) as out:
        out.writelines(f"{each}\n" for each in sorted({query_hash(query) for query in queries}))
    return folder / TRAINING_QUERIES


def _parents(manifest: Manifest) -> list[str]:
    return [*manifest.parents, *_merged_into_base(manifest)]


def _merged_into_base(manifest: Manifest) -> list[str]:
    merged = merged_adapter(Path(manifest.base.name).expanduser())
    return [] if merged is None else [merged]
