"""Pooling: the documents that several runs put on top, to be judged once each.

As at TREC: the union of the first `depth` documents of every run (K. Spärck Jones and C. J. van Rijsbergen, 1975,
"Report on the need for and provision of an 'ideal' information retrieval test collection").
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

from searchlora.errors import UsageError
from searchlora.eval.trec import Run, ranked


def pool(runs: Mapping[str, Run], depth: int, *, seed: int = 0) -> dict[str, dict[str, int]]:
    """Topic -> document -> how many of the runs have it among their first `depth`.

    The documents stand in an order made from a hash of seed, topic and document, which says nothing of who found them
    or at which rank. Topics stand as the runs first name them; one for which no run found anything is not there.

    Raises:
        UsageError: when `depth` is less than 1 or there is no run.
    """
    if depth < 1:
        raise UsageError(f"a pool cannot have the depth {depth}", fix="Give 1 or more.")
    if not runs:
        raise UsageError("there is no run to pool")
    found: dict[str, Counter[str]] = {}
    for run in runs.values():
        for topic, scores in run.items():
            found.setdefault(topic, Counter()).update(ranked(scores)[:depth])
    return {topic: _shuffled(topic, counts, seed) for topic, counts in found.items() if counts}


def _shuffled(topic: str, counts: Mapping[str, int], seed: int) -> dict[str, int]:
    def place(document: str) -> str:
        return hashlib.sha256(f"{seed}\t{topic}\t{document}".encode()).hexdigest()

    return {document: counts[document] for document in sorted(counts, key=place)}
