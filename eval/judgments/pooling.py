"""Pooling: the documents that several runs put on top, to be judged once each.

As at TREC: the union of the first `depth` documents of every run (K. Spärck Jones and C. J. van Rijsbergen, 1975,
"Report on the need for and provision of an 'ideal' information retrieval test collection").
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from searchlora.errors import DataError, UsageError
from searchlora.eval.files import numbered_lines
from searchlora.eval.formats.json_text import json_object
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


def read_pairs(path: Path) -> dict[str, list[str]]:
    """Read the pairs to judge: topic -> documents. A pair that stands twice counts once.

    A line is words, `topic document` or of qrels, whose grade is not used; or a JSON object with `topic` and
    `document`.

    Raises:
        DataError: naming the line that is none of these, or when there is no pair.
    """
    pairs: dict[str, dict[str, None]] = {}
    for number, line in numbered_lines(path):
        topic, document = _pair(line, f"{path}, line {number}")
        pairs.setdefault(topic, {})[document] = None
    if not pairs:
        raise DataError("holds no pair", where=str(path), fix="A line is 'topic document'.")
    return {topic: list(documents) for topic, documents in pairs.items()}


def _pair(line: str, where: str) -> tuple[str, str]:
    if line.lstrip().startswith("{"):
        row = json_object(line, where)
        for name in ("topic", "document"):
            if not isinstance(row.get(name), str) or row[name].split() != [row[name]]:
                raise DataError(f"{name} is missing or is not one word of text", where=where)
        return row["topic"], row["document"]
    words = line.split()
    if len(words) not in (2, 4):
        raise DataError(
            f"has {len(words)} fields",
            where=where,
            fix="A line is 'topic document' or of qrels; a run is pooled, not read as pairs.",
        )
    return words[0], words[1 if len(words) == 2 else 2]


def _shuffled(topic: str, counts: Mapping[str, int], seed: int) -> dict[str, int]:
    def place(document: str) -> str:
        return hashlib.sha256(f"{seed}\t{topic}\t{document}".encode()).hexdigest()

    return {document: counts[document] for document in sorted(counts, key=place)}
